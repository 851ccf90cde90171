//! A token under test, the history of its requests, and the first acceptance.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::TrialError;
use crate::client::{HandshakeResponse, Issued, Issuer, Tracker, date_consumed};
use crate::history::{History, Key, ObservedStatus, Op, Ret};

/// A token under trial.
#[derive(Debug)]
pub(crate) struct TrialToken {
    pub(crate) token: Issued,
    pub(crate) history: History,
    yes: Mutex<Option<FirstAcceptance>>,
}

/// The first 200 that anybody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstAcceptance {
    pub(crate) key: Key,
    pub(crate) body: Bytes,
}

/// What a caller makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerOutcome {
    Accepted,
    Refused,
    /// None came, or one that says to ask again.
    NoAnswer,
}

impl TrialToken {
    pub(crate) fn new(token: Issued) -> Self {
        let history = History::new(&token.id.to_string());
        Self { token, history, yes: Mutex::default() }
    }

    /// Redeems, and holds the answer against all that was promised before: every 200 is the first one's, to the byte
    /// and with its key; every refusal is one of a replay, not of a token that the server has lost track of.
    pub(crate) async fn redeem(
        &self,
        tracker: &mut Tracker,
        key: Option<Key>,
    ) -> Result<CallerOutcome, TrialError> {
        let call = self.history.sent(Op::Redeem(key));
        match tracker.redeem(&self.token.text, key).await {
            Ok(HandshakeResponse::Accepted(body)) => {
                self.history.answered(call, Ret::Accepted);
                self.accepted(key, body)?;
                Ok(CallerOutcome::Accepted)
            }
            Ok(HandshakeResponse::Spent(reason)) if reason == "replay" => {
                self.history.answered(call, Ret::Refused);
                Ok(CallerOutcome::Refused)
            }
            Ok(HandshakeResponse::Later(status)) => {
                self.history.lost(call, status);
                Ok(CallerOutcome::NoAnswer)
            }
            Ok(other) => {
                self.history.lost(call, &other);
                Err(self.broken(&format!("a token that was live or consumed was answered {other}")))
            }
            Err(lost) => {
                self.history.lost(call, lost);
                Ok(CallerOutcome::NoAnswer)
            }
        }
    }

    /// Records a 200 that a proxy in between has seen.
    pub(crate) fn accepted(&self, key: Option<Key>, body: Bytes) -> Result<(), TrialError> {
        let mut yes = self.lock();
        match (&*yes, key) {
            (None, Some(key)) => *yes = Some(FirstAcceptance { key, body }),
            (Some(first), Some(key)) if first.key == key && first.body == body => {}
            (Some(first), Some(key)) if first.key == key => {
                drop(yes);
                return Err(self.broken("the same key got 200 twice, but not with the same body"));
            }
            _ => {
                drop(yes);
                return Err(self.broken("a second 200, and not for the key of the first"));
            }
        }
        Ok(())
    }

    /// Looks, and wants to see the consumption that the 200 told of.
    pub(crate) async fn look(&self, issuer: &mut Issuer) -> Result<(), TrialError> {
        let call = self.history.sent(Op::Look);
        let standing = match issuer.look(&self.token.text).await {
            Ok(Some(standing)) => standing,
            Ok(None) => return Err(self.broken("the private API could not say how a token stands")),
            Err(lost) => {
                self.history.lost(call, &lost);
                return Err(lost.into());
            }
        };
        let Some(sight) = standing.sight else {
            return Err(self.broken(&format!("the token stands as {:?}", standing.status)));
        };
        self.history.answered(call, Ret::Seen(sight));
        let told = self.yes().and_then(|yes| date_consumed(&yes.body));
        if told.is_some() && (sight != ObservedStatus::Consumed || standing.consumed != told) {
            return Err(self.broken("the record is not the consumption that a 200 told of"));
        }
        Ok(())
    }

    /// The first 200.
    pub(crate) fn yes(&self) -> Option<FirstAcceptance> {
        self.lock().clone()
    }

    /// A broken promise about this token.
    pub(crate) fn broken(&self, promise: &str) -> TrialError {
        self.history.violation(promise).into()
    }

    fn lock(&self) -> MutexGuard<'_, Option<FirstAcceptance>> {
        self.yes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
