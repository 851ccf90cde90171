//! Several servers on one PostgreSQL: callers fight for tokens on all of them, while servers are killed, the database is
//! ended and started again, or frozen for a while, and connections between the two are cut in the middle of a commit. Every second server reaches
//! the database through `PgBouncer`, and what the database's settings say of durability and isolation changes meanwhile.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_test_postgres::{Cluster, Pooler, Proxy, run as postgres};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{HandshakeResponse, Issuer, Target, Tracker};
use crate::history::Key;
use crate::process::{Launch, ServerProcess};
use crate::trial_token::{CallerOutcome, TrialToken};
use crate::{ProgressSink, TrialError};

/// The keys of those who fight for each token.
const KEYS: [Key; 2] = [1, 2];

/// How many connections to each server carry the load.
const WORKERS: usize = 3;

/// How long everything may take to be usable again.
const RECOVERY: Duration = Duration::from_secs(40);

/// How long the database is frozen: longer than a server waits for a statement.
const FREEZE: Duration = Duration::from_secs(7);

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many servers: 2 or more.
    pub nodes: usize,
    /// How many times something happens.
    pub cycles: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides what happens when.
    pub seed: u64,
}

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Times that something happened under load.
    pub cycles: u64,
    /// Servers killed.
    pub killed: u64,
    /// Times that the database was ended at once and started again.
    pub database_crashes: u64,
    /// Times that the database was frozen until nobody waited for it any longer.
    pub database_freezes: u64,
    /// Connections to the database that were cut.
    pub cuts: u64,
    /// Tokens fought for; each was redeemed with exactly one key, on whatever server, and its history was checked.
    pub tokens: u64,
    /// Requests that got no answer, or 503.
    pub unanswered: u64,
    /// Tokens that were answered 200 before it was over; each is still that key's and nobody else's.
    pub answered: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cycles in {:.0} s: {} servers killed, the database crashed {} times and frozen {} times, {} connections to it \
             cut; {} tokens, each redeemed exactly once: {} answered 200 under load, {} requests without an answer; every history \
             linearizable",
            self.cycles,
            self.took.as_secs_f64(),
            self.killed,
            self.database_crashes,
            self.database_freezes,
            self.cuts,
            self.tokens,
            self.answered,
            self.unanswered
        )
    }
}

/// What happens under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// `kill -9` of one server.
    Kill,
    /// An immediate shutdown of the database, and its start.
    Crash,
    /// The database's processes are stopped for longer than a server waits for an answer, and go on then: with what they
    /// had begun, which nobody waits for any more.
    Freeze,
    /// Lines are cut all the time.
    Cut,
    /// Lines are cut and one server is killed.
    CutAndKill,
}

/// A server, and what is its own.
pub(crate) struct Node {
    launch: Launch,
    pub(crate) server: ServerProcess,
    pub(crate) proxy: Proxy,
    _place: TempDir,
}

/// Holds the trial with the server's binary and a database of its own.
pub async fn run(binary: PathBuf, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(options.seed);
    countersign_test_postgres::is_here().map_err(TrialError::Setup)?;
    countersign_test_postgres::pooler_is_here().map_err(TrialError::Setup)?;
    // What is committed without waiting for the disk is forgotten by a crash within ten seconds.
    let cluster = Arc::new(Cluster::start(&["--config", "wal_writer_delay=10s"]));
    let settings = ["pool_mode=transaction", "default_pool_size=3", "server_login_retry=0"];
    let pooler = Pooler::start(cluster.url(), &settings);
    // Every second server reaches the database through the pooler.
    let urls = [cluster.url(), pooler.url()];
    let mut nodes = start(&binary, options.nodes.max(2), &urls).await?;
    let mut tally = Tally::default();
    let events = [Event::Kill, Event::Cut, Event::Crash, Event::CutAndKill, Event::Freeze];
    while tally.cycles < options.cycles && began.elapsed() < options.limit {
        let event = usize::try_from(tally.cycles).ok().and_then(|n| events.get(n % events.len()));
        unsettle(&cluster, &mut rng).await;
        cycle(&mut nodes, &cluster, *event.unwrap_or(&Event::Kill), &mut rng, &mut tally).await?;
        tally.cycles += 1;
        if tally.cycles.is_multiple_of(options.cycles.div_ceil(10)) {
            say(&format!("{} of {} cycles, {} tokens", tally.cycles, options.cycles, tally.tokens));
        }
    }
    tally.cuts = nodes.iter().map(|node| node.proxy.cuts()).sum();
    for node in nodes {
        node.server.stop().await?;
    }
    tally.took = began.elapsed();
    Ok(tally)
}

/// Starts the servers, each behind a proxy of its own, and all with the first one's key ring.
pub(crate) async fn start(binary: &Path, count: usize, urls: &[&str]) -> Result<Vec<Node>, TrialError> {
    let mut nodes: Vec<Node> = Vec::with_capacity(count);
    for url in urls.iter().cycle().take(count) {
        let place = tempfile::tempdir()?;
        let proxy = Proxy::start(url).await;
        let launch = Launch::new(binary.to_owned(), place.path()).on(proxy.url());
        if let Some(first) = nodes.first() {
            std::fs::create_dir(launch.data_dir())?;
            let ring = |launch: &Launch| launch.data_dir().join("key-ring.toml");
            std::fs::copy(ring(&first.launch), ring(&launch))?;
        }
        let server = launch.start().await?;
        nodes.push(Node { launch, server, proxy, _place: place });
    }
    Ok(nodes)
}

/// Sets what promises could depend on, while the servers serve.
async fn unsettle(cluster: &Cluster, rng: &mut StdRng) {
    for (name, values) in [
        ("synchronous_commit", ["off", "local", "on"]),
        ("default_transaction_isolation", ["'read committed'", "'repeatable read'", "'serializable'"]),
    ] {
        let value = values.choose(rng).unwrap_or(&"DEFAULT");
        postgres(cluster.url(), &format!("ALTER SYSTEM SET {name} = {value}")).await;
    }
    postgres(cluster.url(), "SELECT pg_reload_conf()").await;
}

async fn cycle(
    nodes: &mut Vec<Node>,
    cluster: &Arc<Cluster>,
    event: Event,
    rng: &mut StdRng,
    tally: &mut Tally,
) -> Result<(), TrialError> {
    let Some(issuing) = nodes.choose(rng).map(|node| node.server.target()) else { return Ok(()) };
    let tokens = Issuer::connect(issuing).await?.issue_many(rng.random_range(8..64)).await?;
    let subjects: Arc<Vec<_>> = Arc::new(tokens.into_iter().map(TrialToken::new).collect());
    if matches!(event, Event::Cut | Event::CutAndKill) {
        for node in nodes.iter() {
            node.proxy.cut_one_in(rng.random_range(5..12));
        }
    }
    let mut errands: Vec<_> =
        (0..subjects.len()).flat_map(|subject| KEYS.map(|key| (subject, key))).collect();
    errands.shuffle(rng);
    let trigger = rng.random_range(0..errands.len());
    let shared = Arc::new(Shared { errands, trigger, sent: AtomicUsize::new(0), reached: Notify::new() });
    let mut workers = JoinSet::new();
    for node in nodes.iter() {
        for _ in 0..WORKERS {
            let (target, shared, subjects) =
                (node.server.target(), Arc::clone(&shared), Arc::clone(&subjects));
            workers.spawn(async move {
                let unanswered = work(target, &shared, &subjects).await;
                shared.reached.notify_one();
                unanswered
            });
        }
    }
    shared.reached.notified().await;
    if matches!(event, Event::Kill | Event::CutAndKill) {
        let node = nodes.swap_remove(rng.random_range(0..nodes.len()));
        node.server.kill().await?;
        tally.killed += 1;
        subjects.iter().for_each(|subject| subject.history.note("a server was killed"));
        node.proxy.cut_one_in(0);
        let server = node.launch.start().await?;
        nodes.push(Node { server, ..node });
    }
    if event == Event::Crash {
        let cluster = Arc::clone(cluster);
        let crashed = tokio::task::spawn_blocking(move || {
            cluster.crash();
            cluster.start_again();
        });
        crashed.await.map_err(|error| TrialError::setup("the database did not come back", error))?;
        tally.database_crashes += 1;
        subjects.iter().for_each(|subject| subject.history.note("the database was ended and started again"));
    }
    if event == Event::Freeze {
        cluster.freeze();
        tokio::time::sleep(FREEZE).await;
        cluster.thaw();
        tally.database_freezes += 1;
        subjects.iter().for_each(|subject| subject.history.note("the database was frozen, and went on"));
    }
    while let Some(worker) = workers.join_next().await {
        tally.unanswered += worker.map_err(|error| TrialError::setup("a worker broke off", error))??;
    }
    for node in nodes.iter() {
        node.proxy.cut_one_in(0);
    }
    settle(nodes, &subjects, rng, tally).await
}

struct Shared {
    /// Which token, and with which key.
    errands: Vec<(usize, Key)>,
    /// With which errand it happens.
    trigger: usize,
    sent: AtomicUsize,
    reached: Notify,
}

/// Runs errands until there are none, or the server is gone. Returns how many had no answer.
async fn work(target: Target, shared: &Shared, subjects: &[TrialToken]) -> Result<u64, TrialError> {
    let mut unanswered = 0;
    let Ok(mut tracker) = Tracker::connect(target).await else { return Ok(unanswered) };
    loop {
        let number = shared.sent.fetch_add(1, Ordering::SeqCst);
        let Some((subject, key)) = shared.errands.get(number) else { return Ok(unanswered) };
        let Some(subject) = subjects.get(*subject) else { return Ok(unanswered) };
        if number == shared.trigger {
            shared.reached.notify_one();
        }
        if subject.redeem(&mut tracker, Some(*key)).await? == CallerOutcome::NoAnswer {
            unanswered += 1;
            match Tracker::connect(target).await {
                Ok(connected) => tracker = connected,
                Err(_) => return Ok(unanswered),
            }
        }
    }
}

/// Everybody asks again, on every server: exactly one key is accepted, the same everywhere.
async fn settle(
    nodes: &[Node],
    subjects: &[TrialToken],
    rng: &mut StdRng,
    tally: &mut Tally,
) -> Result<(), TrialError> {
    let mut trackers = Vec::with_capacity(nodes.len());
    for node in nodes {
        until_usable(node.server.target()).await?;
        trackers.push(Tracker::connect(node.server.target()).await?);
    }
    for subject in subjects {
        tally.answered += u64::from(subject.yes().is_some());
        let mut asks: Vec<_> =
            (0..trackers.len()).flat_map(|node| KEYS.map(|key| (node, Some(key)))).collect();
        asks.shuffle(rng);
        // A stranger would redeem a token that is still live, so one comes last.
        asks.push((0, None));
        for (node, key) in asks {
            let Some(tracker) = trackers.get_mut(node) else { continue };
            let outcome = subject.redeem(tracker, key).await?;
            let accepted = subject.yes().is_some_and(|yes| Some(yes.key) == key);
            let expected = if accepted { CallerOutcome::Accepted } else { CallerOutcome::Refused };
            if outcome != expected {
                let promise =
                    format!("server {node} answered key {key:?} with {outcome:?}, not {expected:?}");
                return Err(subject.broken(&promise));
            }
        }
        subject.history.check()?;
        tally.tokens += 1;
    }
    Ok(())
}

/// Waits until a server redeems a token that nobody fights for. The others are not asked meanwhile: a history with many
/// requests that nobody answered has too many explanations to try them all.
pub(crate) async fn until_usable(target: Target) -> Result<(), TrialError> {
    let asking = async {
        loop {
            let token = Issuer::connect(target).await?.issue(true).await?;
            if let Ok(HandshakeResponse::Accepted(_)) =
                Tracker::connect(target).await?.redeem(&token.text, None).await
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(RECOVERY, asking).await.unwrap_or_else(|_| {
        Err(TrialError::Setup(format!("a server was not usable within {} s", RECOVERY.as_secs())))
    })
}
