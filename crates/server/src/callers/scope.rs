//! What a caller may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A part of the private API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Issue tokens.
    Issue,
    /// Show what is known of a token.
    Look,
    /// Take a token back.
    Revoke,
    /// Read events and metrics.
    Events,
    /// Everything else: the keys, the store, the settings, and the page.
    Admin,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Issue, Self::Look, Self::Revoke, Self::Events, Self::Admin];

    /// It in a word, as it stands in the callers file. Stable.
    pub fn label(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Look => "look",
            Self::Revoke => "revoke",
            Self::Events => "events",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scopes are issue, look, revoke, events and admin")]
pub struct NotAScope;

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        Self::ALL.into_iter().find(|scope| scope.label() == text).ok_or(NotAScope)
    }
}
