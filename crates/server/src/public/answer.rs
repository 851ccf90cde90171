//! Turns a verdict into an HTTP response: the protocol's table of statuses and texts.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use countersign_core::handshake::Refusal;
use countersign_core::{Audience, LoginToken, StoreError};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::attempt::Incomplete;
use crate::coding::UnknownCoding;
use crate::problem::{Problem, with_allow, with_challenge, with_retry_after};
use crate::{App, SpentStatus};

/// The kind of token there is.
pub(crate) const TOKEN_TYPE: &str = "BUGTRACKER";

const VALIDATED: &str = "Handshake token validated.";
const SPENT: &str = "Token has already been used or is invalid.";
const NOT_POST: &str = "Only POST requests are accepted for bugtracker handshakes.";

/// RFC 9110 section 11.6.1 wants a challenge with every 401. There is no credential to offer but another token.
const CHALLENGE: &str = "LoginToken realm=\"bugtracker-handshake\"";

/// Writes the answers to one request.
pub(super) struct ResponseWriter<'a> {
    pub(super) app: &'a App,
    pub(super) json: bool,
}

/// The details of an accepted token, for a tracker that asks for JSON.
#[derive(Serialize)]
struct Accepted<'a> {
    token_id: &'a str,
    token_type: &'static str,
    issuer: &'a str,
    audience: &'a str,
    date_created: Timestamp,
    date_consumed: Timestamp,
    claims: &'a Map<String, Value>,
}

impl ResponseWriter<'_> {
    pub(super) fn accepted(&self, text: &str, token: &LoginToken, consumed: Timestamp) -> Response {
        if !self.json {
            return VALIDATED.into_response();
        }
        let accepted = Accepted {
            token_id: text,
            token_type: TOKEN_TYPE,
            issuer: &self.app.names.issuer,
            audience: token.audience().map_or("", Audience::as_str),
            date_created: token.created(),
            date_consumed: consumed,
            claims: token.claims().members(),
        };
        Json(accepted).into_response()
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Response {
        let status = self.status(refusal);
        let response = self.problem(status, refusal.label(), text(refusal), detail(refusal));
        match status {
            StatusCode::METHOD_NOT_ALLOWED => with_allow(response, "POST"),
            StatusCode::UNAUTHORIZED => with_challenge(response, CHALLENGE),
            _ => response,
        }
    }

    pub(super) fn too_many(&self, wait: Duration) -> Response {
        let text = "Too many refused attempts from this address; try again later.";
        with_retry_after(
            self.problem(StatusCode::TOO_MANY_REQUESTS, "too-many-refusals", text, text.into()),
            wait,
        )
    }

    /// Answers a message that has not arrived whole, in which no token was looked at.
    pub(super) fn incomplete(&self, incomplete: Incomplete) -> Response {
        let (status, reason, text) = match incomplete {
            Incomplete::BrokenOff => (
                StatusCode::BAD_REQUEST,
                "incomplete",
                "The request did not arrive whole, and nothing was consumed; send it again.",
            ),
            Incomplete::TooSlow => (StatusCode::REQUEST_TIMEOUT, "incomplete", "The request took too long."),
            Incomplete::TooLong => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-long",
                "The body is longer than any handshake's, and nothing was consumed.",
            ),
            Incomplete::Coding(_) => {
                let (status, text) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, UnknownCoding::TEXT);
                return UnknownCoding::explain(self.problem(status, "content-encoding", text, text.into()));
            }
        };
        self.problem(status, reason, text, text.into())
    }

    pub(super) fn store_away(&self, error: &StoreError) -> Response {
        let text = "The token store cannot answer now; try again, with the same Idempotency-Key.";
        let response = self.problem(StatusCode::SERVICE_UNAVAILABLE, error.label(), text, text.into());
        with_retry_after(response, error.retry_after())
    }

    fn problem(
        &self,
        status: StatusCode,
        reason: &str,
        text: &'static str,
        detail: Cow<'static, str>,
    ) -> Response {
        if self.json {
            Problem::new(status, reason, detail).into_response()
        } else {
            (status, text).into_response()
        }
    }

    fn status(&self, refusal: &Refusal) -> StatusCode {
        match refusal {
            Refusal::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NotOurs => StatusCode::NOT_FOUND,
            Refusal::AudienceMissing | Refusal::AudienceUnreadable(_) | Refusal::AudienceMismatch => {
                StatusCode::FORBIDDEN
            }
            Refusal::Expired
            | Refusal::FromTheFuture
            | Refusal::Fenced
            | Refusal::Revoked
            | Refusal::Replay(_) => match self.app.spent_status {
                SpentStatus::Unauthorized => StatusCode::UNAUTHORIZED,
                SpentStatus::Gone => StatusCode::GONE,
            },
        }
    }
}

/// What the body says in plain text.
fn text(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotPost => NOT_POST,
        Refusal::NotOurs => "Not found.",
        Refusal::AudienceMissing => {
            "This token is for one bug tracker only: state your configured base URL in the form field \"audience\"."
        }
        Refusal::AudienceUnreadable(_) => {
            "This token is for one bug tracker only, and the stated audience is not a tracker's base URL."
        }
        Refusal::AudienceMismatch => "This token is for another bug tracker.",
        Refusal::Expired
        | Refusal::FromTheFuture
        | Refusal::Fenced
        | Refusal::Revoked
        | Refusal::Replay(_) => SPENT,
    }
}

/// The text of a problem document. Only the holder of an authentic token learns more than "not found".
fn detail(refusal: &Refusal) -> Cow<'static, str> {
    match refusal {
        Refusal::NotPost | Refusal::NotOurs | Refusal::AudienceMissing | Refusal::AudienceMismatch => {
            text(refusal).into()
        }
        Refusal::AudienceUnreadable(why) => {
            format!("This token is for one bug tracker only, and {why}.").into()
        }
        Refusal::Expired => "This token has expired; take a new one.".into(),
        Refusal::FromTheFuture => {
            "This token was issued in the future: the clocks of the issuer's servers are apart.".into()
        }
        Refusal::Fenced => "This token is from before the token server's fence; take a new one.".into(),
        Refusal::Revoked => "This token was revoked by its issuer; take a new one.".into(),
        Refusal::Replay(first) => format!("This token was already used, at {}.", first.at).into(),
    }
}
