//! Counts for each named caller.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use countersign_core::CallerName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::callers::MAX_CALLERS;

/// The series shared by all callers beyond the first [`MAX_CALLERS`]. A caller with this very name shares it too.
const OTHER: &str = "other";

type ByProblem = [(&'static str, String); 2];

/// The counters of requests that a caller was denied. Names come from the callers file, so that a stranger chooses none; over the
/// years there may be many, and the number of series stays bounded.
#[derive(Debug, Default)]
pub(crate) struct CallerCounters {
    names: Mutex<BTreeSet<CallerName>>,
    denied: Family<ByProblem, Counter>,
}

impl CallerCounters {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "countersign_caller_requests_denied",
            "Requests that a named caller may not make, by problem",
            self.denied.clone(),
        );
    }

    /// This caller asked for more than it may have.
    pub(crate) fn denied(&self, caller: &CallerName, problem: &str) {
        let labels = [("caller", self.label(caller)), ("problem", problem.to_owned())];
        self.denied.get_or_create(&labels).inc();
    }

    fn label(&self, caller: &CallerName) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(caller) {
            if names.len() >= MAX_CALLERS {
                return OTHER.to_owned();
            }
            names.insert(caller.clone());
        }
        caller.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_series_is_bounded() {
        let counters = CallerCounters::default();
        for nth in 0..MAX_CALLERS + 10 {
            counters.denied(&format!("c{nth}").parse().unwrap(), "scope");
        }
        let count = |caller: &str| {
            counters
                .denied
                .get_or_create(&[("caller", caller.to_owned()), ("problem", "scope".to_owned())])
                .get()
        };
        assert_eq!((count("c0"), count(&format!("c{}", MAX_CALLERS - 1)), count(OTHER)), (1, 1, 10));
        counters.denied(&"c0".parse().unwrap(), "scope");
        assert_eq!((count("c0"), count(OTHER)), (2, 10));
    }
}
