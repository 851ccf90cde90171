//! The errors of a trial.

use std::fmt;
use std::io;

use crate::client::Lost;

/// Why a trial did not end well.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// It could not be held; nothing is known about the product.
    #[error("{0}")]
    Setup(String),
    /// The product broke a promise.
    #[error(transparent)]
    Violation(Box<Violation>),
}

impl TrialError {
    pub(crate) fn setup(doing: &str, error: impl fmt::Display) -> Self {
        Self::Setup(format!("{doing}: {error}"))
    }
}

impl From<Violation> for TrialError {
    fn from(violation: Violation) -> Self {
        Self::Violation(Box::new(violation))
    }
}

impl From<Lost> for TrialError {
    fn from(lost: Lost) -> Self {
        Self::Setup(format!("the server cannot be reached: {lost}"))
    }
}

impl From<io::Error> for TrialError {
    fn from(error: io::Error) -> Self {
        Self::Setup(format!("the trial's own machinery failed: {error}"))
    }
}

/// A promise that was broken, and everything that was seen of the token it was broken with. Has no token's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VIOLATION: {promise}")]
pub struct Violation {
    /// Which promise.
    pub promise: String,
    /// What happened, one event a line.
    pub evidence: String,
}
