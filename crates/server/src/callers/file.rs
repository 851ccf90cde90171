//! The callers file: who may call the private API, and for what.
//!
//! ```toml
//! [[caller]]
//! name = "worker-eu"
//! scopes = ["issue"]
//! audiences = ["https://bugs.example.org/", "https://trac.example.org/projects/*"]
//! max_lifetime = "5m"
//! tokens_per_minute = 600
//! tell_trackers = true
//! secrets = ["sha256:…"]
//!
//! [[caller]]
//! name = "worker-us"
//! scopes = ["issue"]
//! jwt = { issuer = "https://issuer.example.org", audience = "countersign", subject = "worker" }
//! ```
//!
//! An error names the line and the key, never the value: it may be a secret in the wrong place.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use countersign_core::{CallerName, Entropy, EntropyError, MAX_LIFETIME};
use data_encoding::HEXLOWER;
use jiff::SignedDuration;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::jwt::{JwtRule, MAX_ISSUERS};
use super::{AudiencePattern, Scope};

/// How many callers a file can have. Each has its own series in the metrics.
pub const MAX_CALLERS: usize = 256;

/// How many secrets of one caller are valid at a time: the new one, and the one before while its holders change over.
pub const MAX_SECRETS: usize = 2;

/// How many names in certificates one caller can have.
pub(super) const MAX_CERTIFICATES: usize = 16;

/// A file longer than this, in bytes, is not read.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What every secret begins with; a scanner for leaked secrets can look for it.
const SECRET_PREFIX: &str = "csc1";

/// 256 bits: they cannot be guessed, so that a plain hash of it is as good as a slow one.
const SECRET_BYTES: usize = 32;

const HASH_PREFIX: &str = "sha256:";

/// A caller as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerRule {
    /// The name.
    pub name: CallerName,
    /// The hashes of its secrets, oldest first.
    #[serde(default)]
    pub secrets: Vec<SecretHash>,
    /// Names in a client certificate of which each one is as good as a secret.
    #[serde(default)]
    pub certificates: Vec<CertificateName>,
    /// Whose JWTs are as good as a secret.
    #[serde(default)]
    pub jwt: Option<JwtRule>,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// The trackers for which it may issue tokens; `None`: all, and unbound tokens too.
    #[serde(default, deserialize_with = "patterns")]
    pub audiences: Option<Vec<AudiencePattern>>,
    /// The longest lifetime of its tokens.
    #[serde(default, deserialize_with = "lifetime")]
    pub max_lifetime: Option<Duration>,
    /// How many tokens it may issue in a minute.
    #[serde(default)]
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Whether trackers are told its name, as the claim `caller`.
    #[serde(default)]
    pub tell_trackers: bool,
}

/// A name in a client certificate: `dns:`, `uri:`, `email:` or `cn:`, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(String);

/// A text that is no name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name in a certificate is dns:NAME, uri:URI, email:ADDRESS or cn:NAME")]
pub struct NotACertificateName;

impl CertificateName {
    /// As it stands in the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CertificateName {
    type Err = NotACertificateName;

    fn from_str(text: &str) -> Result<Self, NotACertificateName> {
        let (kind, name) = text.split_once(':').ok_or(NotACertificateName)?;
        let is_name = !name.is_empty() && !name.chars().any(char::is_control) && !name.contains('*');
        match kind {
            "dns" if is_name => Ok(Self(text.to_ascii_lowercase())),
            "uri" | "email" | "cn" if is_name => Ok(Self(text.to_owned())),
            _ => Err(NotACertificateName),
        }
    }
}

impl<'de> Deserialize<'de> for CertificateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The SHA-256 of a secret, which is 256 random bits: no search finds it, however fast the hash is.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of a secret as it is shown.
    pub fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(hash)
    }

    /// Whether two are equal, in constant time.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    fn read(text: &str) -> Option<Self> {
        let hash = HEXLOWER.decode(text.strip_prefix(HASH_PREFIX)?.as_bytes()).ok()?;
        hash.try_into().ok().map(Self)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl Eq for SecretHash {}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(redacted)")
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no hash"))
    }
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<AudiencePattern>>, D::Error> {
    let patterns: Vec<String> = Deserialize::deserialize(deserializer)?;
    patterns.iter().map(|text| text.parse().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Some)
}

fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let lifetime = text.parse::<SignedDuration>().ok().and_then(|given| Duration::try_from(given).ok());
    let is_possible = |lifetime: &Duration| {
        lifetime.subsec_nanos() == 0 && *lifetime >= Duration::from_secs(1) && *lifetime <= MAX_LIFETIME
    };
    lifetime.filter(is_possible).map(Some).ok_or_else(|| D::Error::custom("no lifetime"))
}

/// A new secret. Its only place is the one that it is handed to.
pub fn new_secret(entropy: &dyn Entropy) -> Result<Zeroizing<String>, EntropyError> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    entropy.fill(&mut *bytes)?;
    let mut secret = Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + 2 * SECRET_BYTES));
    secret.push_str(SECRET_PREFIX);
    HEXLOWER.encode_append(&*bytes, &mut secret);
    Ok(secret)
}

/// What each key of a caller takes.
const KEYS: [(&str, &str); 9] = [
    (
        "name",
        "the caller's name: at most 32 lower-case letters, digits, - and _, beginning with a letter or a digit, and not `default`",
    ),
    ("secrets", "a list of hashes, as `countersign callers new` and `rotate` write them"),
    (
        "certificates",
        "a list of names in client certificates, such as \"dns:worker.example.org\", \"uri:...\" or \"cn:...\"",
    ),
    (
        "jwt",
        "a table of issuer, audience and subject, each a text, and perhaps claims, jwks_url, jwks_file, ca_file and bearer_file",
    ),
    ("scopes", "a list of issue, look, revoke, events and admin"),
    (
        "audiences",
        "a list of trackers' base URLs, such as \"https://bugs.example.org/\", or \"https://trac.example.org/projects/*\" \
         for everything below one",
    ),
    ("max_lifetime", "the longest lifetime of its tokens, from \"1s\" to \"24h\""),
    ("tokens_per_minute", "how many tokens it may issue in a minute: 1 or more"),
    ("tell_trackers", "true or false"),
];

/// What each key of a caller's `jwt` takes.
const JWT_KEYS: [(&str, &str); 8] = [
    (
        "issuer",
        "the URL that the JWT has as `iss`: https, or http on this machine's loopback, without a user name and a query",
    ),
    ("audience", "the text that the JWT has to have as `aud`, alone or among others"),
    ("subject", "the text that the JWT has to have as `sub`"),
    ("claims", "a table of further claims that the JWT has to have, each a text"),
    (
        "jwks_url",
        "where the issuer's keys can be fetched: an https URL, or an http URL on this machine's loopback, without a user name",
    ),
    ("jwks_file", "the name of a file with the issuer's keys"),
    ("ca_file", "the name of a file with the certificate authorities (PEM) of the issuer"),
    ("bearer_file", "the name of a file with a bearer to send to jwks_url"),
];

/// Why a text is no callers file. It quotes nothing but the names of callers and keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallersError {
    /// It is not TOML, or a value is of no use.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A caller is not whole, or not by itself.
    #[error("the caller `{name}` {what}")]
    Caller {
        /// Which.
        name: CallerName,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There are more than [`MAX_ISSUERS`].
    #[error("there are more than {MAX_ISSUERS} issuers of JWTs")]
    TooManyIssuers,
    /// There are more than [`MAX_CALLERS`].
    #[error("there are more than {MAX_CALLERS} callers")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    caller: Vec<CallerRule>,
}

/// Reads the text of a callers file.
pub fn parse(text: &str) -> Result<Vec<CallerRule>, CallersError> {
    let document: Document = toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        CallersError::Line { line, what: fault_in(text, line) }
    })?;
    check(&document.caller)?;
    Ok(document.caller)
}

fn check(callers: &[CallerRule]) -> Result<(), CallersError> {
    if callers.len() > MAX_CALLERS {
        return Err(CallersError::TooMany);
    }
    for (nth, caller) in callers.iter().enumerate() {
        let fault = |what| Err(CallersError::Caller { name: caller.name.clone(), what });
        let before = || callers.iter().take(nth);
        if before().any(|other| other.name == caller.name) {
            return fault("is there twice");
        }
        if caller.scopes.is_empty() {
            return fault("has no scopes, so that it could do nothing; give it some, or remove it");
        }
        if caller.audiences.as_ref().is_some_and(Vec::is_empty) {
            return fault(
                "has an empty list of audiences; leave `audiences` out to let it issue tokens for every tracker",
            );
        }
        if caller.secrets.is_empty() && caller.certificates.is_empty() && caller.jwt.is_none() {
            return fault(
                "has no secret and no certificate, and shows no JWT; `countersign callers rotate` gives it a secret",
            );
        }
        if let Some(jwt) = &caller.jwt {
            if let Some(what) = jwt.fault() {
                return fault(what);
            }
            let mut others = before().filter_map(|other| other.jwt.as_ref());
            if others.clone().any(|other| jwt.may_be_one_with(other)) {
                return fault("has a `jwt` that is another caller's as well: one token could stand for both");
            }
            if others.any(|other| jwt.contradicts(other)) {
                return fault(
                    "has the keys of its issuer from elsewhere than another caller; jwks_url, jwks_file, ca_file and \
                     bearer_file have to be the same for one issuer",
                );
            }
        }
        if caller.secrets.len() > MAX_SECRETS {
            return fault("has more than two secrets");
        }
        if caller.certificates.len() > MAX_CERTIFICATES {
            return fault("has more than 16 names in certificates");
        }
        if caller.secrets.contains(&SecretHash::of(b"")) {
            return fault("has the hash of no secret at all; `countersign callers rotate` gives it one");
        }
        let all = |nth| callers.iter().take(nth);
        let names = all(nth + 1).flat_map(|other| &other.certificates);
        if caller.certificates.iter().any(|name| names.clone().filter(|same| *same == name).count() > 1) {
            return fault("has a certificate's name that is there twice");
        }
        let secrets = all(nth + 1).flat_map(|other| &other.secrets);
        if caller.secrets.iter().any(|secret| secrets.clone().filter(|same| *same == secret).count() > 1) {
            return fault("has a secret that is there twice");
        }
    }
    let issuers = callers.iter().filter_map(|caller| caller.jwt.as_ref()).map(|jwt| jwt.issuer.as_str());
    if issuers.collect::<BTreeSet<_>>().len() > MAX_ISSUERS {
        return Err(CallersError::TooManyIssuers);
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

/// What is wrong in a line, by the key that it begins with.
fn fault_in(text: &str, line: usize) -> String {
    let key = text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    if let Some((key, takes)) = KEYS.iter().chain(&JWT_KEYS).find(|(known, _)| Some(*known) == key) {
        return format!("`{key}` is {takes}, once for each caller");
    }
    let names =
        |keys: &[(&'static str, &str)]| keys.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
    format!(
        "this cannot be used; each caller begins with [[caller]] and has some of {}, as key = value; its jwt has some of {}",
        names(&KEYS),
        names(&JWT_KEYS)
    )
}

#[cfg(test)]
mod tests;
