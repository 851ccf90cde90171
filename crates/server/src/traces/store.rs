//! A store that makes a span of each call.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{
    EndResult, Ending, EndingQuery, Endings, Node, NodeList, StoreCounts, StoreError, StoreStats, StoreTimes,
    StoredRing, TokenId, TokenStore,
};
use jiff::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::current;

/// Makes a span of each call that is made for a request with a span.
#[derive(Debug)]
pub(super) struct TracedStore(pub(super) Arc<dyn TokenStore>);

async fn traced<T>(
    name: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
    says: Option<fn(&T) -> &'static str>,
) -> Result<T, StoreError> {
    let Some(current) = current() else { return call.await };
    let span = current.child(name, SpanKind::Internal);
    let answered = call.await;
    match &answered {
        Ok(answer) => {
            if let Some(says) = says {
                span.note(KeyValue::new("countersign.store.answer", says(answer)));
            }
        }
        // A span is of one call alone, and the caller tries again with the new ring: this store is not busy.
        Err(StoreError::OtherRing) => span.failed("other-ring"),
        // What the store says of its own trouble is for the log.
        Err(error) => span.failed(error.label()),
    }
    span.done();
    answered
}

fn word(end: &EndResult) -> &'static str {
    match end {
        EndResult::Recorded => "recorded",
        EndResult::Already(_) => "already",
        EndResult::Fenced => "fenced",
        EndResult::Forgotten => "forgotten",
    }
}

#[async_trait]
impl TokenStore for TracedStore {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        traced("store end", self.0.end(id, expires, ending), Some(word)).await
    }

    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        traced("store look", self.0.look_up(id, expires), Some(word)).await
    }

    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        traced("store end", self.0.end_with_ring(id, expires, ending, ring), Some(word)).await
    }

    async fn look_up_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        traced("store look", self.0.look_up_with_ring(id, expires, ring), Some(word)).await
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        traced("store ring", self.0.ring(), None).await
    }

    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        traced("store replace_ring", self.0.replace_ring(from, ring), None).await
    }

    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        traced("store endings", self.0.endings(query), None).await
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        traced("store move_fence", self.0.move_fence(to), None).await
    }

    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        traced("store purge", self.0.purge(cutoff), None).await
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        traced("store times", self.0.times(), None).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        traced("store stats", self.0.stats(), None).await
    }

    fn counts(&self) -> Option<StoreCounts> {
        self.0.counts()
    }

    async fn ready(&self) -> Result<(), StoreError> {
        traced("store ready", self.0.ready(), None).await
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    fn take_moved_fences(&self) -> Vec<Timestamp> {
        self.0.take_moved_fences()
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        traced("store check_in", self.0.check_in(node), None).await
    }

    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        traced("store node_list", self.0.node_list(now), None).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::Clock;
    use countersign_store::contract::{Subject, contract_tests};
    use countersign_store::memory::MemoryStore;

    use super::*;

    /// It passes on all that there is, also what a store need not have.
    struct Traced;

    #[async_trait]
    impl Subject for Traced {
        async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
            let store = TracedStore(Arc::new(MemoryStore::shared(&clock)));
            assert!(store.is_shared());
            Arc::new(store)
        }

        fn is_durable(&self) -> bool {
            false
        }
    }

    contract_tests!(Traced);
}
