//! Whether the database can be reached, as last seen.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Present, or away and why.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<HealthState>,
}

#[derive(Debug, Default)]
struct HealthState {
    /// `None`: present.
    away: Option<String>,
    closed: bool,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, HealthState> {
        // Every change is a single step, so a panic elsewhere cannot have left it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be done now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        if state.closed { Some("it has been closed".to_owned()) } else { state.away.clone() }
    }

    /// Why the database cannot be used now, if so.
    pub(super) fn away(&self) -> Option<String> {
        self.lock().away.clone()
    }

    /// The database is unreachable. Returns whether that is new: then the caller has to start the task that looks for it.
    pub(super) fn went(&self, reason: &str) -> bool {
        let mut state = self.lock();
        let is_news = state.away.is_none() && !state.closed;
        state.away = Some(reason.to_owned());
        if is_news {
            tracing::error!(reason, "the store is not usable; no token is consumed until it is");
        }
        is_news
    }

    /// It is back.
    pub(super) fn returned(&self) {
        if self.lock().away.take().is_some() {
            tracing::info!("the store is usable again");
        }
    }

    /// Closes for ever. Returns whether it was open.
    pub(super) fn close(&self) -> bool {
        !std::mem::replace(&mut self.lock().closed, true)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}
