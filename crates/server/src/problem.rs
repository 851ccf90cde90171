//! Refusals as RFC 9457 problem details, and the answers that every listener gives.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::coding::UnknownCoding;

/// Every reason for a refusal, with its statuses and what it means. Stable.
pub const PROBLEMS: &[(&str, &str, &str)] = &[
    ("audience", "400", "what a token is to be bound to is not the base URL of a tracker"),
    ("audience-mismatch", "403", "the token is for another bug tracker"),
    ("audience-missing", "403", "the token is for one bug tracker, and none was stated"),
    ("audience-required", "400", "this server issues only tokens that are bound to a bug tracker"),
    (
        "audience-unreadable",
        "403",
        "the token is for one bug tracker, and what was stated is not its base URL",
    ),
    ("body", "400", "the body is not as `/openapi.json` describes it, or did not arrive whole"),
    ("body-too-long", "413", "the body is longer than allowed"),
    ("busy", "503", "too many handshakes wait for the store"),
    ("caller-audience", "403", "the caller may not have tokens for this tracker, or has to name one"),
    ("caller-lifetime", "403", "the caller may not have tokens that live so long"),
    ("caller-rate", "429", "the caller has had as many tokens as it may in a minute"),
    ("cannot-issue", "503", "there is no key that seals, or no randomness"),
    ("claims", "400", "the claims are too long, or are not a JSON object"),
    ("clock", "503", "this server's clock is wrong, and nothing that needs it is done until it is right"),
    ("content-encoding", "415", "the body is compressed, and not by gzip or deflate"),
    ("content-type", "415", "the body is not said to be JSON"),
    ("credential", "401", "no secret or JWT of a caller of the private API was shown"),
    ("expired", "401 or 410", "the token's time is over"),
    ("fenced", "401 or 410", "the token was issued before the store's fence"),
    ("foreign-host", "403", "without a bearer secret, the request is not addressed to localhost or a number"),
    ("foreign-origin", "403", "a web page of another site asks"),
    ("forgotten", "410", "the token expired so long ago that its record is gone"),
    ("from-the-future", "401 or 410", "the token was made later than this server's clock shows"),
    ("incomplete", "400 or 408", "a handshake did not arrive whole, or not in time; nothing was consumed"),
    ("internal", "500", "something broke off that should not; the log has more"),
    ("issuer-unavailable", "503", "the keys of a JWT's issuer cannot be fetched"),
    ("key-id", "400", "the id is not one of a key"),
    ("key-ring", "409 or 503", "the key ring does not allow the change, or could not be written"),
    ("key-seals", "409", "the key to revoke is the one that seals, and `rotate` was not asked for"),
    ("method", "405", "a handshake is a POST"),
    ("query", "400", "the query of `/v1/events` has a mistake, or there is one where none belongs"),
    ("replay", "401 or 410", "the token was consumed before"),
    ("revoked", "401 or 410", "the token was taken back"),
    ("scope", "403", "the caller's scopes do not have what the route takes; `detail` names it"),
    ("store-unavailable", "503", "the store cannot be used now"),
    ("too-long", "400", "the token's text would be too long"),
    ("too-many-followers", "503", "too many follow events already"),
    ("too-many-refusals", "429", "too many handshakes, or secrets, of this address were refused"),
    ("too-many-exports", "503", "too many files of events are being sent already"),
    ("too-many-viewers", "503", "too many look at the operators' page already"),
    ("ttl", "400", "the lifetime is not one that a token can have"),
    ("unknown", "404", "not a token of this server"),
];

/// A refusal: what a program needs to tell it from others, and a sentence for a person.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:countersign:problem:` and the reason in a word; stable.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do about it.
    detail: Cow<'static, str>,
}

impl Problem {
    /// A problem of the given reason, one of [`PROBLEMS`].
    pub(crate) fn new(status: StatusCode, reason: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        debug_assert!(PROBLEMS.iter().any(|(known, ..)| *known == reason), "{reason} is not in PROBLEMS");
        Self {
            kind: format!("urn:countersign:problem:{reason}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// What is wrong, for a person.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn bad_request(reason: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_of_coding = self.kind.ends_with(":content-encoding");
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if is_of_coding { UnknownCoding::explain(response) } else { response }
    }
}

/// Tells the caller when asking again is worth it. Whole seconds, at least one.
pub(crate) fn with_retry_after(mut response: Response, wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// Tells the caller which methods there are (RFC 9110 section 15.5.6).
pub(crate) fn with_allow(mut response: Response, methods: &'static str) -> Response {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Tells the caller what kind of credential is asked for (RFC 9110 section 15.5.2).
pub(crate) fn with_challenge(mut response: Response, challenge: &'static str) -> Response {
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// Not found, or indistinguishable from it.
pub(crate) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "Not found.").into_response()
}

/// The headers of every answer: nothing here may be kept by a cache, unless it says so itself, or guessed at by a browser.
pub(crate) fn with_common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
