//! Counts answers and records latencies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::{BenchError, ResponseError};
use crate::schedule::Slot;
use crate::workload::{Step, Workload};

/// How many wrong answers are told in words.
const EXAMPLES: usize = 5;

/// The longest latency that is told apart from longer ones, in microseconds.
const LONGEST_MICROS: u64 = 600_000_000;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// From 0 to 1.
    pub done: f64,
    /// Rounds that were answered rightly, those of the warm-up included.
    pub rounds: u64,
    /// Rounds that were not.
    pub errors: u64,
    /// How long the run has been going.
    pub elapsed: Duration,
}

/// Latencies in microseconds, to three digits.
pub(crate) struct LatencyHistogram(pub(crate) Histogram<u64>);

impl LatencyHistogram {
    fn new() -> Result<Self, BenchError> {
        Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
            .map(Self)
            .map_err(|error| BenchError::Range(error.to_string()))
    }

    fn record(&mut self, from: Duration, to: Duration) {
        let micros = to.saturating_sub(from).as_micros();
        self.0.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
    }
}

/// Takes the outcome of every round.
pub(crate) struct Recorder {
    pub(crate) whole: LatencyHistogram,
    pub(crate) parts: Vec<(Step, LatencyHistogram)>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) hints: BTreeSet<&'static str>,
    pub(crate) wrong: u64,
    rounds: u64,
    /// From the first measured round's beginning to the last one's end.
    window: Option<(Duration, Duration)>,
}

impl Recorder {
    pub(crate) fn new(workload: Workload) -> Result<Self, BenchError> {
        Ok(Self {
            whole: LatencyHistogram::new()?,
            parts: workload
                .parts()
                .iter()
                .map(|step| LatencyHistogram::new().map(|series| (*step, series)))
                .collect::<Result<_, _>>()?,
            errors: BTreeMap::new(),
            examples: Vec::new(),
            hints: BTreeSet::new(),
            wrong: 0,
            rounds: 0,
            window: None,
        })
    }

    /// A round was answered rightly. `middle` is when its first part was over, if it has two.
    pub(crate) fn right(&mut self, slot: Slot, times: Times, middle: Option<Duration>) {
        self.rounds += 1;
        if !slot.measured {
            return;
        }
        self.extend_window(times);
        self.whole.record(times.counts_from, times.done);
        if let (Some(middle), [(_, first), (_, second)]) = (middle, self.parts.as_mut_slice()) {
            first.record(times.sent, middle);
            second.record(middle, times.done);
        }
    }

    /// A round was not. It counts in the warm-up, too: no answer may be wrong.
    pub(crate) fn wrong(&mut self, slot: Slot, times: Times, step: Step, wrong: &ResponseError) {
        if slot.measured {
            self.extend_window(times);
        }
        self.wrong += 1;
        let kind = format!("{}: {wrong}", step.name());
        if self.examples.len() < EXAMPLES {
            let detail = wrong.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            self.examples.push(kind.clone() + &detail);
        }
        self.hints.extend(wrong.hint(step));
        *self.errors.entry(kind).or_default() += 1;
    }

    pub(crate) fn progress(&self, done: f64, elapsed: Duration) -> Progress {
        Progress { done, rounds: self.rounds, errors: self.wrong, elapsed }
    }

    /// How long was measured.
    pub(crate) fn measured_time(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(from, to)| to.saturating_sub(from))
    }

    fn extend_window(&mut self, times: Times) {
        let (from, to) = self.window.unwrap_or((times.counts_from, times.done));
        self.window = Some((from.min(times.counts_from), to.max(times.done)));
    }
}

/// When a round was, since the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) counts_from: Duration,
    pub(crate) sent: Duration,
    pub(crate) done: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: Slot = Slot { due: Duration::ZERO, measured: true };
    const WARM_UP: Slot = Slot { due: Duration::ZERO, measured: false };

    fn times(counts_from: u64, sent: u64, done: u64) -> Times {
        let ms = Duration::from_millis;
        Times { counts_from: ms(counts_from), sent: ms(sent), done: ms(done) }
    }

    #[test]
    fn latency_starts_at_the_scheduled_time() {
        let mut recorder = Recorder::new(Workload::Handshake).unwrap();
        recorder.right(MEASURED, times(1000, 3000, 3030), Some(Duration::from_millis(3010)));
        assert!(recorder.whole.0.equivalent(recorder.whole.0.max(), 2_030_000));
        assert!(recorder.parts[0].1.0.equivalent(recorder.parts[0].1.0.max(), 10_000));
        assert!(recorder.parts[1].1.0.equivalent(recorder.parts[1].1.0.max(), 20_000));
        assert_eq!(recorder.measured_time(), Duration::from_millis(2030));
    }

    #[test]
    fn warm_up_is_not_measured_but_its_errors_count() {
        let mut recorder = Recorder::new(Workload::Issue).unwrap();
        recorder.right(WARM_UP, times(0, 0, 500), None);
        recorder.wrong(WARM_UP, times(0, 0, 500), Step::Issue, &ResponseError::Status(503, "Later.".into()));
        recorder.right(MEASURED, times(1000, 1000, 1001), None);
        assert_eq!(recorder.whole.0.len(), 1);
        assert_eq!(recorder.measured_time(), Duration::from_millis(1));
        assert_eq!(recorder.errors, BTreeMap::from([("issue: status 503".to_owned(), 1)]));
        assert_eq!(recorder.examples, ["issue: status 503 (Later.)"]);
        let progress = recorder.progress(0.5, Duration::from_millis(1001));
        assert_eq!((progress.rounds, progress.errors), (2, 1));
    }

    #[test]
    fn only_first_errors_are_described() {
        let mut recorder = Recorder::new(Workload::Replay).unwrap();
        for _ in 0..100 {
            recorder.wrong(
                MEASURED,
                times(0, 0, 1),
                Step::Replay,
                &ResponseError::Status(429, String::new()),
            );
        }
        assert_eq!(recorder.examples.len(), EXAMPLES);
        assert_eq!(recorder.errors.values().sum::<u64>(), 100);
        assert!(recorder.hints.iter().any(|hint| hint.contains("--refusals-per-minute 0")));
    }
}
