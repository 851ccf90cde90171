//! Which trackers there are. A new one is a module like [`crate::trac`], and a line in each `match` here.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use crate::http::{Http, below};
use crate::{LoginError, Session, bugzilla, trac};

/// A kind of bug tracker.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracker {
    /// Trac, with the plugin `countersign_trac` or one that keeps to the same protocol.
    Trac,
    /// Bugzilla, with the extension `Launchpad`.
    Bugzilla,
}

/// What a tracker's module is told besides the token.
pub(crate) struct LoginContext<'a> {
    pub(crate) http: &'a Http,
    /// The tracker's base URL.
    pub(crate) base: &'a Url,
    /// What the token is bound to.
    pub(crate) audience: Option<&'a str>,
    pub(crate) now: Timestamp,
}

impl LoginContext<'_> {
    /// A URL below the tracker's own.
    pub(crate) fn below(&self, parts: &[&str]) -> Url {
        below(self.base, parts)
    }
}

impl Tracker {
    /// Every kind, for a program that offers a choice.
    pub const ALL: [Self; 2] = [Self::Trac, Self::Bugzilla];

    /// The name that a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trac => "trac",
            Self::Bugzilla => "bugzilla",
        }
    }

    /// Makes sure, without a token, that the tracker and its plugin are there.
    pub(crate) async fn detect(self, visit: &LoginContext<'_>) -> Result<(), LoginError> {
        match self {
            Self::Trac => trac::detect(visit).await,
            Self::Bugzilla => bugzilla::detect(visit).await,
        }
    }

    /// Brings the token, which consists of letters and digits.
    pub(crate) async fn log_in(self, visit: &LoginContext<'_>, token: &str) -> Result<Session, LoginError> {
        match self {
            Self::Trac => trac::log_in(visit, token).await,
            Self::Bugzilla => bugzilla::log_in(visit, token).await,
        }
    }
}

impl fmt::Display for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tracker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(" and ");
        Self::ALL
            .into_iter()
            .find(|tracker| tracker.name() == text)
            .ok_or_else(|| format!("{text:?} is not a kind of bug tracker; there are {}", names()))
    }
}
