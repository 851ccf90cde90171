//! Everything observed while the steps of a check ran.

use std::time::Duration;

use countersign_core::Audience;
use countersign_http_client::HttpError;
use countersign_login::{LoginOutcome, TrackerResponse};
use http::Method;
use jiff::Timestamp;
use url::Url;

use crate::Tracker;
use crate::cookies::{Cookie, live_cookies};
use crate::issuer_request::IssuerRequest;
use crate::step::Step;

/// The tracker, and what came of each step.
pub(crate) struct Observation<'a> {
    pub(crate) tracker: Tracker,
    /// The tracker's base URL, as the worker reaches it.
    pub(crate) base: &'a Url,
    /// What the tracker is to state.
    pub(crate) audience: &'a Audience,
    pub(crate) visits: Vec<StepResult>,
}

/// What came of one step.
pub(crate) struct StepResult {
    pub(crate) step: Step,
    /// What the worker brought; empty if nothing.
    pub(crate) token: String,
    pub(crate) tracker: Tracker,
    /// When the worker set out.
    pub(crate) began: Timestamp,
    pub(crate) answer: Result<TrackerResponse, NoResponse>,
    /// What the issuer was asked meanwhile.
    pub(crate) issuer_log: IssuerLog,
}

/// What the issuer heard during one step.
#[derive(Debug, Default)]
pub(crate) struct IssuerLog {
    pub(crate) questions: Vec<IssuerRequest>,
    /// How many connections came to the issuer.
    pub(crate) callers: usize,
    /// How many came to the decoy.
    pub(crate) misled: usize,
    /// How many connections carried something that was not HTTP.
    pub(crate) garbled: usize,
    /// Whether the tracker read a whole [`crate::step::Reply::LongBody`].
    pub(crate) read_all: bool,
}

/// Why there is no answer of the tracker.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoResponse {
    #[error("it did not answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error("it did not answer: {0}")]
    NoAnswer(String),
}

impl From<HttpError> for NoResponse {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Late(limit) => Self::Late(limit),
            other => Self::NoAnswer(other.to_string()),
        }
    }
}

impl StepResult {
    pub(crate) fn answered(&self) -> Result<&TrackerResponse, String> {
        self.answer.as_ref().map_err(ToString::to_string)
    }

    /// What the answer means; `Err` if there is none.
    pub(crate) fn outcome(&self) -> Result<LoginOutcome, String> {
        self.answered().map(|answer| self.tracker.kind().outcome(answer))
    }

    /// Whether the answer looks like a yes to a client of any kind: a redirect after a login is one.
    pub(crate) fn seems_let_in(&self) -> bool {
        self.answered().is_ok_and(|answer| self.tracker.kind().seems_let_in(answer))
    }

    /// The session's cookies, if the worker was let in; otherwise what happened instead.
    pub(crate) fn session(&self) -> Result<Vec<Cookie>, String> {
        match self.outcome()? {
            LoginOutcome::LetIn => Ok(live_cookies(&self.answered()?.headers)),
            LoginOutcome::Refused => Err("the worker was not let in, though the issuer said yes".to_owned()),
            LoginOutcome::Other(what) => Err(format!("the worker was not let in, but met with {what}")),
        }
    }

    /// The questions that could consume the token.
    pub(crate) fn posts(&self) -> impl Iterator<Item = &IssuerRequest> {
        self.issuer_log.questions.iter().filter(|question| question.method == Method::POST)
    }

    /// The first of these.
    pub(crate) fn question(&self) -> Result<&IssuerRequest, String> {
        self.posts().next().ok_or_else(|| "the issuer was not asked with POST".to_owned())
    }
}
