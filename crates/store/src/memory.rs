//! A store that forgets: everything in it is gone when the process ends.
//!
//! It is for tests and demonstrations only. After a restart its fence stands at the new start, so no old token lives
//! again; but tokens that were issued before the restart and not yet redeemed are refused as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_core::{Clock, End, Ending, StoreError, StoreStats, TokenId, TokenStore};
use jiff::Timestamp;

/// Keeps the records in this process's memory. See the [module](self): it forgets.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    endings: BTreeMap<TokenId, Record>,
    fence: Timestamp,
    horizon: Timestamp,
    closed: bool,
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
        let state = State { endings: BTreeMap::new(), fence: now, horizon: now, closed: false };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        // Every change of the state is a single step, so a panic elsewhere cannot have left it half done.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Unavailable("it has been closed".to_owned()));
        }
        Ok(state)
    }
}

impl State {
    fn look(&self, id: TokenId, expires: Timestamp) -> End {
        if let Some(record) = self.endings.get(&id) {
            End::Already(record.ending.clone())
        } else if id.created() < self.fence {
            End::Fenced
        } else if expires < self.horizon {
            End::Forgotten
        } else {
            End::Recorded
        }
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<End, StoreError> {
        let mut state = self.state()?;
        let end = state.look(id, expires);
        if end == End::Recorded {
            state.endings.insert(id, Record { expires, ending });
        }
        Ok(end)
    }

    async fn look(&self, id: TokenId, expires: Timestamp) -> Result<End, StoreError> {
        Ok(self.state()?.look(id, expires))
    }

    async fn move_fence(&self, line: Timestamp) -> Result<Timestamp, StoreError> {
        let mut state = self.state()?;
        state.fence = state.fence.max(line);
        Ok(state.fence)
    }

    async fn purge(&self, line: Timestamp) -> Result<u64, StoreError> {
        let mut state = self.state()?;
        state.horizon = state.horizon.max(line);
        let (horizon, before) = (state.horizon, state.endings.len());
        state.endings.retain(|_, record| record.expires >= horizon);
        Ok(count(before - state.endings.len()))
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.state()?;
        let revoked =
            state.endings.values().filter(|record| matches!(record.ending, Ending::Revoked { .. })).count();
        Ok(StoreStats {
            kind: "memory",
            schema: 1,
            consumed: count(state.endings.len() - revoked),
            revoked: count(revoked),
            fence: state.fence,
            horizon: state.horizon,
            bytes: None,
        })
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.state().map(drop)
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
}
