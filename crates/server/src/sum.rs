//! How many tokens were issued and handshakes answered in a time, and how long these took.

use std::ops::AddAssign;

use countersign_core::Reason;

use crate::handshake_outcome::OUTCOMES;
use crate::latency::Latencies;

/// What was counted in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) issued: u64,
    /// In the order of [`OUTCOMES`].
    pub(crate) outcomes: [u64; OUTCOMES.len()],
    /// Of the handshakes.
    pub(crate) latencies: Latencies,
}

impl Sum {
    /// How many handshakes were answered so.
    pub(crate) fn of(&self, outcome: &str) -> u64 {
        self.outcomes().find(|(known, _)| *known == outcome).map_or(0, |(_, count)| count)
    }

    /// How many handshakes were answered in one of these ways. The file that they are kept in may say anything, so no sum overflows.
    fn of_all(&self, outcomes: &[&str]) -> u64 {
        saturating_sum(outcomes.iter().map(|outcome| self.of(outcome)))
    }

    /// How many handshakes were answered in each way.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.outcomes)
    }

    /// All of them.
    pub(crate) fn handshakes(&self) -> u64 {
        saturating_sum(self.outcomes)
    }

    /// Those that were answered 200.
    pub(crate) fn good(&self) -> u64 {
        self.of_all(&["accepted", "repeated"])
    }

    pub(crate) fn replays(&self) -> u64 {
        self.of("replay")
    }

    pub(crate) fn relays(&self) -> u64 {
        self.of("audience-mismatch")
    }

    pub(crate) fn alarming(&self) -> u64 {
        self.replays().saturating_add(self.relays())
    }

    /// Those that could not be answered (503).
    pub(crate) fn unanswered(&self) -> u64 {
        self.of_all(&["busy", "store-unavailable", "clock"])
    }

    /// Those that were refused for another reason than a replay or a relay.
    pub(crate) fn refused(&self) -> u64 {
        saturating_sum(self.reasons().map(|(_, count)| count))
    }

    /// The reasons for that, each with how often it was the one.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let is_one = |outcome: &str| Reason::of_label(outcome).is_some();
        self.outcomes().filter(move |(outcome, count)| *count > 0 && is_one(outcome))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.issued == 0 && self.handshakes() == 0
    }

    /// What came on top of what was counted before.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut more = Self {
            issued: self.issued.saturating_sub(before.issued),
            outcomes: self.outcomes,
            latencies: self.latencies.since(&before.latencies),
        };
        more.outcomes
            .iter_mut()
            .zip(before.outcomes)
            .for_each(|(count, before)| *count = count.saturating_sub(before));
        more
    }
}

pub(crate) fn saturating_sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

impl AddAssign<&Self> for Sum {
    fn add_assign(&mut self, more: &Self) {
        self.issued = self.issued.saturating_add(more.issued);
        let outcomes = self.outcomes.iter_mut().zip(more.outcomes);
        outcomes.for_each(|(count, more)| *count = count.saturating_add(more));
        self.latencies.add(&more.latencies);
    }
}

#[cfg(test)]
impl Sum {
    /// So many handshakes, by how they were answered.
    pub(crate) fn of_handshakes(counts: &[(&str, u64)]) -> Self {
        let count =
            |outcome| counts.iter().find(|(known, _)| *known == outcome).map_or(0, |(_, count)| *count);
        Self { outcomes: OUTCOMES.map(count), ..Self::default() }
    }
}
