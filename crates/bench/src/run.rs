//! A run: find the server, connect, load, report.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use zeroize::Zeroizing;

use crate::clock::Stopwatch;
use crate::connection::Connection;
use crate::error::{BenchError, PreflightError, ResponseError};
use crate::recorder::{Progress, Recorder, Times};
use crate::report::Report;
use crate::rpc::Tokens;
use crate::schedule::{Limit, Plan, Schedule};
use crate::target::{Endpoint, Handshakes};
use crate::work::{CallTemplates, RequestTemplates, Worker, cpu_time, handshake_url, issue};
use crate::workload::{Step, Workload};

/// The most connections, to each listener.
pub const MAX_CONNECTIONS: u16 = 10_000;

/// The longest run, warm-up and measurement each.
const LONGEST: Duration = Duration::from_hours(24);

/// The highest rate, in rounds a second.
const MAX_RATE: f64 = 10_000_000.0;

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// How long a connection rests that could not be opened.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What to ask of which server, and how often. It has no `Debug`, because of the secret.
#[derive(Clone)]
pub struct Options {
    /// What each connection does.
    pub workload: Workload,
    /// The URL of the private listener; `/bugs` is below it.
    pub private: String,
    /// The URL of the public listener; `None` asks the server, by `getLoginToken`.
    pub public: Option<String>,
    /// The secret that the private API asks for, if it does.
    pub bearer: Option<Zeroizing<String>>,
    /// The tracker that tokens are bound to; `None` for unbound ones.
    pub audience: Option<String>,
    /// Whether other machines may be loaded.
    pub allow_remote: bool,
    /// How many connections to each listener that the workload needs, up to [`MAX_CONNECTIONS`].
    pub connections: u16,
    /// How much load.
    pub plan: Plan,
}

/// Runs to its end, or until `stop` turns true, on a thread of its own kind: it blocks, and must not be called from
/// within an async runtime. `progress` is told now and then how far it is.
///
/// # Errors
///
/// If there is nothing to report, because the server cannot be reached or does not even issue a first token. Wrong
/// answers under load are not errors but part of the [`Report`].
pub fn run(
    options: &Options,
    stopwatch: impl Stopwatch + 'static,
    stop: watch::Receiver<bool>,
    progress: impl FnMut(Progress) + 'static,
) -> Result<Report, BenchError> {
    check(options)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Start)?;
    LocalSet::new().block_on(&runtime, load(options, Rc::new(stopwatch), stop, progress))
}

fn check(options: &Options) -> Result<(), BenchError> {
    let range = |sentence: String| Err(BenchError::Range(sentence));
    let too_long = |time: Duration| time > LONGEST;
    match options.plan.limit {
        _ if !(1..=MAX_CONNECTIONS).contains(&options.connections) => {
            range(format!("--connections must be from 1 to {MAX_CONNECTIONS}"))
        }
        Limit::Count(0) => range("--count must be 1 or more".to_owned()),
        Limit::Time(time) if time.is_zero() || too_long(time) => {
            range("--duration must be longer than nothing, and at most 24h".to_owned())
        }
        _ if too_long(options.plan.warmup) => range("--warmup must be at most 24h".to_owned()),
        _ if options.plan.rate.is_some_and(|rate| !(0.001..=MAX_RATE).contains(&rate)) => {
            range(format!("--rate must be from 0.001 to {MAX_RATE} a second"))
        }
        _ if options.bearer.as_ref().is_some_and(|secret| !secret.bytes().all(|b| b.is_ascii_graphic())) => {
            range("the bearer file must hold one line of visible ASCII characters".to_owned())
        }
        _ => Ok(()),
    }
}

/// What the connections share.
struct Shared {
    stopwatch: Rc<dyn Stopwatch>,
    /// When the run began, on the stopwatch.
    start: Duration,
    schedule: RefCell<Schedule>,
    recorder: RefCell<Recorder>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.stopwatch.elapsed().saturating_sub(self.start)
    }

    fn progress(&self) -> Progress {
        let now = self.now();
        self.recorder.borrow().progress(self.schedule.borrow().progress(now), now)
    }
}

async fn load(
    options: &Options,
    stopwatch: Rc<dyn Stopwatch>,
    stop: watch::Receiver<bool>,
    mut progress: impl FnMut(Progress),
) -> Result<Report, BenchError> {
    let site = Rc::new(find(options).await?);
    let mut workers = Vec::with_capacity(usize::from(options.connections));
    for _ in 0..options.connections {
        let mut worker = Worker::new(&site, options.workload);
        worker.prepare().await?;
        workers.push(worker);
    }
    let shared = Rc::new(Shared {
        start: stopwatch.elapsed(),
        stopwatch,
        schedule: RefCell::new(Schedule::new(options.plan)),
        recorder: RefCell::new(Recorder::new(options.workload)?),
    });
    let warmup = options.plan.warmup;
    // Without a warm-up, nothing is sent before this.
    let mut before = if warmup.is_zero() { Some(cpu_time(&site).await) } else { None };
    let mut after_warmup = pin!(async {
        tokio::time::sleep(warmup).await;
        cpu_time(&site).await
    });
    let mut tasks = JoinSet::new();
    for worker in workers {
        tasks.spawn_local(work(worker, Rc::clone(&shared), stop.clone()));
    }
    let mut ticks = tokio::time::interval(PROGRESS_PERIOD);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => break,
                Some(ended) => ended.map_err(|error| BenchError::Start(error.into()))?,
            },
            _ = ticks.tick() => progress(shared.progress()),
            cpu = &mut after_warmup, if before.is_none() => before = Some(cpu),
        }
    }
    let cpu =
        cpu_time(&site).await.zip(before.flatten()).and_then(|(after, before)| after.checked_sub(before));
    progress(shared.progress());
    let unsent = shared.schedule.borrow().unsent(shared.now());
    Ok(Report::new(options, &site.public.url, &shared.recorder.borrow(), unsent, cpu))
}

/// Finds the listeners, and where handshakes are.
async fn find(options: &Options) -> Result<RequestTemplates, BenchError> {
    let private = Rc::new(Endpoint::find(&options.private, options.allow_remote).await?);
    let audience = options.audience.as_deref();
    let calls = CallTemplates::new(&private, options.bearer.as_deref().map(String::as_str), audience);
    let (handshakes, public) = if let Some(url) = &options.public {
        let public = Endpoint::find(url, options.allow_remote).await?;
        (Handshakes::below(&public), public)
    } else {
        let mut link = Connection::to(&private);
        let failed = |step| {
            let server = private.url.clone();
            move |wrong: ResponseError| PreflightError { step, server, wrong }
        };
        let token = issue(&mut link, &calls, &mut Tokens::default()).await.map_err(failed(Step::Issue))?;
        let url = handshake_url(&mut link, &calls, &token).await.map_err(failed(Step::Describe))?;
        Handshakes::discovered(&url, &token, options.allow_remote).await?
    };
    Ok(RequestTemplates::new(private, Rc::new(public), handshakes, calls, audience))
}

/// One connection: round after round.
async fn work(mut worker: Worker, shared: Rc<Shared>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let Some(slot) = shared.schedule.borrow_mut().next(shared.now()) else { break };
        let wait = slot.due.saturating_sub(shared.now());
        if !wait.is_zero() && sleep(wait, &mut stop).await.is_err() {
            break;
        }
        let refreshed = worker.refresh(shared.now()).await;
        let sent = shared.now();
        let outcome = match refreshed {
            Ok(()) => worker.round(&*shared.stopwatch).await,
            Err(wrong) => Err(wrong),
        };
        let counts_from = slot.counts_from(sent, !wait.is_zero());
        let times = Times { counts_from, sent, done: shared.now() };
        match outcome {
            Ok(middle) => {
                let middle = middle.map(|middle| middle.saturating_sub(shared.start));
                shared.recorder.borrow_mut().right(slot, times, middle);
            }
            Err((at, wrong)) => {
                shared.recorder.borrow_mut().wrong(slot, times, at, &wrong);
                if matches!(wrong, ResponseError::Connect(_))
                    && sleep(CONNECT_PAUSE, &mut stop).await.is_err()
                {
                    break;
                }
            }
        }
    }
}

/// The run is to stop.
struct Stopped;

async fn sleep(time: Duration, stop: &mut watch::Receiver<bool>) -> Result<(), Stopped> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        Ok(_) = stop.wait_for(|stop| *stop) => Err(Stopped),
    }
}
