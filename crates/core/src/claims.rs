//! The claims of a token: a small JSON object from the issuer for the tracker.

use serde_json::{Map, Value};

/// The longest claims, in bytes of compact JSON.
pub const MAX_CLAIMS_BYTES: usize = 1024;

/// A JSON object that travels inside the token and is handed to the tracker that redeems it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Why an object cannot be a token's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// They are longer than [`MAX_CLAIMS_BYTES`].
    #[error("claims are {0} bytes as compact JSON, and {MAX_CLAIMS_BYTES} is the most a token can carry")]
    TooLong(usize),
}

impl Claims {
    /// Takes an object as claims, if it is small enough to travel in a URL.
    pub fn new(members: Map<String, Value>) -> Result<Self, ClaimsError> {
        let claims = Self(members);
        match claims.to_json().len() {
            length if length > MAX_CLAIMS_BYTES => Err(ClaimsError::TooLong(length)),
            _ => Ok(claims),
        }
    }

    /// The members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compact JSON; empty text for no claims.
    pub(crate) fn to_json(&self) -> String {
        if self.is_empty() { String::new() } else { Value::Object(self.0.clone()).to_string() }
    }

    /// Claims out of a token that this server sealed.
    pub(crate) fn from_sealed(json: &str) -> Option<Self> {
        if json.is_empty() {
            return Some(Self::default());
        }
        serde_json::from_str(json).ok().map(Self)
    }
}
