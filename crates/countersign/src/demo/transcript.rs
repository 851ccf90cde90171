//! The transcript of the demonstration.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// The conversation so far, in the order in which it happened.
#[derive(Debug, Default)]
pub(super) struct Transcript(Mutex<String>);

impl Transcript {
    pub(super) fn says(&self, from: &str, to: &str, what: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(text, "   {from:>11} → {to:<11}  {what}");
    }

    /// Gives up what was said since the last time.
    pub(super) fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The beginning of a token: enough to tell the demonstration's tokens apart.
pub(super) fn short(token: &str) -> String {
    let beginning: String = token.chars().take(16).collect();
    format!("{beginning}…")
}
