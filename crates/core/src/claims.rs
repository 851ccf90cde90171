//! The claims of a token: a small JSON object from the issuer for the tracker.

use serde_json::{Map, Value};

use crate::CallerName;

/// The longest claims, in bytes of compact JSON.
pub const MAX_CLAIMS_BYTES: usize = 1024;

/// The member of the sealed claims that names the caller for which the token was issued. It is no claim: opening a token
/// removes it. It stands among the claims because a server of an earlier version knows no other place, and
/// has to open such tokens too while the servers of one store are upgraded one by one.
pub const ISSUED_BY: &str = "@caller";

/// A JSON object that travels inside the token and is handed to the tracker that redeems it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Why an object cannot be a token's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// They are longer than [`MAX_CLAIMS_BYTES`].
    #[error("claims are {0} bytes as compact JSON, and {MAX_CLAIMS_BYTES} is the most a token can carry")]
    TooLong(usize),
    /// They have the member [`ISSUED_BY`].
    #[error("claims cannot have a member `{ISSUED_BY}`: a token says there for which caller it was issued")]
    Reserved,
}

impl Claims {
    /// Takes an object as claims, if it is small enough to travel in a URL.
    pub fn new(members: Map<String, Value>) -> Result<Self, ClaimsError> {
        if members.contains_key(ISSUED_BY) {
            return Err(ClaimsError::Reserved);
        }
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
    fn to_json(&self) -> String {
        if self.is_empty() { String::new() } else { Value::Object(self.0.clone()).to_string() }
    }

    /// The same, with the caller for which the token is issued.
    pub(crate) fn to_sealed(&self, issued_by: Option<&CallerName>) -> String {
        let Some(caller) = issued_by else { return self.to_json() };
        let mut members = self.0.clone();
        members.insert(ISSUED_BY.to_owned(), Value::String(caller.to_string()));
        Value::Object(members).to_string()
    }

    /// Claims out of a token that this server sealed, and the caller for which it was issued.
    pub(crate) fn from_sealed(json: &str) -> Option<(Self, Option<CallerName>)> {
        if json.is_empty() {
            return Some((Self::default(), None));
        }
        let mut members: Map<String, Value> = serde_json::from_str(json).ok()?;
        let named = members.get(ISSUED_BY).and_then(Value::as_str).and_then(|name| name.parse().ok());
        if named.is_some() {
            members.remove(ISSUED_BY);
        }
        Some((Self(members), named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn claims_have_at_most_1024_bytes_and_no_caller() {
        let of_length = |bytes: usize| object(&format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8)));
        assert!(Claims::new(of_length(MAX_CLAIMS_BYTES)).is_ok());
        let longer = Claims::new(of_length(MAX_CLAIMS_BYTES + 1));
        assert_eq!(longer, Err(ClaimsError::TooLong(MAX_CLAIMS_BYTES + 1)));
        assert_eq!(Claims::new(object("{\"@caller\":\"ops\"}")), Err(ClaimsError::Reserved));
    }

    #[test]
    fn sealed_claims_say_for_whom_the_token_was_issued() {
        let claims = Claims::new(object("{\"a\":1}")).unwrap();
        let caller: CallerName = "worker".parse().unwrap();
        for (claims, issued_by) in [
            (claims.clone(), Some(caller.clone())),
            (claims.clone(), None),
            (Claims::default(), Some(caller)),
        ] {
            let sealed = claims.to_sealed(issued_by.as_ref());
            assert_eq!(Claims::from_sealed(&sealed), Some((claims, issued_by)), "{sealed}");
        }
        assert_eq!(Claims::default().to_sealed(None), "");
        assert_eq!(Claims::from_sealed(""), Some((Claims::default(), None)));
        assert_eq!(Claims::from_sealed("no JSON"), None);
        assert!(Claims::default().is_empty() && !claims.is_empty());
        assert_eq!(claims.members(), &object("{\"a\":1}"));
        // A member with an impossible caller name is a claim like any other.
        let odd = "{\"@caller\":\"Not A Name\"}";
        assert_eq!(Claims::from_sealed(odd), Some((Claims(object(odd)), None)));
    }
}
