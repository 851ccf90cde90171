//! The domain of Countersign: single-use login tokens, and the rules by which they are issued and consumed.
//!
//! A service proves to a remote bug tracker who it is. It takes a [`LoginToken`] from its own token server and hands
//! the token's text to the tracker; the tracker asks the token server whether the token is good; the first question
//! consumes it.
//!
//! Issuing is computing: a token is sealed with the server's key ([`KeyRing`]) and says everything about itself, so
//! nothing is stored. Consuming is one conditional write ([`TokenStore::end`]). It records the only durable fact: that a
//! token's life has ended.
//!
//! Where to look first:
//!
//! - [`LoginTokenSet`]: issue, get, redeem, revoke; all the rest serves these four;
//! - [`handshake`]: the protocol's decisions as two pure functions;
//! - [`TokenStore`]: what a store has to promise;
//! - [`StoredRing`]: the key ring that several servers on one store share;
//! - [`ClockError`]: why a wrong clock is not used;
//! - [`Event`] and [`EventStore`]: the events that operators see;
//! - [`seal`]: the format of a token's text.
//!
//! This crate knows no HTTP, no SQL and no files. Time comes from a [`Clock`], randomness from an [`Entropy`].

mod caller_name;
mod claims;
mod clock;
mod ending;
mod entropy;
mod event;
mod event_store;
pub mod handshake;
mod key_ring;
mod node;
pub mod seal;
mod set;
mod store;
mod store_error;
mod stored_ring;
mod token;

pub use countersign_audience::{Audience, AudienceError, MAX_AUDIENCE_BYTES};

pub use caller_name::{CallerName, CallerNameError, DEFAULT_CALLER, MAX_CALLER_NAME_CHARS, UNBOUND};
pub use claims::{Claims, ClaimsError, ISSUED_BY, MAX_CLAIMS_BYTES};
pub use clock::{Clock, ManualClock, SystemClock, after, before, from_millis, to_millis};
pub use ending::{Consumption, EndedToken, Ending, EndingQuery, Endings, LOOKED_AT, RetryKeyHash};
pub use entropy::{Entropy, EntropyError, OsEntropy, SequenceEntropy};
pub use event::{
    Denial, Event, EventId, EventKind, FirstUse, KindFilter, MAX_NOTE_CHARS, Note, Reason, RequestId,
};
pub use event_store::{
    EventCursor, EventName, EventQuery, EventStore, Known, MAX_KEPT, MAX_KEPT_ISSUED, NameFilter, kept_of,
};
pub use key_ring::{
    InvalidKeyId, Key, KeyChange, KeyId, KeyRing, KeyRingError, MAX_KEYS, MAX_REVOKED, SETTLING,
};
pub use node::{CHECK_IN_PERIOD, HeldKey, LIVE, Node, NodeId, NodeList, REMEMBERED, SeenNode};
pub use set::{
    CheckInFinding, ClockError, GetError, IssueError, Issued, LoginTokenSet, Lookup, NewToken, NodeFacts,
    Policy, RETRY_WINDOW, RedeemError, Redemption, STEADY, Status, apart, move_fence_now, purge_now,
};
pub use store::{BATCH_SIZES, EndResult, Horizon, StoreCounts, StoreStats, StoreTimes, TokenStore};
pub use store_error::{StoreError, Unusable};
pub use stored_ring::{
    ChangedRing, RingChange, RingError, StoredRing, change_ring, put_ring, read_or_put, read_ring,
};
pub use token::{LoginToken, MAX_LIFETIME, TokenId, TokenText};
