//! The report of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::recorder::{LatencyHistogram, Recorder};
use crate::run::Options;
use crate::workload::Workload;

/// Processor time comes in steps of 10 ms, so less than this says little.
const LEAST_CPU: Duration = Duration::from_millis(200);

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
    #[serde(flatten)]
    pub rounds: Rounds,
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

/// The measured rounds, under the name of what a round is: how many, how many in a second, and the processor time that the
/// server took for each, user and system, in microseconds. The latter is that of the process at the private listener; `None`
/// if its `/metrics` do not say it, or if it was too little to tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Rounds {
    /// Two requests each: one issues a token, one redeems it.
    Handshakes { handshakes: u64, handshakes_per_second: f64, server_cpu_us_per_handshake: Option<f64> },
    /// One request each.
    Requests { requests: u64, requests_per_second: f64, server_cpu_us_per_request: Option<f64> },
}

impl Rounds {
    fn new(workload: Workload, count: u64, per_second: f64, cpu_us: Option<f64>) -> Self {
        match workload {
            Workload::Handshake => Self::Handshakes {
                handshakes: count,
                handshakes_per_second: per_second,
                server_cpu_us_per_handshake: cpu_us,
            },
            Workload::Issue | Workload::Replay | Workload::Forged | Workload::Health => Self::Requests {
                requests: count,
                requests_per_second: per_second,
                server_cpu_us_per_request: cpu_us,
            },
        }
    }

    /// How many.
    pub const fn count(self) -> u64 {
        match self {
            Self::Handshakes { handshakes: count, .. } | Self::Requests { requests: count, .. } => count,
        }
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, count, per_second, cpu) = match *self {
            Self::Handshakes { handshakes, handshakes_per_second, server_cpu_us_per_handshake } => {
                ("handshake", handshakes, handshakes_per_second, server_cpu_us_per_handshake)
            }
            Self::Requests { requests, requests_per_second, server_cpu_us_per_request } => {
                ("request", requests, requests_per_second, server_cpu_us_per_request)
            }
        };
        writeln!(f, "{:<12} {count}", format!("{unit}s"))?;
        writeln!(f, "{:<12} {per_second:.1}", format!("{unit}s/s"))?;
        match cpu {
            Some(cpu) => writeln!(f, "server CPU   {cpu:.1} µs for each {unit}"),
            None => Ok(()),
        }
    }
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
    pub(crate) fn new(
        options: &Options,
        public: &str,
        recorder: &Recorder,
        unsent: u64,
        cpu: Option<Duration>,
    ) -> Self {
        let count = recorder.whole.0.len();
        let seconds = recorder.measured_time().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "2^53 rounds are never reached")]
        let rounds = count as f64;
        let per_second = if seconds > 0.0 { rounds / seconds } else { 0.0 };
        let cpu = cpu.filter(|cpu| *cpu >= LEAST_CPU && count > 0);
        let cpu_us = cpu.map(|cpu| thousandths(cpu.as_secs_f64() * 1e6 / rounds));
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
            rounds: Rounds::new(options.workload, count, thousandths(per_second), cpu_us),
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
        write!(f, "{}", self.rounds)?;
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
