//! The rules of the handshake: pure functions that take facts and return a decision.
//!
//! [`decide`] looks at the token, the request and the time. If it says [`Decision::Consume`], the store is asked to end
//! the token's life, and [`settle`] reads the store's answer. All rules about token, request and time are here; the store
//! adds the fence and the horizon.

use std::time::Duration;

use jiff::Timestamp;

use crate::set::RETRY_WINDOW;
use crate::{Audience, AudienceError, Consumption, EndResult, Ending, LoginToken, RetryKeyHash, after};

/// How far the clock of a server may be from that of its store, and how far ahead of the verifier's clock a token may
/// have been created.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// What a handshake request says, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whether the method is POST.
    pub is_post: bool,
    /// The tracker's statement of who it is.
    pub audience: StatedAudience,
    /// The hash of its `Idempotency-Key`, if it sent one.
    pub retry_key: Option<RetryKeyHash>,
}

/// Which tracker the request says it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatedAudience {
    /// Nothing was stated.
    None,
    /// This one.
    Tracker(Audience),
    /// Something was stated that cannot be understood.
    Unreadable(UnreadableAudience),
}

/// Why a statement of the audience cannot be understood. It matters only if the token is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableAudience {
    /// It is not the base URL of a tracker.
    #[error("the audience {0}")]
    NotABaseUrl(#[from] AudienceError),
    /// It is stated more than once.
    #[error("the audience is stated more than once")]
    Twice,
    /// It is not a text.
    #[error("the audience must be a string")]
    NotText,
    /// The body is not the JSON object that its `Content-Type` promises.
    #[error("the body is not a JSON object, although its Content-Type says so")]
    NotJson,
    /// The body is a form of another kind than the server reads.
    #[error("the body is multipart/form-data; send the form as application/x-www-form-urlencoded")]
    Multipart,
    /// The body is longer than the server reads.
    #[error("the body is too long to be a handshake")]
    TooLong,
}

/// The decision about a request, before the store is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'t> {
    /// Ask the store to end this token's life; [`settle`] reads the answer.
    Consume(&'t LoginToken),
    /// The token has expired, but a key came with it, and an answer to that key may have been lost: look whether it
    /// was consumed with it, and consume nothing.
    Recall(&'t LoginToken),
    /// Reject it, without asking the store.
    Reject(Refusal),
}

/// The answer to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is good, and consumed by this very request, or by an earlier one with the same key.
    Accepted {
        /// When it was consumed.
        consumed: Timestamp,
        /// Whether the consumption is an earlier one, whose answer seems to have been lost.
        again: bool,
    },
    /// It is not accepted.
    Rejected(Refusal),
}

/// Why a handshake is rejected. Every surface says it in its own way with an exhaustive `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The method is not POST.
    NotPost,
    /// Not a token of this server.
    NotOurs,
    /// It is bound to a tracker, and the request does not say which one it comes from.
    AudienceMissing,
    /// It is bound to a tracker, and what the request states cannot be understood.
    AudienceUnreadable(UnreadableAudience),
    /// It is bound to another tracker: a relay attempt.
    AudienceMismatch,
    /// Its time is over.
    Expired,
    /// It was made further in the future than clocks may be apart.
    FromTheFuture,
    /// It was made before the store's fence, or expired before its horizon.
    Fenced,
    /// It was revoked.
    Revoked,
    /// It was consumed before, by this use.
    Replay(Consumption),
}

impl Refusal {
    /// The reason in a word, for metrics and problem types. Stable.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotPost => "method",
            Self::NotOurs => "unknown",
            Self::AudienceMissing => "audience-missing",
            Self::AudienceUnreadable(_) => "audience-unreadable",
            Self::AudienceMismatch => "audience-mismatch",
            Self::Expired => "expired",
            Self::FromTheFuture => "from-the-future",
            Self::Fenced => "fenced",
            Self::Revoked => "revoked",
            Self::Replay(_) => "replay",
        }
    }
}

/// Decides what to do about a request. `token` is `None` if its text could not be unsealed.
///
/// Tokens are known to be created as late as `latest`: at the fence, which clocks may not have reached yet, or by a node
/// whose clock is as far ahead of the store's as this one is behind. Where nothing is known, it is `now`.
///
/// The audience comes first among the refusals of an authentic token: a token shown by the wrong tracker is worth knowing
/// about, whether or not it has expired.
pub fn decide<'t>(
    attempt: &Attempt,
    token: Option<&'t LoginToken>,
    now: Timestamp,
    latest: Timestamp,
) -> Decision<'t> {
    if !attempt.is_post {
        return Decision::Reject(Refusal::NotPost);
    }
    let Some(token) = token else {
        return Decision::Reject(Refusal::NotOurs);
    };
    match (token.audience(), &attempt.audience) {
        (None, _) => {}
        (Some(bound), StatedAudience::Tracker(stated)) if bound == stated => {}
        (Some(_), StatedAudience::Tracker(_)) => return Decision::Reject(Refusal::AudienceMismatch),
        (Some(_), StatedAudience::None) => return Decision::Reject(Refusal::AudienceMissing),
        (Some(_), StatedAudience::Unreadable(why)) => {
            return Decision::Reject(Refusal::AudienceUnreadable(*why));
        }
    }
    if token.created() > after(now, CLOCK_SKEW).max(latest) {
        return Decision::Reject(Refusal::FromTheFuture);
    }
    if now < token.expires() {
        Decision::Consume(token)
    } else if attempt.retry_key.is_some() && now < after(token.expires(), RETRY_WINDOW) {
        Decision::Recall(token)
    } else {
        Decision::Reject(Refusal::Expired)
    }
}

/// Reads the store's answer to a [`Decision::Consume`] or [`Decision::Recall`].
pub fn settle(attempt: &Attempt, decision: &Decision<'_>, answer: EndResult, now: Timestamp) -> Verdict {
    match (answer, decision) {
        (_, Decision::Reject(refusal)) => Verdict::Rejected(refusal.clone()),
        (EndResult::Recorded, Decision::Consume(_)) => Verdict::Accepted { consumed: now, again: false },
        (EndResult::Recorded | EndResult::Fenced, Decision::Recall(_)) | (EndResult::Forgotten, _) => {
            Verdict::Rejected(Refusal::Expired)
        }
        (EndResult::Fenced, Decision::Consume(_)) => Verdict::Rejected(Refusal::Fenced),
        (EndResult::Already(Ending::Revoked { .. }), _) => Verdict::Rejected(Refusal::Revoked),
        (EndResult::Already(Ending::Consumed(first)), _) => {
            let same_key = attempt.retry_key.is_some() && attempt.retry_key == first.retry_key;
            if same_key && now <= after(first.at, RETRY_WINDOW) {
                Verdict::Accepted { consumed: first.at, again: true }
            } else {
                Verdict::Rejected(Refusal::Replay(first))
            }
        }
    }
}

#[cfg(test)]
mod tests;
