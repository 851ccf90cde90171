//! The contract of a store.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{Ending, EndingQuery, Endings, Node, NodeList, SeenNode, StoreError, StoredRing, TokenId};

/// Remembers which tokens' lives have ended.
///
/// A token that is alive is in no store: it says everything about itself. A store holds one [`Ending`] for each token
/// that was consumed or revoked, until that token has long expired, and two *watermarks* that only ever move forward:
///
/// - the *fence*: a token created before it is rejected. A new store puts it at its own creation, so that an emptied
///   store does not make old tokens live again;
/// - the [*horizon*](Horizon): how far records have been removed. Purging moves it, together with the removal, and only
///   over what is removed; so a token whose record was purged stays dead even if the clock is set back later, and a clock that
///   is wrong when a store is purged harms no token that is issued afterwards.
///
/// Times are whole milliseconds. If a caller disconnects before its call runs, the call may write nothing.
///
/// `countersign-store` has the implementations and the one contract test-suite that they all pass.
#[async_trait]
pub trait TokenStore: Send + Sync + fmt::Debug {
    /// Ends the life of a token, if nothing has ended it yet. This is the one write that decides who redeems a token:
    /// for one id, over all times, callers and crashes, at most one call answers [`EndResult::Recorded`], and it answers only
    /// after the record is durable.
    ///
    /// A record on file is reported before the watermarks are looked at: the first consumer may ask again behind a fence.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`]: nothing was written. [`StoreError::Unavailable`]: it may or may not have been; only asking
    /// again can tell.
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError>;

    /// How the token's life ended, as far as is on record; without changing anything. [`EndResult::Recorded`] here means that
    /// it could still be ended.
    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError>;

    /// [`end`](Self::end), for a token that was opened with this version of the store's key ring. In a shared store, `end`
    /// itself is for a store that keeps no ring (version 0).
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherRing`] if that is not the store's ring: nothing was written, and whether there is a record is
    /// not told. It is decided where the record is made, so that a key that has been revoked redeems nothing any more.
    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        let _ = ring;
        self.end(id, expires, ending).await
    }

    /// [`look_up`](Self::look_up), in the same way.
    async fn look_up_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        let _ = ring;
        self.look_up(id, expires).await
    }

    /// The key ring that a shared store keeps; `None` before the first server has written one.
    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        Ok(None)
    }

    /// Puts a ring in the place of the one of version `from` (0: there is none), and from then on answers a call with any
    /// other version than the new one by [`StoreError::OtherRing`]. When this returns, calls that were under way have been answered
    /// or will be answered so. Returns whether it is there; `false`: another one is, and nothing has changed.
    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        let _ = (from, ring);
        Err(StoreError::unavailable("it keeps no key ring: that is in the key file"))
    }

    /// The latest endings, newest first, for operators. Changes nothing and delays no other call.
    ///
    /// A store looks at so many tokens as the query says, from the one issued last backwards, so that the effort is
    /// bounded. If those are not all, the answer says where to go on.
    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError>;

    /// Moves the fence to `to`, or, if it stands there or beyond, one millisecond further: tokens are created at the
    /// fence itself while clocks are behind it, and those are rejected, too. Returns where it stands then.
    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError>;

    /// Forgets the tokens that expired before `cutoff`, and moves the horizon over those that it removes. Works in slices,
    /// between which [`end`](Self::end) goes on. Returns how many records it removed.
    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError>;

    /// Where the store has moved its fence by itself since this was asked last, because what it is kept in is not what it
    /// was: another database server took over, or a backup was put back. One server reports each move, once.
    fn take_moved_fences(&self) -> Vec<Timestamp> {
        Vec::new()
    }

    /// What it knows about the time.
    ///
    /// The default is for a store that only one server uses: it knows nothing.
    async fn times(&self) -> Result<StoreTimes, StoreError> {
        Ok(StoreTimes::default())
    }

    /// Counts what the store holds. With many millions of records it may take a second, and delays no other call.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// How much it has written since it was opened; `None` if it does not count.
    fn counts(&self) -> Option<StoreCounts> {
        None
    }

    /// Succeeds if a token could be consumed now: the store can be reached and takes writes.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Whether several servers may serve from it at the same time. Such a store must keep the key ring and the nodes, and have
    /// a clock: for it, the defaults here are wrong.
    fn is_shared(&self) -> bool {
        false
    }

    /// Writes down that a node serves from this store and what it says of itself, over what it said before; once that
    /// is durable, tells who else has checked in. So of two nodes that check in at the same time at least one is told
    /// of the other. Forgets the nodes that were last seen longer ago than [`REMEMBERED`](crate::REMEMBERED).
    ///
    /// The default is for a store that only one server uses: it remembers nothing.
    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        let seen = SeenNode { node: node.clone(), at: node.clock, live: node.serving, schema: 0 };
        Ok(NodeList { now: node.clock, nodes: vec![seen] })
    }

    /// Who has checked in, without checking in; `now` is the caller's clock, for a store that has none.
    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        Ok(NodeList { now, nodes: Vec::new() })
    }

    /// Waits for what is under way and closes. Later calls fail with [`StoreError::Unavailable`].
    async fn close(&self);
}

/// The answer to an attempt to end a token's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndResult {
    /// It ends here and now, and that is on disk.
    Recorded,
    /// It had ended before, like this.
    Already(Ending),
    /// There is no record of it, and it was created before the fence.
    Fenced,
    /// There is no record of it any more, if ever there was: it is behind the [`Horizon`].
    Forgotten,
}

/// How far records have been removed: of a token that was created no later and expires no later there may have been one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Horizon {
    /// When the youngest token was created whose record was removed.
    pub created: Timestamp,
    /// The latest expiry of a token whose record was removed.
    pub expires: Timestamp,
}

impl Horizon {
    /// Nothing was ever removed.
    pub const NONE: Self = Self { created: Timestamp::UNIX_EPOCH, expires: Timestamp::UNIX_EPOCH };

    /// Whether a record of this token may have been removed.
    pub fn is_beyond(&self, created: Timestamp, expires: Timestamp) -> bool {
        created <= self.created && expires <= self.expires
    }

    /// The horizon once the record of this token has been removed, too.
    #[must_use]
    pub fn over(self, created: Timestamp, expires: Timestamp) -> Self {
        Self { created: self.created.max(created), expires: self.expires.max(expires) }
    }
}

/// What a store knows about the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTimes {
    /// What its own clock shows; `None` if it has none, and goes by its caller's.
    pub clock: Option<Timestamp>,
    /// Tokens created before this are rejected.
    pub fence: Timestamp,
    /// How far records have been removed.
    pub horizon: Horizon,
    /// When the youngest token on record was created.
    pub newest: Option<Timestamp>,
}

impl Default for StoreTimes {
    fn default() -> Self {
        Self { clock: None, fence: Timestamp::UNIX_EPOCH, horizon: Horizon::NONE, newest: None }
    }
}

/// The upper ends of the classes that batches are counted in by how many calls they hold.
pub const BATCH_SIZES: [u64; 7] = [1, 2, 4, 8, 16, 64, 256];

/// How much a store has written since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Calls answered after a commit.
    pub calls: u64,
    /// Commits: under load, fewer than calls.
    pub commits: u64,
    /// Batches that failed as a whole.
    pub failures: u64,
    /// Calls that wait for their turn now.
    pub waiting: u64,
    /// Committed batches by how many calls they held: one count for each of [`BATCH_SIZES`], and one for those beyond.
    pub batches: [u64; BATCH_SIZES.len() + 1],
}

/// What is in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Which implementation, as its URL's scheme says it.
    pub kind: &'static str,
    /// The version of its schema.
    pub schema: u32,
    /// Tokens consumed, as far as not purged.
    pub consumed: u64,
    /// Tokens revoked, as far as not purged.
    pub revoked: u64,
    /// Tokens created before this are rejected.
    pub fence: Timestamp,
    /// The latest expiry of a token whose record was removed; the epoch, if none was. See [`Horizon`].
    pub horizon: Timestamp,
    /// Bytes on disk, where that can be known.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::{KeyRing, NodeId, OsEntropy, after};

    /// A store for one server, with what has no default.
    #[derive(Debug, Default)]
    struct Least {
        ended: Mutex<Option<Ending>>,
    }

    #[async_trait]
    impl TokenStore for Least {
        async fn end(&self, _: TokenId, _: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
            let before = self.ended.lock().unwrap().replace(ending);
            Ok(before.map_or(EndResult::Recorded, EndResult::Already))
        }

        async fn look_up(&self, _: TokenId, _: Timestamp) -> Result<EndResult, StoreError> {
            Ok(self.ended.lock().unwrap().clone().map_or(EndResult::Recorded, EndResult::Already))
        }

        async fn endings(&self, _: &EndingQuery) -> Result<Endings, StoreError> {
            Err(StoreError::Busy)
        }

        async fn move_fence(&self, _: Timestamp) -> Result<Timestamp, StoreError> {
            Err(StoreError::Busy)
        }

        async fn purge(&self, _: Timestamp) -> Result<u64, StoreError> {
            Err(StoreError::Busy)
        }

        async fn stats(&self) -> Result<StoreStats, StoreError> {
            Err(StoreError::Busy)
        }

        async fn ready(&self) -> Result<(), StoreError> {
            Err(StoreError::Busy)
        }

        async fn close(&self) {}
    }

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    #[tokio::test]
    async fn store_of_one_server_keeps_no_ring() {
        let (store, id) = (Least::default(), TokenId::generate(noon(), &OsEntropy).unwrap());
        assert_eq!(store.ring().await, Ok(None));
        let file = KeyRing::generate(noon(), &OsEntropy).unwrap();
        let ring = StoredRing::seal(&file, &file.keys()[0]).unwrap();
        let refused = store.replace_ring(0, &ring).await.unwrap_err();
        assert!(refused.reason().contains("in the key file"), "{refused}");
        let ending = Ending::Revoked { at: noon() };
        assert_eq!(store.look_up_with_ring(id, noon(), 7).await, Ok(EndResult::Recorded));
        assert_eq!(store.end_with_ring(id, noon(), ending.clone(), 7).await, Ok(EndResult::Recorded));
        let already = EndResult::Already(ending.clone());
        assert_eq!(store.look_up_with_ring(id, noon(), 7).await, Ok(already.clone()));
        assert_eq!(store.end_with_ring(id, noon(), ending, 7).await, Ok(already));
    }

    #[tokio::test]
    async fn store_of_one_server_knows_no_clock_and_no_other_node() {
        let store = Least::default();
        assert!(!store.is_shared());
        assert_eq!((store.take_moved_fences(), store.counts()), (Vec::new(), None));
        let unknown =
            StoreTimes { clock: None, fence: Timestamp::UNIX_EPOCH, horizon: Horizon::NONE, newest: None };
        assert_eq!(store.times().await, Ok(unknown));
        assert_eq!(store.node_list(noon()).await, Ok(NodeList { now: noon(), nodes: Vec::new() }));
        for serving in [true, false] {
            let node = Node {
                id: NodeId::generate(&OsEntropy).unwrap(),
                host: "alpha".to_owned(),
                private_url: "http://127.0.0.1:8087".to_owned(),
                version: "0.1.0".to_owned(),
                serving,
                clock: noon(),
                keys: Vec::new(),
                sealing: None,
                unlocks: Vec::new(),
                fence: None,
            };
            let seen = SeenNode { node: node.clone(), at: noon(), live: serving, schema: 0 };
            assert_eq!(store.check_in(&node).await, Ok(NodeList { now: noon(), nodes: vec![seen] }));
        }
    }

    #[test]
    fn batches_beyond_the_largest_class_have_a_count_too() {
        assert_eq!(StoreCounts::default().batches, [0; 8]);
    }

    #[test]
    fn horizon_covers_tokens_that_are_older_in_both_dates() {
        let (early, late) = (noon(), after(noon(), Duration::from_millis(1)));
        let horizon = Horizon { created: early, expires: early };
        assert!(horizon.is_beyond(early, early));
        assert!(!horizon.is_beyond(late, early) && !horizon.is_beyond(early, late));
        assert_eq!(horizon.over(late, early), Horizon { created: late, expires: early });
        assert_eq!(horizon.over(early, late), Horizon { created: early, expires: late });
        assert_eq!(Horizon::NONE.over(early, early), horizon);
    }
}
