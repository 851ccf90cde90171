//! The contract of a store.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::handshake::CLOCK_SKEW;
use crate::{
    ClockError, EventCursor, KindFilter, MAX_LIFETIME, Node, NodeList, SeenNode, StoredRing, TokenId, after,
    before, to_millis,
};

/// Remembers which tokens' lives have ended.
///
/// A token that is alive is in no store: it says everything about itself. A store holds one [`Ending`] for each token
/// that was consumed or revoked, until that token has long expired, and two *watermarks* that only ever move forward:
///
/// - the *fence*: a token created before it is rejected. A new store puts it at its own creation, so that an emptied
///   store does not make old tokens live again;
/// - the [*horizon*](Horizon): how far records have been removed. Purging moves it, together with the removal, and only
///   over what is removed; so a token whose record was purged stays dead, whatever the clock does later, and a clock that
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

    /// The key ring that a shared store keeps; `None` as long as nobody has put one there.
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

    /// The lives that ended last, newest first: what an operator is shown. Changes nothing, and holds up nobody.
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
    /// was: another database server took over, or a backup was put back. Each move is told once, by one server.
    fn take_moved_fences(&self) -> Vec<Timestamp> {
        Vec::new()
    }

    /// What it knows about the time.
    ///
    /// The default is for a store that only one server uses: it knows nothing.
    async fn times(&self) -> Result<StoreTimes, StoreError> {
        Ok(StoreTimes::default())
    }

    /// What there is. May take a second with many millions of records, without holding up anybody else.
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

/// How a token's life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A tracker redeemed it.
    Consumed(Consumption),
    /// The issuer took it back.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

impl Ending {
    /// When.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Consumed(consumption) => consumption.at,
            Self::Revoked { at } => *at,
        }
    }

    /// What kind of event it is.
    pub fn kind(&self) -> KindFilter {
        match self {
            Self::Consumed(_) => KindFilter::Consumed,
            Self::Revoked { .. } => KindFilter::Revoked,
        }
    }
}

/// An ending, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedToken {
    /// The token.
    pub id: TokenId,
    /// How its life ended.
    pub ending: Ending,
}

/// Which endings to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndingQuery {
    /// Whether consumptions.
    pub consumed: bool,
    /// Whether revocations.
    pub revoked: bool,
    /// Not older than this.
    pub since: Timestamp,
    /// Older than this.
    pub until: Timestamp,
    /// Only that of this token.
    pub id: Option<TokenId>,
    /// Only consumptions by this address.
    pub by: Option<IpAddr>,
    /// Only those that come after this one in the list, which begins with the newest.
    pub after: Option<EventCursor>,
    /// Only those of tokens that were issued before this one.
    pub below: Option<TokenId>,
    /// How many tokens to look at.
    pub look_at: u32,
    /// So many at most.
    pub limit: usize,
}

/// Endings, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Those that were asked for.
    pub found: Vec<EndedToken>,
    /// Where to go on, as the query's `below`: as many tokens as allowed were looked at, down to this one, and fewer
    /// endings found than wanted. There may be more.
    pub below: Option<TokenId>,
}

/// How many tokens are looked at in one question. Records are in the order in which tokens were issued, and an index for
/// the order in which they ended, or by address, would make every redemption dearer.
pub const LOOKED_AT: u32 = 200_000;

impl EndingQuery {
    /// The newest so many, of both kinds.
    pub fn newest(limit: usize) -> Self {
        Self {
            consumed: true,
            revoked: true,
            since: Timestamp::MIN,
            until: Timestamp::MAX,
            id: None,
            by: None,
            after: None,
            below: None,
            look_at: LOOKED_AT,
            limit,
        }
    }

    /// Whether it asks for this one.
    pub fn covers(&self, ended: &EndedToken) -> bool {
        let (wanted, by) = match &ended.ending {
            Ending::Consumed(consumption) => (self.consumed, consumption.by),
            Ending::Revoked { .. } => (self.revoked, None),
        };
        let cursor = EventCursor { at: ended.ending.at(), id: ended.id.into() };
        wanted
            && cursor.at >= self.since
            && cursor.at < self.until
            && self.id.is_none_or(|id| ended.id == id)
            && self.by.is_none_or(|address| by == Some(address))
            && self.after.is_none_or(|after| cursor < after)
            && self.below.is_none_or(|below| ended.id < below)
    }

    /// The first and the last id that may be among them: no token's life ends more than the longest lifetime after the
    /// token was issued, nor, by more than what clocks may be apart, before.
    pub fn ids(&self) -> (TokenId, TokenId) {
        // The first id of a millisecond, as far as ids can tell it.
        let at = |time: Timestamp| u128::try_from(to_millis(time)).unwrap_or(0).min((1 << 48) - 1) << 80;
        let number = |id: TokenId| u128::from_be_bytes(*id.as_bytes());
        let latest = |end: Timestamp| at(after(end, CLOCK_SKEW + Duration::from_millis(1)));
        let mut first = at(before(self.since, MAX_LIFETIME));
        let mut last = u128::MAX;
        if let Some(cursor) = self.after {
            last = last.min(latest(cursor.at));
        }
        if self.until < Timestamp::MAX {
            last = last.min(latest(self.until));
        }
        if let Some(below) = self.below {
            last = last.min(number(below).saturating_sub(1));
        }
        if let Some(id) = self.id {
            (first, last) = (first.max(number(id)), last.min(number(id)));
        }
        (TokenId::from_bytes(first.to_be_bytes()), TokenId::from_bytes(last.to_be_bytes()))
    }
}

/// A redemption on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumption {
    /// When.
    pub at: Timestamp,
    /// The address of the one who redeemed it; unknown behind a Unix socket.
    pub by: Option<IpAddr>,
    /// The hash of the `Idempotency-Key` it came with: who knows that key may ask again.
    pub retry_key: Option<RetryKeyHash>,
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

/// The first 128 bits of the SHA-256 of an `Idempotency-Key`. The key itself is never kept.
#[derive(Clone, Copy)]
pub struct RetryKeyHash([u8; 16]);

impl RetryKeyHash {
    /// Hashes a key as it came with the request.
    pub fn of(key: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(Sha256::digest(key).first_chunk::<16>().unwrap_or(&[0; 16]));
        Self(half)
    }

    /// The 16 bytes, for a store.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The hash that a store kept.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for RetryKeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for RetryKeyHash {}

impl fmt::Debug for RetryKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryKeyHash(..)")
    }
}

/// Why a store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Too much is waiting already; nothing was written. Ask again later.
    #[error("the store has more work waiting than it takes")]
    Busy,
    /// It cannot be reached, is full, read-only or damaged. The reason is for the operator, not for the network.
    #[error(transparent)]
    Unavailable(Unusable),
    /// The store's key ring is another one than the caller has; nothing was written. Read the ring, and decide anew.
    #[error("the key ring in the store has changed; ask again")]
    OtherRing,
    /// It is not used, because this machine's clock is wrong; nothing was written.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

impl StoreError {
    /// [`Unavailable`](Self::Unavailable), for a reason that no other error is the cause of.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(Unusable { reason: reason.into(), cause: None })
    }

    /// What it is called in answers and metrics. It tells nothing of the reason, which is for the operator.
    pub fn label(&self) -> &'static str {
        match self {
            // Another ring is one to ask again with, at once.
            Self::Busy | Self::OtherRing => "busy",
            Self::Unavailable(_) => "store-unavailable",
            Self::Clock(_) => "clock",
        }
    }

    /// Why, for the operator, of something else than the store of tokens.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(why) => why.reason().to_owned(),
            Self::Busy | Self::OtherRing | Self::Clock(_) => self.to_string(),
        }
    }

    /// How long to wait before asking again is worth it.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Busy | Self::OtherRing => Duration::from_secs(1),
            Self::Unavailable(_) | Self::Clock(_) => Duration::from_secs(5),
        }
    }
}

/// Why a store is not usable: a sentence for the operator, and the error that it is about, as its source.
#[derive(Clone)]
pub struct Unusable {
    reason: String,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Unusable {
    /// The sentence says what `cause` means for the store, and what to do.
    pub fn because(reason: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { reason: reason.into(), cause: Some(Arc::new(cause)) }
    }

    /// The sentence.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self { reason, cause: None }
    }
}

impl PartialEq for Unusable {
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
    }
}

impl Eq for Unusable {}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store is not usable: {}", self.reason)
    }
}

impl fmt::Debug for Unusable {
    /// The cause is left out: what it holds beside its text is not ours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.reason)
    }
}

impl Error for Unusable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
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
