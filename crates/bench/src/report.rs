//! The report of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::recorder::{LatencyHistogram, Recorder};
use crate::run::Options;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    /// The URL of the private listener.
    pub private: String,
    /// The URL of the public listener.
    pub public: String,
    /// How many connections to each.
    pub connections: u16,
    /// Rounds a second in an open loop; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long there was load before anything was measured.
    pub warmup_seconds: f64,
    /// How long was measured.
    pub seconds: f64,
    /// Measured rounds that were answered rightly.
    pub requests: u64,
    /// The same in a second.
    pub requests_per_second: f64,
    /// Their latency.
    pub latency_ms: Latency,
    /// The requests of a round on their own, if it has several.
    pub parts: BTreeMap<&'static str, Part>,
    /// Rounds of the timetable that were never sent, because all connections were waiting for answers.
    pub unsent: u64,
    /// Wrong answers, those of the warm-up included, by kind.
    pub errors: BTreeMap<String, u64>,
    /// The first few in words.
    pub examples: Vec<String>,
    /// What to do about them.
    pub hints: Vec<&'static str>,
}

/// A request of a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// How many.
    pub requests: u64,
    /// Their latency, always from when they were sent.
    pub latency_ms: Latency,
}

/// Latency in milliseconds, to a microsecond or three digits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// Half of all took no longer.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// None took longer.
    pub max: f64,
}

impl Report {
    pub(crate) fn new(options: &Options, public: &str, recorder: &Recorder, unsent: u64) -> Self {
        let requests = recorder.whole.0.len();
        let seconds = recorder.measured_time().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "2^53 rounds are never reached")]
        let per_second = if seconds > 0.0 { requests as f64 / seconds } else { 0.0 };
        let part =
            |series: &LatencyHistogram| Part { requests: series.0.len(), latency_ms: Latency::of(series) };
        Self {
            workload: options.workload.name(),
            private: options.private.clone(),
            public: public.to_owned(),
            connections: options.connections,
            rate: options.plan.rate,
            warmup_seconds: options.plan.warmup.as_secs_f64(),
            seconds: thousandths(seconds),
            requests,
            requests_per_second: thousandths(per_second),
            latency_ms: Latency::of(&recorder.whole),
            parts: recorder.parts.iter().map(|(step, series)| (step.name(), part(series))).collect(),
            unsent,
            errors: recorder.errors.clone(),
            examples: recorder.examples.clone(),
            hints: recorder.hints.iter().copied().collect(),
        }
    }

    /// How many answers were wrong.
    pub fn wrong(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Latency {
    fn of(LatencyHistogram(histogram): &LatencyHistogram) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 microseconds")]
        let ms = |micros: u64| micros as f64 / 1000.0;
        // A bucket's upper end may lie above what was seen.
        let at = |quantile| ms(histogram.value_at_quantile(quantile).min(histogram.max()));
        Self {
            mean: thousandths(histogram.mean() / 1000.0),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
        }
    }
}

fn thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "workload     {}", self.workload)?;
        writeln!(f, "server       private {}, public {}", self.private, self.public)?;
        match self.rate {
            None => writeln!(f, "connections  {}, each as fast as it is answered", self.connections)?,
            Some(rate) => {
                writeln!(f, "connections  {}, {rate}/s by timetable", self.connections)?;
            }
        }
        writeln!(f, "duration     {:.1} s after {:.1} s of warm-up", self.seconds, self.warmup_seconds)?;
        writeln!(f, "requests     {}", self.requests)?;
        writeln!(f, "requests/s   {:.1}", self.requests_per_second)?;
        match self.wrong() {
            0 => writeln!(f, "errors       none")?,
            wrong => writeln!(f, "errors       {wrong}")?,
        }
        if self.unsent > 0 {
            writeln!(
                f,
                "unsent       {}: they were due while every connection waited for an answer; latency leaves them out",
                self.unsent
            )?;
        }
        writeln!(f)?;
        let [p50, p90, p99, p999, max] = ["p50", "p90", "p99", "p99.9", "max"];
        writeln!(f, "{:<12} {p50:>9} {p90:>9} {p99:>9} {p999:>9} {max:>9}", "latency, ms")?;
        row(f, self.workload, &self.latency_ms)?;
        for (name, part) in &self.parts {
            row(f, &format!("  {name}"), &part.latency_ms)?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "\nwrong answers")?;
            for (kind, count) in &self.errors {
                writeln!(f, "{count:>9}  {kind}")?;
            }
            writeln!(f, "the first of them")?;
            for example in &self.examples {
                writeln!(f, "           {example}")?;
            }
            for hint in &self.hints {
                writeln!(f, "hint: {hint}")?;
            }
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    let Latency { p50, p90, p99, p999, max, .. } = latency;
    writeln!(f, "{name:<12} {p50:>9.3} {p90:>9.3} {p99:>9.3} {p999:>9.3} {max:>9.3}")
}
