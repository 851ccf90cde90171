//! What the callers file says of a caller that shows a JWT.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use countersign_http_client::is_https_or_loopback;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use url::Url;

use crate::secret::SecretFile;

/// What a `jwks_file` is called among the files that doctor looks at.
pub const ISSUER_KEYS: &str = "an issuer's keys";
/// And a `ca_file`.
pub const ISSUER_AUTHORITIES: &str = "an issuer's authorities";

/// Whose tokens stand for a caller.
///
/// Every text is compared as it is, byte by byte: what an issuer calls a subject is its own business.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRule {
    /// The issuer, as its tokens have it as `iss`.
    pub issuer: IssuerUrl,
    /// What has to stand in `aud`, alone or among others. An audience that the issuer gives to every token protects nothing.
    #[serde(deserialize_with = "text")]
    pub audience: String,
    /// What has to stand in `sub`.
    #[serde(deserialize_with = "text")]
    pub subject: String,
    /// Further claims that have to be there, with these texts.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    /// Where the issuer's keys can be fetched; by default the issuer's discovery document says it.
    #[serde(default)]
    pub jwks_url: Option<HttpsUrl>,
    /// A file that has the keys, where nothing can be fetched.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// The authorities (PEM) of the issuer's certificate, in place of those that this machine trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A file with a bearer to send to `jwks_url`. It is read each time.
    #[serde(default)]
    pub bearer_file: Option<PathBuf>,
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeySource {
    pub(super) issuer: IssuerUrl,
    pub(super) jwks_url: Option<HttpsUrl>,
    pub(super) jwks_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) bearer_file: Option<PathBuf>,
}

/// The URL of an issuer, which is compared as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl(String);

/// An `https` URL, or an `http` URL on this machine's loopback, without a user name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl(Url);

/// A text that is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has to be an https URL without a user name, or an http URL on this machine's loopback; an issuer's has no query"
)]
pub struct NotAnHttpsUrl;

impl JwtRule {
    /// What is wrong with it, if anything is.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.audience.is_empty() || self.subject.is_empty() {
            return Some("has a `jwt` with an empty audience or subject");
        }
        if self.claims.keys().any(|name| RESERVED.contains(&name.as_str())) {
            return Some(
                "has a `jwt` whose `claims` have one of iss, aud, sub, exp, nbf, iat, jti and cnf, which cannot stand there",
            );
        }
        if self.jwks_file.is_some() && (self.jwks_url.is_some() || self.ca_file.is_some()) {
            return Some(
                "has a `jwt` with `jwks_file` and what it takes to fetch keys; leave one of them out",
            );
        }
        if self.bearer_file.is_some() && self.jwks_url.is_none() {
            return Some("has a `jwt` with `bearer_file` but no `jwks_url` to send the bearer to");
        }
        None
    }

    /// The files that decide whose tokens are good, and the bearer.
    pub fn files(&self) -> impl Iterator<Item = SecretFile> {
        let files = [
            (ISSUER_KEYS, &self.jwks_file, true),
            (ISSUER_AUTHORITIES, &self.ca_file, true),
            ("the bearer for an issuer's keys", &self.bearer_file, false),
        ];
        files.into_iter().filter_map(|(what, path, is_public)| {
            // What is missing, the issuer's trouble says.
            Some(SecretFile { what, path: path.clone()?, is_made_later: true, is_public })
        })
    }

    pub(super) fn source(&self) -> KeySource {
        KeySource {
            issuer: self.issuer.clone(),
            jwks_url: self.jwks_url.clone(),
            jwks_file: self.jwks_file.clone(),
            ca_file: self.ca_file.clone(),
            bearer_file: self.bearer_file.clone(),
        }
    }

    /// Whether both have the keys of one issuer from different places.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.source() != other.source()
    }

    /// Whether one token could stand for both.
    pub(crate) fn may_be_one_with(&self, other: &Self) -> bool {
        let differ = |(name, value)| other.claims.get(name).is_some_and(|theirs| theirs != value);
        self.issuer == other.issuer
            && self.audience == other.audience
            && self.subject == other.subject
            && !self.claims.iter().any(differ)
    }
}

/// The claims that a rule cannot ask for: they have a key of their own, are judged anyway, or differ in each token.
const RESERVED: [&str; 8] = ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "cnf"];

impl IssuerUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuerUrl {
    type Err = NotAnHttpsUrl;

    fn from_str(text: &str) -> Result<Self, NotAnHttpsUrl> {
        // OpenID Connect Discovery 1.0, section 3.
        let HttpsUrl(url) = text.parse()?;
        let has_space = text.chars().any(|c| c.is_whitespace() || c.is_control());
        if has_space || url.query().is_some() || url.fragment().is_some() {
            return Err(NotAnHttpsUrl);
        }
        Ok(Self(text.to_owned()))
    }
}

impl HttpsUrl {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for HttpsUrl {
    type Err = NotAnHttpsUrl;

    fn from_str(text: &str) -> Result<Self, NotAnHttpsUrl> {
        let url = Url::parse(text).map_err(|_| NotAnHttpsUrl)?;
        if is_https_or_loopback(&url) { Ok(Self(url)) } else { Err(NotAnHttpsUrl) }
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IssuerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for HttpsUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A text that can stand in a log, where it comes from the callers file.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.chars().any(char::is_control) { Err(D::Error::custom("control characters")) } else { Ok(text) }
}
