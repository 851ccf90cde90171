//! The endings of tokens' lives, as a store has them on record.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::handshake::CLOCK_SKEW;
use crate::{EventCursor, KindFilter, MAX_LIFETIME, TokenId, after, before, to_millis};

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
        // The first id of a millisecond. Years end with 9999, so its number fits into the 48 bits that an id has for it.
        let at = |time: Timestamp| u128::try_from(to_millis(time)).unwrap_or(0) << 80;
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
    /// The hash of the `Idempotency-Key` it came with: a request with the same key gets the same answer.
    pub retry_key: Option<RetryKeyHash>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsEntropy;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    fn id(created: Timestamp) -> TokenId {
        TokenId::generate(created, &OsEntropy).unwrap()
    }

    fn consumed() -> EndedToken {
        let by = Some("192.0.2.7".parse().unwrap());
        let ending = Ending::Consumed(Consumption { at: noon(), by, retry_key: None });
        EndedToken { id: id(noon()), ending }
    }

    fn all() -> EndingQuery {
        EndingQuery::newest(10)
    }

    #[test]
    fn query_finds_only_the_endings_it_asks_for() {
        let token = consumed();
        let (own, later) = (token.id, id(after(noon(), MILLISECOND)));
        let cursor = |at| Some(EventCursor { at, id: own.into() });
        for (query, found) in [
            (all(), true),
            (EndingQuery { consumed: false, ..all() }, false),
            (EndingQuery { revoked: false, ..all() }, true),
            (EndingQuery { since: noon(), ..all() }, true),
            (EndingQuery { since: after(noon(), MILLISECOND), ..all() }, false),
            (EndingQuery { until: after(noon(), MILLISECOND), ..all() }, true),
            (EndingQuery { until: noon(), ..all() }, false),
            (EndingQuery { id: Some(own), ..all() }, true),
            (EndingQuery { id: Some(later), ..all() }, false),
            (EndingQuery { by: Some("192.0.2.7".parse().unwrap()), ..all() }, true),
            (EndingQuery { by: Some("192.0.2.8".parse().unwrap()), ..all() }, false),
            (EndingQuery { after: cursor(after(noon(), MILLISECOND)), ..all() }, true),
            (EndingQuery { after: cursor(noon()), ..all() }, false),
            (EndingQuery { after: cursor(before(noon(), MILLISECOND)), ..all() }, false),
            (EndingQuery { below: Some(later), ..all() }, true),
            (EndingQuery { below: Some(own), ..all() }, false),
            (EndingQuery { below: Some(id(before(noon(), MILLISECOND))), ..all() }, false),
        ] {
            assert_eq!(query.covers(&token), found, "{query:?}");
        }
    }

    #[test]
    fn revocation_is_found_by_kind_but_not_by_address() {
        let token = EndedToken { id: id(noon()), ending: Ending::Revoked { at: noon() } };
        assert_eq!((token.ending.at(), token.ending.kind()), (noon(), KindFilter::Revoked));
        assert_eq!((consumed().ending.at(), consumed().ending.kind()), (noon(), KindFilter::Consumed));
        assert!(EndingQuery { consumed: false, ..all() }.covers(&token));
        assert!(!EndingQuery { revoked: false, ..all() }.covers(&token));
        assert!(!EndingQuery { by: Some("192.0.2.7".parse().unwrap()), ..all() }.covers(&token));
    }

    /// The first id of the millisecond in which a token was created.
    fn first_id(created: Timestamp) -> TokenId {
        TokenId::from_bytes((u128::try_from(to_millis(created)).unwrap() << 80).to_be_bytes())
    }

    #[test]
    fn ids_bound_every_token_that_can_match() {
        let (lowest, highest) = (TokenId::from_bytes([0; 16]), TokenId::from_bytes([255; 16]));
        let latest = |end: Timestamp| first_id(after(end, CLOCK_SKEW + MILLISECOND));
        assert_eq!(all().ids(), (lowest, highest));
        let since = EndingQuery { since: noon(), ..all() };
        assert_eq!(since.ids(), (first_id(before(noon(), MAX_LIFETIME)), highest));
        let minute = Duration::from_mins(1);
        let until = EndingQuery { until: noon(), ..all() };
        assert_eq!(until.ids(), (lowest, latest(noon())));
        for (end, least) in
            [(after(noon(), minute), noon()), (before(noon(), minute), before(noon(), minute))]
        {
            let cursor = EventCursor { at: end, id: id(noon()).into() };
            let both = EndingQuery { after: Some(cursor), ..until.clone() };
            assert_eq!(both.ids(), (lowest, latest(least)), "the earlier of the two counts");
            let cursor_alone = EndingQuery { after: Some(cursor), ..all() };
            assert_eq!(cursor_alone.ids(), (lowest, latest(end)));
        }
        let below = EndingQuery { below: Some(first_id(noon())), ..all() };
        let just_before = (u128::from_be_bytes(*first_id(noon()).as_bytes()) - 1).to_be_bytes();
        assert_eq!(below.ids(), (lowest, TokenId::from_bytes(just_before)));
        let own = id(noon());
        assert_eq!(EndingQuery { id: Some(own), ..since }.ids(), (own, own));
        let last_moment = EndingQuery { since: Timestamp::MAX, ..all() };
        assert_eq!(last_moment.ids(), (first_id(before(Timestamp::MAX, MAX_LIFETIME)), highest));
        let before_all = EndingQuery { since: Timestamp::MIN, until: Timestamp::MIN, ..all() };
        assert_eq!(before_all.ids(), (lowest, lowest));
    }

    #[test]
    fn retry_keys_are_compared_by_their_hash() {
        let (one, other) = (RetryKeyHash::of(b"one"), RetryKeyHash::of(b"other"));
        assert_eq!(one, RetryKeyHash::of(b"one"));
        assert_ne!(one, other);
        assert_eq!(RetryKeyHash::from_bytes(*one.as_bytes()), one);
        // The first half of SHA-256("one").
        assert_eq!(one.as_bytes(), &hex_literal::hex!("7692c3ad3540bb803c020b3aee66cd88"));
        assert_eq!(format!("{one:?}"), "RetryKeyHash(..)");
    }
}
