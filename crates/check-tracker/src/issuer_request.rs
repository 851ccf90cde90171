//! A tracker's request to the issuer.

use std::fmt;

use bytes::Bytes;
use countersign_core::Audience;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Uri};

/// One request to the issuer. `Debug` says nothing of it: it has the token.
pub(crate) struct IssuerRequest {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl fmt::Debug for IssuerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("method", &self.method).finish_non_exhaustive()
    }
}

impl IssuerRequest {
    /// Whether it was asked where the tracker was told to ask for this token.
    pub(crate) fn is_at_handshake_of(&self, token: &str) -> bool {
        self.uri.query().is_none() && is_handshake(self.uri.path(), token)
    }

    /// Its `Idempotency-Key`; a blank one is none.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        let key = self.headers.get("idempotency-key")?.as_bytes().trim_ascii();
        (!key.is_empty()).then_some(key)
    }

    /// The audience that it states, in normal form. `Err` says why that cannot be told.
    pub(crate) fn audience(&self) -> Result<Option<Audience>, String> {
        let Some(text) = self.audience_text()? else { return Ok(None) };
        let parsed = Audience::parse(&text);
        parsed.map(Some).map_err(|error| format!("it states the audience {text:?}, which {error}"))
    }

    fn audience_text(&self) -> Result<Option<String>, String> {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/x-www-form-urlencoded" => {
                let mut stated = form_urlencoded::parse(&self.body)
                    .filter_map(|(name, value)| (name == "audience").then(|| value.into_owned()));
                match (stated.next(), stated.next()) {
                    (stated, None) => Ok(stated),
                    (_, Some(_)) => Err("it states the audience twice".to_owned()),
                }
            }
            "application/json" if !self.body.is_empty() => {
                let body: serde_json::Value = serde_json::from_slice(&self.body)
                    .map_err(|_| "its body claims to be JSON and is not".to_owned())?;
                Ok(body.get("audience").and_then(serde_json::Value::as_str).map(str::to_owned))
            }
            _ if self.body.is_empty() => Ok(None),
            _ => Err(format!(
                "its body has the Content-Type {kind:?}; an issuer reads application/x-www-form-urlencoded and \
                 application/json"
            )),
        }
    }
}

/// Whether this is the path of a token's handshake; the plus sign may be percent-encoded.
pub(crate) fn is_handshake(path: &str, token: &str) -> bool {
    path.strip_prefix("/token/").and_then(|rest| rest.strip_prefix(token)).is_some_and(|rest| {
        matches!(rest, "/+bugtracker-handshake" | "/%2Bbugtracker-handshake" | "/%2bbugtracker-handshake")
    })
}
