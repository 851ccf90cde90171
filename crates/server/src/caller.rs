//! Who sent a request (public or private): its address, the request's id, and what a named caller may do.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::FromRequestParts;
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use countersign_core::{CallerName, Entropy, Note, RequestId};
use data_encoding::HEXLOWER;

use crate::arrival::Arrival;
use crate::callers::Grant;

/// The header with which every answer names its request.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who sent a request, as far as an event tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) peer: Option<IpAddr>,
    pub(crate) request: Option<RequestId>,
    user_agent: Option<HeaderValue>,
    /// What the guard of the private API found that it may do.
    pub(crate) grant: Grant,
}

impl Caller {
    /// Of a request, by the address that it comes from. It may do nothing.
    pub(crate) fn of(arrival: &Arrival, headers: &HeaderMap) -> Self {
        Self {
            peer: arrival.peer,
            request: arrival.id,
            // Only a reference is kept; it is read if there is an event to write.
            user_agent: headers.get(USER_AGENT).cloned(),
            grant: Grant::Nothing,
        }
    }

    /// The same with what it may do.
    pub(crate) fn with(self, grant: Grant) -> Self {
        Self { grant, ..self }
    }

    /// Its name, if it has one.
    pub(crate) fn name(&self) -> Option<&CallerName> {
        self.grant.name()
    }

    /// Of a connection on which no request has come.
    pub(crate) fn from_address(peer: Option<IpAddr>) -> Self {
        Self { peer, ..Self::default() }
    }

    /// The same on behalf of the client that a proxy names.
    pub(crate) fn behind_proxies(self, peer: Option<IpAddr>) -> Self {
        Self { peer, ..self }
    }

    /// The `User-Agent` of the request.
    pub(crate) fn user_agent(&self) -> Option<Note> {
        self.user_agent.as_ref().and_then(|value| Note::clean(value.as_bytes()))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let grant = parts.extensions.get::<Grant>().cloned().unwrap_or_default();
        Ok(Self::of(&Arrival::of(&parts.extensions), &parts.headers).with(grant))
    }
}

/// Names requests. None is taken from outside: a stranger could give two requests one name.
#[derive(Debug)]
pub(crate) struct RequestIds(AtomicU64);

impl RequestIds {
    /// Begins anywhere, so that two runs of a server hardly share a name. Without randomness they may.
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut start = [0; 8];
        let start = entropy.fill(&mut start).map_or(0, |()| u64::from_ne_bytes(start));
        Self(AtomicU64::new(start))
    }

    /// The next name. An odd step visits every number before it comes back to one, and makes neighbours look apart.
    pub(crate) fn next(&self) -> RequestId {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        RequestId(self.0.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// A request's name as the value of a header.
pub(crate) fn header(RequestId(number): RequestId) -> HeaderValue {
    // Every answer has one, and `format!` takes several times as long.
    let mut digits = [0; 16];
    HEXLOWER.encode_mut(&number.to_be_bytes(), &mut digits);
    // Hexadecimal digits always make a header.
    HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_is_the_same_in_answer_and_log() {
        for number in [0, 1, 0x9e37_79b9_7f4a_7c15, u64::MAX] {
            let id = RequestId(number);
            assert_eq!(header(id).to_str().unwrap(), id.to_string());
        }
    }
}
