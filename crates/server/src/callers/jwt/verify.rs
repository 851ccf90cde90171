//! Whether a JWT is one that an issuer made, and for what (RFC 7519, with the advice of RFC 8725).

use std::fmt;
use std::time::Duration;

use countersign_core::{after, from_millis, to_millis};
use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde_json::{Map, Value};

use super::crypto;
use super::rule::JwtRule;

/// The longest token that is looked at, in bytes.
pub const MAX_JWT_BYTES: usize = 8 * 1024;

/// How far an issuer's clock may be from this one's.
pub const JWT_CLOCK_SKEW: Duration = Duration::from_mins(1);

/// What a logout token has in `events` (`OpenID` Connect Back-Channel Logout 1.0, section 2.4). Not each one has a `typ`.
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// The longest time from a token's `iat` to its `exp`.
pub const MAX_JWT_LIFETIME: Duration = Duration::from_hours(24);

/// Why a JWT is not accepted. No text has anything of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwtFault {
    Header,
    Algorithm,
    Type,
    UnknownKey,
    Signature,
    Claims,
    Expired,
    NotYet,
    Lifetime,
    Bound,
    Audience,
    Subject,
    Ambiguous,
    /// It may be good: nothing can be said without the issuer's keys.
    NoKeys,
    /// It may be good: this server's clock is not trusted.
    Clock,
}

impl JwtFault {
    /// All there are.
    pub(crate) const ALL: [Self; 15] = [
        Self::Header,
        Self::Algorithm,
        Self::Type,
        Self::UnknownKey,
        Self::Signature,
        Self::Claims,
        Self::Expired,
        Self::NotYet,
        Self::Lifetime,
        Self::Bound,
        Self::Audience,
        Self::Subject,
        Self::Ambiguous,
        Self::NoKeys,
        Self::Clock,
    ];

    /// It in a word, for metrics. Stable.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Expired => "expired",
            Self::NotYet => "not-yet",
            Self::Lifetime => "lifetime",
            Self::Bound => "bound",
            Self::Audience => "audience",
            Self::Subject => "subject",
            Self::Ambiguous => "ambiguous",
            Self::NoKeys => "no-keys",
            Self::Clock => "clock",
        }
    }
}

impl fmt::Display for JwtFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "its JWT has a header that cannot be used, such as one with the algorithm `none`",
            Self::Algorithm => "its JWT has an algorithm that is not allowed",
            Self::Type => "its JWT is not an access or identity token, by its `typ`",
            Self::UnknownKey => "its JWT names a key that the issuer does not have for this algorithm",
            Self::Signature => "its JWT has a signature that is not the issuer's",
            Self::Claims => "its JWT lacks iss, sub, aud, iat or exp, or has one that cannot be read",
            Self::Expired => "its JWT has expired",
            Self::NotYet => "its JWT is not valid yet; compare the clocks",
            Self::Lifetime => "its JWT is made to last longer than a day",
            Self::Bound => "its JWT is bound to a key (`cnf`), and is no bearer's",
            Self::Audience => "its JWT is of a known issuer, and for an audience that no caller has",
            Self::Subject => "its JWT is of a known issuer, and of a subject that is no caller",
            Self::Ambiguous => "its JWT fits two callers",
            Self::NoKeys => "the keys of its JWT's issuer cannot be fetched",
            Self::Clock => "this server's clock is wrong, so that nobody can say whether its JWT has expired",
        })
    }
}

/// What a token says of itself, before anything is verified.
pub(super) struct Unverified {
    pub(super) issuer: String,
    pub(super) header: Result<Header, JwtFault>,
    /// `None` also if it is not a number: that is looked at when the signature is known to be right.
    expires: Option<NumericDate>,
}

#[derive(Deserialize)]
struct UnverifiedClaims {
    iss: String,
    #[serde(default)]
    exp: Value,
}

impl Unverified {
    /// `None` for what is no JWT, or names no issuer.
    pub(super) fn read(shown: &[u8]) -> Option<Self> {
        let is_like_one = shown.len() <= MAX_JWT_BYTES && shown.split(|byte| *byte == b'.').count() == 3;
        if !is_like_one {
            return None;
        }
        let UnverifiedClaims { iss, exp } = insecure_decode_claims(shown).ok()?;
        Some(Self {
            issuer: iss,
            header: decode_header(shown).map_err(|_| JwtFault::Header).and_then(check_header),
            expires: NumericDate::deserialize(exp).ok(),
        })
    }

    /// Whether it has expired, by what it says of itself.
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires.is_past(now))
    }

    /// Why it is not accepted while its issuer's keys are not there.
    pub(super) fn fault_without_keys(self, now: Timestamp) -> JwtFault {
        let is_expired = self.is_expired(now);
        match self.header {
            Err(fault) => fault,
            Ok(_) if is_expired => JwtFault::Expired,
            Ok(_) => JwtFault::NoKeys,
        }
    }
}

/// Of the header only `alg`, `typ` and `kid` are used: a key that stands there (`jwk`), or where one could be fetched (`jku`,
/// `x5u`), is anybody's.
fn check_header(header: Header) -> Result<Header, JwtFault> {
    if !crypto::algorithms().any(|known| known == header.alg) {
        return Err(JwtFault::Algorithm);
    }
    // A logout token, or a proof of possession, is signed by the same keys (RFC 8725, section 3.11).
    let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
    match kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind)) {
        None | Some("jwt" | "at+jwt") => Ok(header),
        Some(_) => Err(JwtFault::Type),
    }
}

/// The content of a token whose signature is right.
#[derive(Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    #[serde(deserialize_with = "one_or_more")]
    aud: Vec<String>,
    iat: NumericDate,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    cnf: Option<IgnoredAny>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Verifies the signature of a token by one of these keys, and reads its claims.
pub(super) fn verify(shown: &[u8], algorithm: Algorithm, keys: &[&DecodingKey]) -> Result<Claims, JwtFault> {
    crypto::install();
    let mut validation = Validation::new(algorithm);
    // The times are judged below, by the clock of this server and not by the library's.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut fault = JwtFault::UnknownKey;
    for key in keys {
        match decode::<Claims>(shown, key, &validation) {
            Ok(token) => return Ok(token.claims),
            Err(error) => {
                fault = match error.kind() {
                    // The signature was right.
                    ErrorKind::Json(_)
                    | ErrorKind::InvalidClaimFormat(_)
                    | ErrorKind::MissingRequiredClaim(_) => {
                        return Err(JwtFault::Claims);
                    }
                    // Such as an unknown critical extension.
                    ErrorKind::InvalidToken => return Err(JwtFault::Header),
                    _ => JwtFault::Signature,
                }
            }
        }
    }
    Err(fault)
}

impl Claims {
    /// Whether it is a token of this issuer that is valid now; until when it is.
    pub(super) fn check(&self, issuer: &str, now: Timestamp) -> Result<Timestamp, JwtFault> {
        // The key was chosen by what stood here before the signature was verified.
        if self.iss != issuer {
            return Err(JwtFault::Claims);
        }
        if self.cnf.is_some() {
            return Err(JwtFault::Bound);
        }
        if self.more.get("events").is_some_and(|events| events.get(LOGOUT).is_some()) {
            return Err(JwtFault::Type);
        }
        if self.exp.is_past(now) {
            return Err(JwtFault::Expired);
        }
        let skew = millis(JWT_CLOCK_SKEW);
        let now = to_millis(now);
        let (NumericDate(iat), NumericDate(exp)) = (self.iat, self.exp);
        let begins = self.nbf.map_or(iat, |NumericDate(nbf)| nbf.max(iat));
        if begins.saturating_sub(skew) > now {
            return Err(JwtFault::NotYet);
        }
        if exp.saturating_sub(iat) > millis(MAX_JWT_LIFETIME) {
            return Err(JwtFault::Lifetime);
        }
        Ok(after(from_millis(exp), JWT_CLOCK_SKEW))
    }

    /// Whether it is for the audience that a caller's tokens are for.
    pub(super) fn is_for(&self, rule: &JwtRule) -> bool {
        rule.issuer.as_str() == self.iss && self.aud.contains(&rule.audience)
    }

    /// Whether it is of the subject that is this caller.
    pub(super) fn is_of(&self, rule: &JwtRule) -> bool {
        let has = |(name, wanted): (&String, &String)| {
            self.more.get(name).and_then(Value::as_str) == Some(wanted.as_str())
        };
        self.sub == rule.subject && rule.claims.iter().all(has)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since 1970, which may have a fraction (RFC 7519 section 2); here milliseconds.
#[derive(Clone, Copy)]
struct NumericDate(i64);

impl NumericDate {
    /// Whether a token with this `exp` has expired.
    fn is_past(self, now: Timestamp) -> bool {
        self.0.saturating_add(millis(JWT_CLOCK_SKEW)) <= to_millis(now)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    #[expect(clippy::cast_possible_truncation, reason = "a number beyond the range becomes the range's end")]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !seconds.is_finite() {
            return Err(D::Error::custom("no time"));
        }
        Ok(Self((seconds * 1000.0) as i64))
    }
}

/// `aud` is one text or a list of them (RFC 7519 section 4.1.3).
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audiences {
        One(String),
        More(Vec<String>),
    }
    Ok(match Audiences::deserialize(deserializer)? {
        Audiences::One(one) => vec![one],
        Audiences::More(more) => more,
    })
}
