//! `countersign bench`: load a server, and check every answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use countersign_bench::{Limit, Options, Plan, Progress, Report, SystemStopwatch, Workload, run as load};
use countersign_client::DEFAULT_SERVER;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tokio::sync::watch;

use crate::output::{Failure, print, print_json};
use crate::remote::read_secret;
use crate::settings::parse_audience;

pub(crate) const BENCH_HELP: &str = "\
Workloads. A round is one or two requests, and each has one right answer:

  handshake  newBugTrackerToken() by XML-RPC, then a POST to the token's handshake: 200
  issue      newBugTrackerToken() by XML-RPC: a token
  replay     a POST to the handshake of a used token: 401 or 410
  forged     a POST to the handshake of a token that was never issued: 404
  health     GET /healthz: 200

Any other answer counts as an error, and the command ends with exit code 1. The report also says how much processor time \
the server took for each, if GET /metrics at --private says it.

Without --rate each connection sends its next request when the last one is answered. That shows how much the server can \
do, but not how long independent callers wait. With --rate the command sends requests on a schedule that the server \
cannot delay, and latency counts from the time when a request was due: a stall shows in every request that it delayed.

Try it on a server without a limit on refusals, because replay and forged consist of them:

  countersign serve --refusals-per-minute 0
  countersign bench handshake --connections 64 --duration 10s
  countersign bench handshake --rate 500

Exit codes: 0 every answer was right, 1 an answer was wrong or missing, 2 wrong usage.";

/// How long is measured unless said otherwise.
const DURATION: Duration = Duration::from_secs(10);

/// How long before that there is load, when the end is set by a time.
const WARM_UP: Duration = Duration::from_secs(1);

/// How fine the progress bar is.
const BAR_STEPS: u32 = 1000;

#[derive(Args, Debug)]
pub(crate) struct BenchCommand {
    /// The requests to send: handshake, issue, replay, forged or health
    #[arg(value_name = "WORKLOAD", default_value = "handshake", hide_possible_values = true, value_parser = PossibleValuesParser::new(Workload::ALL.map(Workload::name)).try_map(|name| name.parse::<Workload>()))]
    workload: Workload,
    /// The private listener; XML-RPC is at /bugs below it
    #[arg(long, visible_alias = "server", value_name = "URL", default_value = DEFAULT_SERVER)]
    private: String,
    /// The public listener [default: where the server says its handshakes are]
    #[arg(long, value_name = "URL")]
    public: Option<String>,
    /// Kept-alive connections to each listener that the workload needs; at most 10000
    #[arg(long, value_name = "NUMBER", default_value_t = 64)]
    connections: u16,
    /// How long to measure, such as 10s or 2m; at most 24h [default: 10s]
    #[arg(long, value_name = "DURATION", conflicts_with = "count")]
    duration: Option<SignedDuration>,
    /// The number of rounds to measure, instead of a duration
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Rounds a second on a schedule, over all connections (an open loop) [default: as many as are answered]
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long to load the server before the measurement begins [default: 1s, or 0s with --count]
    #[arg(long, value_name = "DURATION")]
    warmup: Option<SignedDuration>,
    /// The bug tracker to which tokens are bound and which redeems them [default: none]
    #[arg(long, value_name = "URL", value_parser = parse_audience)]
    audience: Option<String>,
    /// A file with the secret that the private API requires, if any; it is read once, at the start
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    private_bearer_file: Option<PathBuf>,
    /// Allow a server on another machine; use it only on a machine of yours
    #[arg(long)]
    allow_remote: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Draw no progress bar; there is one only if standard error is a terminal
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn run(command: BenchCommand) -> Result<(), Failure> {
    let options = command.options()?;
    let bar = if command.quiet { ProgressBar::hidden() } else { bar() };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.send_replace(true);
        }
        // While there is a sender, connections listen to it.
        stop.closed().await;
    });
    let drawn = bar.clone();
    let report = tokio::task::spawn_blocking(move || {
        load(&options, SystemStopwatch::start(), stopped, move |progress| draw(&drawn, progress))
    })
    .await;
    bar.finish_and_clear();
    let report = report
        .map_err(Failure::failed)?
        .map_err(|error| if error.is_usage() { Failure::usage(error) } else { Failure::failed(error) })?;
    if command.json {
        print_json(&serde_json::to_value(&report).map_err(Failure::failed)?)?;
    } else {
        print(report.to_string().trim_end())?;
    }
    conclude(&report)
}

impl BenchCommand {
    fn options(&self) -> Result<Options, Failure> {
        let limit = match (self.count, self.duration) {
            (Some(count), _) => Limit::Count(count),
            (None, Some(duration)) => Limit::Time(positive("--duration", duration)?),
            (None, None) => Limit::Time(DURATION),
        };
        let warmup = match (self.warmup, limit) {
            (Some(warmup), _) => positive("--warmup", warmup)?,
            (None, Limit::Time(_)) => WARM_UP,
            (None, Limit::Count(_)) => Duration::ZERO,
        };
        Ok(Options {
            workload: self.workload,
            private: self.private.clone(),
            public: self.public.clone(),
            bearer: self.private_bearer_file.as_deref().map(read_secret).transpose()?,
            audience: self.audience.clone(),
            allow_remote: self.allow_remote,
            connections: self.connections,
            plan: Plan { rate: self.rate, warmup, limit },
        })
    }
}

fn positive(flag: &str, duration: SignedDuration) -> Result<Duration, Failure> {
    Duration::try_from(duration).map_err(|_| Failure::usage(format!("{flag} must not be negative")))
}

/// A bar on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(BAR_STEPS.into());
    match ProgressStyle::with_template("{bar:30} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn draw(bar: &ProgressBar, progress: Progress) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1")]
    let step = (progress.done * f64::from(BAR_STEPS)) as u64;
    bar.set_position(step);
    let Progress { rounds, errors, elapsed, .. } = progress;
    bar.set_message(format!("{:.0} s, {rounds} rounds, {errors} errors", elapsed.as_secs_f64()));
}

/// A benchmark of wrong answers is none.
fn conclude(report: &Report) -> Result<(), Failure> {
    match report.wrong() {
        0 if report.rounds.count() == 0 => Err(Failure::failed(io::Error::other(
            "nothing was measured; let it run longer, with --duration or --count",
        ))),
        0 => Ok(()),
        wrong => Err(Failure::failed(format!(
            "{wrong} answers were wrong, so that the numbers above say little; the report has the kinds of them"
        ))),
    }
}
