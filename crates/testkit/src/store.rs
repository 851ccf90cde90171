use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{
    EndResult, Ending, EndingQuery, Endings, Node, NodeList, StoreCounts, StoreError, StoreStats, StoreTimes,
    StoredRing, TokenId, TokenStore,
};
use jiff::Timestamp;

/// What a [`Hooked`] store is asked; with or without a version of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are named as the functions of `TokenStore` are")]
pub enum StoreCall {
    End,
    Look,
    Ring,
    ReplaceRing,
    Endings,
    MoveFence,
    Purge,
    Times,
    Stats,
    Ready,
    CheckIn,
    NodeList,
}

/// What a test does between a caller and the store. By default, nothing.
#[async_trait]
pub trait StoreHook: fmt::Debug + Send + Sync + 'static {
    /// Runs before each call, which does not reach the store if this fails.
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        let _ = call;
        Ok(())
    }

    /// Runs when the store has answered, and before the caller is answered.
    async fn after(&self, call: StoreCall) {
        let _ = call;
    }

    /// What the store is asked instead of this query.
    fn query(&self, query: &EndingQuery) -> EndingQuery {
        query.clone()
    }

    /// Ends a token's life; `ring` is `None` for a call without a version of the ring.
    async fn end(
        &self,
        store: &dyn TokenStore,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: Option<u64>,
    ) -> Result<EndResult, StoreError> {
        match ring {
            Some(ring) => store.end_with_ring(id, expires, ending, ring).await,
            None => store.end(id, expires, ending).await,
        }
    }
}

/// A store behind a test's hook.
#[derive(Debug)]
pub struct Hooked<H> {
    store: Arc<dyn TokenStore>,
    hook: H,
}

impl<H: StoreHook> Hooked<H> {
    /// Puts a hook before a store.
    pub fn new(store: Arc<dyn TokenStore>, hook: H) -> Arc<Self> {
        Arc::new(Self { store, hook })
    }

    async fn call<T>(
        &self,
        call: StoreCall,
        answer: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.hook.before(call).await?;
        let answer = answer.await;
        self.hook.after(call).await;
        answer
    }
}

/// What the hook holds.
impl<H> Deref for Hooked<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hook
    }
}

#[async_trait]
impl<H: StoreHook> TokenStore for Hooked<H> {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        self.call(StoreCall::End, self.hook.end(&*self.store, id, expires, ending, None)).await
    }

    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        self.call(StoreCall::Look, self.store.look_up(id, expires)).await
    }

    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        self.call(StoreCall::End, self.hook.end(&*self.store, id, expires, ending, Some(ring))).await
    }

    async fn look_up_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        self.call(StoreCall::Look, self.store.look_up_with_ring(id, expires, ring)).await
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.call(StoreCall::Ring, self.store.ring()).await
    }

    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        self.call(StoreCall::ReplaceRing, self.store.replace_ring(from, ring)).await
    }

    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        self.call(StoreCall::Endings, self.store.endings(&self.hook.query(query))).await
    }

    async fn move_fence(&self, line: Timestamp) -> Result<Timestamp, StoreError> {
        self.call(StoreCall::MoveFence, self.store.move_fence(line)).await
    }

    async fn purge(&self, line: Timestamp) -> Result<u64, StoreError> {
        self.call(StoreCall::Purge, self.store.purge(line)).await
    }

    fn take_moved_fences(&self) -> Vec<Timestamp> {
        self.store.take_moved_fences()
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        self.call(StoreCall::Times, self.store.times()).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.call(StoreCall::Stats, self.store.stats()).await
    }

    fn counts(&self) -> Option<StoreCounts> {
        self.store.counts()
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.call(StoreCall::Ready, self.store.ready()).await
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        self.call(StoreCall::CheckIn, self.store.check_in(node)).await
    }

    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        self.call(StoreCall::NodeList, self.store.node_list(now)).await
    }

    /// Leaves the store open: the test goes on looking into it when the server has stopped.
    async fn close(&self) {}
}
