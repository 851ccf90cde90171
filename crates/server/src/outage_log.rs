//! Logs a repeated failure in a few lines: one for its start and one for its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a continuing outage is logged.
const REMINDER: Duration = Duration::from_mins(1);

/// How long nothing must fail until the outage is over: an overloaded store fails and succeeds by turns.
const CALM: Duration = Duration::from_secs(5);

/// Failures of one kind: logged when they begin, once a minute while they last, and when they are over.
#[derive(Debug, Default)]
pub(crate) struct OutageLog {
    /// So that what succeeds while all is well looks at nothing else.
    goes_on: AtomicBool,
    outage: Mutex<Option<Outage>>,
}

#[derive(Debug)]
struct Outage {
    failures: u64,
    failed_last: Instant,
    said_last: Instant,
}

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutageNotice {
    /// It begins.
    Begins,
    /// It continues; the number of failures so far.
    GoesOn(u64),
}

impl OutageLog {
    /// Something has failed. Returns what to say of it, if anything.
    pub(crate) fn failed(&self, now: Instant) -> Option<OutageNotice> {
        let mut guarded = self.outage();
        let Some(outage) = guarded.as_mut() else {
            *guarded = Some(Outage { failures: 1, failed_last: now, said_last: now });
            self.goes_on.store(true, Ordering::Relaxed);
            return Some(OutageNotice::Begins);
        };
        outage.failures = outage.failures.saturating_add(1);
        outage.failed_last = now;
        (now.duration_since(outage.said_last) >= REMINDER).then(|| {
            outage.said_last = now;
            OutageNotice::GoesOn(outage.failures)
        })
    }

    /// Something has succeeded. Returns how many failures there were, if that is the end of the outage.
    pub(crate) fn succeeded(&self, now: Instant) -> Option<u64> {
        if !self.goes_on.load(Ordering::Relaxed) {
            return None;
        }
        let mut outage = self.outage();
        let over = outage.take_if(|outage| now.duration_since(outage.failed_last) >= CALM)?;
        self.goes_on.store(false, Ordering::Relaxed);
        Some(over.failures)
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn repeated_failures_take_few_log_lines() {
        let (episode, start) = (OutageLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(episode.succeeded(at(0)), None);
        assert_eq!(episode.failed(at(0)), Some(OutageNotice::Begins));
        for _ in 0..10_000 {
            assert_eq!(episode.failed(at(59)), None);
            assert_eq!(episode.succeeded(at(60)), None, "it fails and answers by turns");
        }
        assert_eq!(episode.failed(at(60)), Some(OutageNotice::GoesOn(10_002)));
        assert_eq!(episode.failed(at(61)), None);
        assert_eq!(episode.succeeded(at(66)), Some(10_003));
        assert_eq!(episode.succeeded(at(67)), None, "it is said once");
        assert_eq!(episode.failed(at(68)), Some(OutageNotice::Begins), "the next one");
    }
}
