//! A store behind a gate: it does what it is asked when the test opens it.

use async_trait::async_trait;
use countersign_core::{
    EndResult, Ending, EndingQuery, Endings, StoreError, StoreStats, SystemClock, TokenId, TokenStore,
};
use countersign_store::memory::MemoryStore;
use jiff::Timestamp;
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Gate {
    store: MemoryStore,
    waiting: Semaphore,
    open: Semaphore,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let (waiting, open) = (Semaphore::new(0), Semaphore::new(0));
        Self { store: MemoryStore::new(&SystemClock), waiting, open }
    }

    /// Waits until something is asked of the store.
    pub(crate) async fn asked(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }

    /// Lets so many calls through.
    pub(crate) fn open(&self, calls: usize) {
        self.open.add_permits(calls);
    }

    async fn pass(&self) {
        self.waiting.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl TokenStore for Gate {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        self.pass().await;
        self.store.end(id, expires, ending).await
    }
    async fn look(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        self.pass().await;
        self.store.look(id, expires).await
    }
    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        self.store.endings(query).await
    }
    async fn move_fence(&self, fence: Timestamp) -> Result<Timestamp, StoreError> {
        self.store.move_fence(fence).await
    }
    async fn purge(&self, line: Timestamp) -> Result<u64, StoreError> {
        self.store.purge(line).await
    }
    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.store.stats().await
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await
    }
    async fn close(&self) {}
}
