//! A server with a store that is broken on purpose: it reads, and then writes.
//!
//! That is the classical bug of single-use tokens (CVE-2026-22751, CVE-2026-1035): between the look and the write,
//! another request can look as well. The trials have to find it, or they find nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_core::{
    Clock, EndResult, Ending, EndingQuery, Endings, LoginTokenSet, OsEntropy, Policy, StoreError, StoreStats,
    SystemClock, TokenId, TokenStore,
};
use countersign_server::{Address, App, KeyFile, ListenerConfig, Names, Server};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

use crate::TrialError;
use crate::client::Target;

/// Decides by a read that is followed by a write.
#[derive(Debug, Default)]
pub struct ReadThenWrite {
    endings: Mutex<BTreeMap<TokenId, Ending>>,
}

impl ReadThenWrite {
    fn endings(&self) -> MutexGuard<'_, BTreeMap<TokenId, Ending>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TokenStore for ReadThenWrite {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        let end = self.look_up(id, expires).await?;
        if end == EndResult::Recorded {
            // Where another store waits for its database.
            tokio::task::yield_now().await;
            self.endings().insert(id, ending);
        }
        Ok(end)
    }

    async fn look_up(&self, id: TokenId, _: Timestamp) -> Result<EndResult, StoreError> {
        Ok(self.endings().get(&id).map_or(EndResult::Recorded, |ending| EndResult::Already(ending.clone())))
    }

    async fn endings(&self, _: &EndingQuery) -> Result<Endings, StoreError> {
        Err(StoreError::unavailable("this store shows nothing"))
    }

    async fn move_fence(&self, line: Timestamp) -> Result<Timestamp, StoreError> {
        Ok(line)
    }

    async fn purge(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Err(StoreError::unavailable("this store does not count"))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// A server in this process, with the product's own routes and listeners, around any store.
#[derive(Debug)]
pub struct InProcess {
    target: Target,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl InProcess {
    /// Starts it; its key ring is kept in `place`.
    pub async fn start(store: Arc<dyn TokenStore>, place: &Path) -> Result<Self, TrialError> {
        let failed =
            |error: &dyn std::fmt::Display| TrialError::setup("cannot start a server in-process", error);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let any = ListenerConfig { address: Address::Tcp(([127, 0, 0, 1], 0).into()), tls: None };
        let server = Server::bind(any.clone(), any, false).await.map_err(|error| failed(&error))?;
        let public_url: Url = server.public_url()?.parse().map_err(|error| failed(&error))?;
        let target = Target::from_urls(public_url.as_str(), &server.private_url()?)
            .ok_or_else(|| failed(&"it does not say where it listens"))?;
        let key_file = KeyFile::new(place.join("key-ring.toml"));
        let keys = key_file.load_or_create(clock.now(), &OsEntropy).map_err(|error| failed(&error))?.0;
        let tokens = LoginTokenSet::new(keys, store, clock, Arc::new(OsEntropy), Policy::default());
        let app = App::new(tokens, key_file, Names::new("Trials".to_owned(), &public_url));
        let (stop, stopped) = oneshot::channel();
        // Whether it is told to stop or its owner is gone: both end it.
        let ended = tokio::spawn(server.run(Arc::new(app), Arc::default(), async { drop(stopped.await) }));
        Ok(Self { target, stop, ended })
    }

    /// Where it listens.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Stops it.
    pub async fn stop(self) {
        drop(self.stop);
        // It has nothing to say when it has ended.
        drop(self.ended.await);
    }
}
