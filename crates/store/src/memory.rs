//! A store in memory; its records are lost when the process ends.
//!
//! It is for tests and demonstrations only. After a restart its fence stands at the new start. So no old token becomes
//! good again, but tokens that were issued before the restart and not yet redeemed are rejected as well.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Clock, EndResult, EndedToken, Ending, EndingQuery, Endings, Entropy, EventStore, Horizon, LIVE, Node,
    NodeId, NodeList, REMEMBERED, SeenNode, StoreError, StoreStats, StoreTimes, StoredRing, TokenId,
    TokenStore, after,
};
use jiff::Timestamp;

use crate::backend::{Backend, IfMissing};
use crate::error::{BackupError, OpenError, closed};
use crate::events::MemoryEvents;
use crate::moving::Movable;

/// A store in memory, named by its URL. It can be opened, and nothing else: there is none from outside its process.
#[derive(Debug)]
pub struct InMemory;

#[async_trait]
impl Backend for InMemory {
    async fn open(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        _: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn TokenStore>, OpenError> {
        match if_missing {
            IfMissing::Make => Ok(Arc::new(MemoryStore::new(&*clock))),
            IfMissing::Fail => Err(OpenError::OnlyInMemory),
        }
    }

    async fn inspect(&self, _: Arc<dyn Clock>, _: Arc<dyn Entropy>) -> Result<StoreStats, OpenError> {
        Err(OpenError::OnlyInMemory)
    }

    async fn backup(&self, _: &Path) -> Result<(), BackupError> {
        Err(OpenError::OnlyInMemory.into())
    }

    fn name(&self) -> Result<String, OpenError> {
        Err(OpenError::OnlyInMemory)
    }

    async fn movable(
        &self,
        _: IfMissing,
        _: Arc<dyn Clock>,
        _: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn Movable>, OpenError> {
        Err(OpenError::OnlyInMemory)
    }

    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(MemoryEvents::default())
    }
}

/// Keeps the records in this process's memory. See the [module](self): it forgets.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    /// The clock by which several servers go, if there may be several.
    shared_clock: Option<Arc<dyn Clock>>,
}

/// The version of what is kept.
const SCHEMA: u32 = 1;

#[derive(Debug)]
struct State {
    endings: BTreeMap<TokenId, Record>,
    fence: Timestamp,
    horizon: Horizon,
    nodes: BTreeMap<NodeId, CheckIn>,
    ring: Option<StoredRing>,
    closed: bool,
}

#[derive(Debug)]
struct CheckIn {
    node: Node,
    at: Timestamp,
}

#[derive(Debug)]
struct Record {
    expires: Timestamp,
    ending: Ending,
}

impl MemoryStore {
    /// A new, empty store, whose fence stands at the present moment.
    pub fn new(clock: &dyn Clock) -> Self {
        let now = clock.now();
        let state = State {
            endings: BTreeMap::new(),
            fence: now,
            horizon: Horizon::NONE,
            nodes: BTreeMap::new(),
            ring: None,
            closed: false,
        };
        Self { state: Mutex::new(state), shared_clock: None }
    }

    /// The same, for several servers in this process, as a database of many nodes would be; for tests.
    pub fn shared(clock: &Arc<dyn Clock>) -> Self {
        Self { shared_clock: Some(Arc::clone(clock)), ..Self::new(&**clock) }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        // Every change of the state is a single step, so a panic elsewhere cannot have left it half done.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(closed());
        }
        Ok(state)
    }
}

impl State {
    fn must_have(&self, ring: u64) -> Result<(), StoreError> {
        let there = self.ring.as_ref().map_or(0, |stored| stored.version);
        if there == ring { Ok(()) } else { Err(StoreError::OtherRing) }
    }

    fn look_up(&self, id: TokenId, expires: Timestamp) -> EndResult {
        if let Some(record) = self.endings.get(&id) {
            EndResult::Already(record.ending.clone())
        } else if id.created() < self.fence {
            EndResult::Fenced
        } else if self.horizon.is_beyond(id.created(), expires) {
            EndResult::Forgotten
        } else {
            EndResult::Recorded
        }
    }

    /// In a store that is not shared, every other node that has checked in is gone.
    fn node_list(&self, now: Timestamp, shared: bool, me: Option<NodeId>) -> NodeList {
        let seen = |(id, seen): (&NodeId, &CheckIn)| {
            let lately = if shared { now < after(seen.at, LIVE) } else { Some(*id) == me };
            let live = seen.node.serving && lately;
            SeenNode { node: seen.node.clone(), at: seen.at, live, schema: SCHEMA }
        };
        let remembered = self.nodes.iter().filter(|(_, seen)| after(seen.at, REMEMBERED) >= now);
        NodeList { now, nodes: remembered.map(seen).collect() }
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        self.end_with_ring(id, expires, ending, 0).await
    }

    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        self.look_up_with_ring(id, expires, 0).await
    }

    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        let mut state = self.state()?;
        state.must_have(ring)?;
        let end = state.look_up(id, expires);
        if end == EndResult::Recorded {
            state.endings.insert(id, Record { expires, ending });
        }
        Ok(end)
    }

    async fn look_up_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        let state = self.state()?;
        state.must_have(ring)?;
        Ok(state.look_up(id, expires))
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        Ok(self.state()?.ring.clone())
    }

    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        let mut state = self.state()?;
        if !self.is_shared() {
            return Err(StoreError::unavailable("it keeps no key ring: that is in the key file"));
        }
        let is_mine = state.must_have(from).is_ok();
        if is_mine {
            state.ring = Some(ring.clone());
        }
        Ok(is_mine)
    }

    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        let state = self.state()?;
        let (first, last) = query.ids();
        let mut found = Vec::new();
        let (mut below, mut looked_at) = (None, 0);
        for (&id, record) in state.endings.iter().rev().filter(|(id, _)| (first..=last).contains(*id)) {
            let ended = EndedToken { id, ending: record.ending.clone() };
            found.extend(query.covers(&ended).then_some(ended));
            looked_at += 1;
            if looked_at == query.look_at {
                below = Some(id);
                break;
            }
        }
        found.sort_by_key(|ended| std::cmp::Reverse((ended.ending.at(), ended.id)));
        if found.len() >= query.limit {
            found.truncate(query.limit);
            below = None;
        }
        Ok(Endings { found, below })
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        let mut state = self.state()?;
        state.fence = to.max(after(state.fence, Duration::from_millis(1)));
        Ok(state.fence)
    }

    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        let mut state = self.state()?;
        let State { endings, horizon, .. } = &mut *state;
        let before = endings.len();
        endings.retain(|id, record| {
            let stays = record.expires >= cutoff;
            if !stays {
                *horizon = horizon.over(id.created(), record.expires);
            }
            stays
        });
        Ok(count(before - endings.len()))
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        let state = self.state()?;
        Ok(StoreTimes {
            clock: self.shared_clock.as_ref().map(|clock| clock.now()),
            fence: state.fence,
            horizon: state.horizon,
            newest: state.endings.keys().next_back().map(TokenId::created),
        })
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.state()?;
        let revoked =
            state.endings.values().filter(|record| matches!(record.ending, Ending::Revoked { .. })).count();
        Ok(StoreStats {
            kind: "memory",
            schema: SCHEMA,
            consumed: count(state.endings.len() - revoked),
            revoked: count(revoked),
            fence: state.fence,
            horizon: state.horizon.expires,
            bytes: None,
        })
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.state().map(drop)
    }

    fn is_shared(&self) -> bool {
        self.shared_clock.is_some()
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        let now = self.shared_clock.as_ref().map_or(node.clock, |clock| clock.now());
        let mut state = self.state()?;
        state.nodes.retain(|_, seen| after(seen.at, REMEMBERED) >= now);
        state.nodes.insert(node.id, CheckIn { node: node.clone(), at: now });
        Ok(state.node_list(now, self.is_shared(), Some(node.id)))
    }

    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        let now = self.shared_clock.as_ref().map_or(now, |clock| clock.now());
        Ok(self.state()?.node_list(now, self.is_shared(), None))
    }

    async fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    }
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use countersign_core::{Clock, TokenStore};

    use super::MemoryStore;
    use crate::contract::{Subject, contract_tests};

    struct Memory;

    #[async_trait]
    impl Subject for Memory {
        async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
            Arc::new(MemoryStore::new(&*clock))
        }

        fn is_durable(&self) -> bool {
            false
        }
    }

    contract_tests!(Memory);

    /// As a database of many nodes is.
    mod shared {
        use super::*;

        struct SharedMemory;

        #[async_trait]
        impl Subject for SharedMemory {
            async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
                Arc::new(MemoryStore::shared(&clock))
            }

            fn is_durable(&self) -> bool {
                false
            }
        }

        contract_tests!(SharedMemory);
    }
}
