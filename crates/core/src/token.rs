//! The login token: what it says, its id, and its text.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::{Audience, CallerName, Claims, Entropy, EntropyError, after, from_millis, to_millis};

/// The longest life a token may be given: one day. Replaced keys are kept for this long.
pub const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// The id of a token in records, events and logs: a `UUIDv7` (RFC 9562 section 5.7), which begins with the
/// millisecond it was made in. Knowing it is of no use at a handshake; only the [`TokenText`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Uuid);

impl TokenId {
    /// A new id for a token made at `now`. 74 random bits keep the ids of one millisecond apart, on any number of
    /// servers.
    pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut random = [0; 10];
        entropy.fill(&mut random)?;
        let millis = u64::try_from(to_millis(now)).unwrap_or(0);
        Ok(Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()))
    }

    /// The 16 bytes, which sort by the time of making.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id that these bytes are, as [`as_bytes`](Self::as_bytes) gave them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// When the token was made, whole milliseconds: the first 48 bits.
    pub fn created(&self) -> Timestamp {
        let millis = self.as_bytes().iter().take(6).fold(0, |millis, byte| (millis << 8) | i64::from(*byte));
        from_millis(millis)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A single-use login token: what its text, once unsealed, says.
#[derive(Clone, Debug, PartialEq)]
pub struct LoginToken {
    pub(crate) id: TokenId,
    pub(crate) lifetime: Duration,
    pub(crate) audience: Option<Audience>,
    pub(crate) claims: Claims,
    pub(crate) issued_by: Option<CallerName>,
}

impl LoginToken {
    /// Its id in records, events and logs.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// When it was issued.
    pub fn created(&self) -> Timestamp {
        self.id.created()
    }

    /// From this moment on it is not accepted.
    pub fn expires(&self) -> Timestamp {
        after(self.created(), self.lifetime)
    }

    /// The tracker it is bound to. `None`: any tracker may redeem it, as in Launchpad's own protocol.
    pub fn audience(&self) -> Option<&Audience> {
        self.audience.as_ref()
    }

    /// What the issuer wants the redeeming tracker to know.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The caller for which it was issued. `None`: the one without a name, or a server that knew no names yet.
    pub fn issued_by(&self) -> Option<&CallerName> {
        self.issued_by.as_ref()
    }
}

/// The text of a token: letters and digits. It is enough to redeem the token, so it is never logged and its `Debug` says
/// nothing.
#[derive(Clone)]
pub struct TokenText(String);

impl TokenText {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one who is to have it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Gives up the text, for the one who is to have it.
    pub fn into_exposed(self) -> String {
        self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(redacted)")
    }
}
