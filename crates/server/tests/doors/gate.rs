//! A store behind a gate: it does what it is asked when the test opens it.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{StoreError, SystemClock};
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreCall, StoreHook};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Gate {
    waiting: Semaphore,
    open: Semaphore,
}

impl Gate {
    pub(crate) fn new() -> Arc<Hooked<Self>> {
        let gate = Self { waiting: Semaphore::new(0), open: Semaphore::new(0) };
        Hooked::new(Arc::new(MemoryStore::new(&SystemClock)), gate)
    }

    /// Waits until something is asked of the store.
    pub(crate) async fn asked(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }

    /// Lets so many calls through.
    pub(crate) fn open(&self, calls: usize) {
        self.open.add_permits(calls);
    }
}

#[async_trait]
impl StoreHook for Gate {
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        if matches!(call, StoreCall::End | StoreCall::Look) {
            self.waiting.add_permits(1);
            self.open.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}
