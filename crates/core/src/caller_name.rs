//! The name of a caller of the private API.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

/// The longest name, in characters.
pub const MAX_CALLER_NAME_CHARS: usize = 32;

/// The name of the caller that shows the one secret of `private_bearer_file`, or that is asked for none. A token that it
/// issued carries no name.
pub const DEFAULT_CALLER: &str = "default";

/// The name in the place of a tracker's for tokens that are bound to no tracker.
pub const UNBOUND: &str = "unbound";

/// A name that an operator gave to a caller of the private API. It is not a secret; it stands in tokens, events and metrics,
/// so that nothing in it could be mistaken for anything else, and so that two names never look alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerName(Arc<str>);

/// Why a text is not a caller's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a caller's name has at most {MAX_CALLER_NAME_CHARS} characters: lower-case letters, digits, - and _, beginning with a \
     letter or a digit; `{DEFAULT_CALLER}` is the caller without a name"
)]
pub struct CallerNameError;

impl CallerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CallerName {
    type Err = CallerNameError;

    fn from_str(text: &str) -> Result<Self, CallerNameError> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= MAX_CALLER_NAME_CHARS
            && text.bytes().next().is_some_and(is_plain)
            && text.bytes().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'))
            && text != DEFAULT_CALLER;
        fits.then(|| Self(text.into())).ok_or(CallerNameError)
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CallerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CallerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_accepted() {
        let longest = "x".repeat(MAX_CALLER_NAME_CHARS);
        for name in ["worker-eu", "a", "0", "checkwatches_2", &longest] {
            assert_eq!(name.parse::<CallerName>().unwrap().as_str(), name);
        }
        for name in [
            "",
            "default",
            "-a",
            "_a",
            "Worker",
            "a b",
            "a.b",
            "a/b",
            "b\u{fc}cher",
            "a\n",
            &format!("{longest}x"),
        ] {
            assert_eq!(name.parse::<CallerName>(), Err(CallerNameError), "{name}");
        }
    }

    #[test]
    fn name_round_trips_as_text_and_json() {
        let name: CallerName = "worker-eu".parse().unwrap();
        assert_eq!(name.to_string(), "worker-eu");
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(json, "\"worker-eu\"");
        assert_eq!(serde_json::from_str::<CallerName>(&json).unwrap(), name);
        assert!(serde_json::from_str::<CallerName>("\"No Name\"").is_err());
    }
}
