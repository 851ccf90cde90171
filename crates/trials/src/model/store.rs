//! A store as a value: what [`TokenStore`](countersign_core::TokenStore) promises, small enough to be part of a state.
//!
//! A test drives it and the real stores with the same calls and compares every answer.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_core::{Consumption, EndResult, Ending, Horizon, RetryKeyHash, TokenId, after};
use jiff::Timestamp;

/// Which tokens' lives have ended, and the two watermarks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelStore {
    endings: BTreeMap<TokenId, Record>,
    fence: Timestamp,
    horizon: Horizon,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Record {
    expires: Timestamp,
    at: Timestamp,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum How {
    /// With the hash of this key. Addresses are left out.
    Consumed(Option<[u8; 16]>),
    Revoked,
}

impl ModelStore {
    /// A new store, whose fence stands at its creation.
    pub fn new(now: Timestamp) -> Self {
        Self { endings: BTreeMap::new(), fence: now, horizon: Horizon::NONE }
    }

    /// The conditional write.
    pub fn end(&mut self, id: TokenId, expires: Timestamp, ending: &Ending) -> EndResult {
        let end = self.look_up(id, expires);
        if end == EndResult::Recorded {
            self.write(id, expires, ending);
        }
        end
    }

    /// A look.
    pub fn look_up(&self, id: TokenId, expires: Timestamp) -> EndResult {
        if let Some(record) = self.endings.get(&id) {
            EndResult::Already(record.ending())
        } else if id.created() < self.fence {
            EndResult::Fenced
        } else if self.horizon.is_beyond(id.created(), expires) {
            EndResult::Forgotten
        } else {
            EndResult::Recorded
        }
    }

    /// An unconditional write: the second half of the bug, and no part of any store's promise.
    pub fn write(&mut self, id: TokenId, expires: Timestamp, ending: &Ending) {
        let (at, how) = match ending {
            Ending::Consumed(Consumption { at, retry_key, .. }) => {
                (*at, How::Consumed(retry_key.map(|key| *key.as_bytes())))
            }
            Ending::Revoked { at } => (*at, How::Revoked),
        };
        self.endings.insert(id, Record { expires, at, how });
    }

    /// Where the fence stands.
    pub fn fence(&self) -> Timestamp {
        self.fence
    }

    /// Moves the fence forward.
    pub fn move_fence(&mut self, to: Timestamp) -> Timestamp {
        self.fence = to.max(after(self.fence, Duration::from_millis(1)));
        self.fence
    }

    /// Forgets what expired before the cutoff, and moves the horizon over it.
    pub fn purge(&mut self, cutoff: Timestamp) -> u64 {
        for (id, record) in self.endings.iter().filter(|(_, record)| record.expires < cutoff) {
            self.horizon = self.horizon.over(id.created(), record.expires);
        }
        self.forget(cutoff)
    }

    /// Forgets what expired before the cutoff and keeps the horizon where it is: a defence less.
    pub fn forget(&mut self, cutoff: Timestamp) -> u64 {
        let before = self.endings.len();
        self.endings.retain(|_, record| record.expires >= cutoff);
        u64::try_from(before - self.endings.len()).unwrap_or(u64::MAX)
    }
}

impl Record {
    fn ending(&self) -> Ending {
        match self.how {
            How::Consumed(key) => Ending::Consumed(Consumption {
                at: self.at,
                by: None,
                retry_key: key.map(RetryKeyHash::from_bytes),
            }),
            How::Revoked => Ending::Revoked { at: self.at },
        }
    }
}
