//! Several servers on one PostgreSQL: under load and with cut connections, one of them revokes the sealing key. After the
//! answer to that, no server accepts a token of the revoked key, and every server accepts tokens of the new one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_test_postgres::Cluster;
use hyper::StatusCode;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{HandshakeResponse, Issued, Issuer, Target, Tracker};
use crate::history::Key;
use crate::shared_store::{Node, Options, start, until_usable};
use crate::{ProgressSink, TrialError, Violation};

/// The key of every caller: a first answer is given again, unless the token's key was revoked.
const KEY: Key = 1;

/// How many connections to each server carry the load.
const WORKERS: usize = 3;

/// How often a revocation whose answer was lost is asked for again.
const ATTEMPTS: usize = 50;

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Keys revoked under load.
    pub revoked: u64,
    /// Tokens that they had sealed.
    pub tokens: u64,
    /// Of these, requests answered 200 before their key was revoked.
    pub accepted: u64,
    /// Requests answered 404.
    pub unknown: u64,
    /// Requests that got no answer, or 503.
    pub unanswered: u64,
    /// Connections to the database that were cut.
    pub cuts: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys revoked under load in {:.0} s, {} connections to the database cut; of {} tokens that they had sealed, \
             {} requests were answered 200 before, none after, and {} were answered 404; {} without an answer; what the \
             next key sealed was known on every server",
            self.revoked,
            self.took.as_secs_f64(),
            self.cuts,
            self.tokens,
            self.accepted,
            self.unknown,
            self.unanswered
        )
    }
}

/// Holds the trial with the server's binary and a database of its own.
pub async fn run(binary: PathBuf, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(options.seed);
    countersign_test_postgres::is_here().map_err(TrialError::Setup)?;
    let cluster = Cluster::start(&[]);
    let nodes = start(&binary, options.nodes.max(2), &[cluster.url()]).await?;
    let mut tally = Tally::default();
    while tally.revoked < options.cycles && began.elapsed() < options.limit {
        cycle(&nodes, &mut rng, &mut tally).await?;
        if tally.revoked.is_multiple_of(options.cycles.div_ceil(10)) {
            say(&format!("{} of {} keys, {} tokens", tally.revoked, options.cycles, tally.tokens));
        }
    }
    tally.cuts = nodes.iter().map(|node| node.proxy.cuts()).sum();
    for node in nodes {
        node.server.stop().await?;
    }
    tally.took = began.elapsed();
    Ok(tally)
}

/// What the callers share.
struct Shared {
    tokens: Vec<Issued>,
    /// Tokens that nobody asks for before the revocation has been answered: no record of a use can be in their way.
    unused: Vec<Issued>,
    /// Whether the revocation has been answered.
    revoked: watch::Sender<bool>,
    /// Whether nobody asks for anything while the key is revoked, so that no other server can have noticed.
    is_quiet: bool,
    /// Requests so far; when there are enough of them, the key is revoked.
    sent: AtomicU64,
    trigger: u64,
    reached: Notify,
}

#[derive(Default)]
struct Seen {
    accepted: u64,
    unknown: u64,
    unanswered: u64,
}

async fn cycle(nodes: &[Node], rng: &mut StdRng, tally: &mut Tally) -> Result<(), TrialError> {
    let (Some(issuing), Some(revoking)) = (nodes.choose(rng), nodes.choose(rng)) else { return Ok(()) };
    for node in nodes {
        until_usable(node.server.target()).await?;
    }
    let mut issuer = Issuer::connect(issuing.server.target()).await?;
    let tokens = issuer.issue_many(rng.random_range(8..48)).await?;
    let unused = issuer.issue_many(16).await?;
    let key = issuer.sealing_key().await?;
    for node in nodes {
        node.proxy.cut_one_in(rng.random_range(5..15));
    }
    let trigger = rng.random_range(0..2 * tokens.len() as u64);
    tally.tokens += (tokens.len() + unused.len()) as u64;
    let shared = Arc::new(Shared {
        tokens,
        unused,
        revoked: watch::Sender::new(false),
        is_quiet: tally.revoked.is_multiple_of(2),
        sent: AtomicU64::new(0),
        trigger,
        reached: Notify::new(),
    });
    let mut workers = JoinSet::new();
    for node in nodes {
        for worker in 0..WORKERS {
            workers.spawn(work(node.server.target(), worker, Arc::clone(&shared)));
        }
    }
    shared.reached.notified().await;
    revoke(revoking.server.target(), &key).await?;
    shared.revoked.send_replace(true);
    while let Some(worker) = workers.join_next().await {
        let seen = worker.map_err(|error| TrialError::setup("a worker broke off", error))??;
        tally.accepted += seen.accepted;
        tally.unknown += seen.unknown;
        tally.unanswered += seen.unanswered;
    }
    for node in nodes {
        node.proxy.cut_one_in(0);
    }
    // Each of these seals with a key that is not the one before, and a token of it is known on every other server.
    for node in nodes {
        until_usable(node.server.target()).await?;
        let token = Issuer::connect(node.server.target()).await?.issue(true).await?;
        for other in nodes {
            let answer =
                Tracker::connect(other.server.target()).await?.redeem(&token.text, Some(KEY)).await?;
            if !matches!(answer, HandshakeResponse::Accepted(_)) {
                let promise =
                    format!("a token of the key after {key} was answered {answer} by another server");
                return Err(broken(promise, &token));
            }
        }
    }
    tally.revoked += 1;
    Ok(())
}

/// Revokes the key, and asks until it is known that it is: an answer may be lost with the line to the database.
async fn revoke(target: Target, key: &str) -> Result<(), TrialError> {
    for _ in 0..ATTEMPTS {
        let mut issuer = Issuer::connect(target).await?;
        if issuer.revoke_key(key).await? {
            return Ok(());
        }
    }
    Err(TrialError::Setup(format!("key {key} could not be revoked in {ATTEMPTS} attempts")))
}

/// Redeems the tokens again and again, and after the key was revoked those that nobody has asked for, twice.
async fn work(target: Target, offset: usize, shared: Arc<Shared>) -> Result<Seen, TrialError> {
    let mut seen = Seen::default();
    let mut tracker = Tracker::connect(target).await?;
    let mut rounds_after = 0;
    while rounds_after < 2 {
        let is_after = *shared.revoked.borrow();
        rounds_after += usize::from(is_after);
        let tokens = if is_after { &shared.unused } else { &shared.tokens };
        for token in tokens.iter().cycle().skip(offset).take(tokens.len()) {
            let sent = shared.sent.fetch_add(1, Ordering::SeqCst);
            if sent == shared.trigger {
                shared.reached.notify_one();
            }
            if shared.is_quiet && sent >= shared.trigger {
                let _ = shared.revoked.subscribe().wait_for(|revoked| *revoked).await;
            }
            let late = *shared.revoked.borrow();
            if late && !is_after {
                break;
            }
            match tracker.redeem(&token.text, Some(KEY)).await {
                Ok(HandshakeResponse::Accepted(_)) if late => {
                    return Err(broken(
                        "a token was accepted after its key had been revoked".to_owned(),
                        token,
                    ));
                }
                Ok(HandshakeResponse::Accepted(_)) => seen.accepted += 1,
                Ok(HandshakeResponse::Other(StatusCode::NOT_FOUND)) => seen.unknown += 1,
                Ok(HandshakeResponse::Later(_)) => seen.unanswered += 1,
                Ok(other) => return Err(broken(format!("a token was answered {other}"), token)),
                Err(_) => {
                    seen.unanswered += 1;
                    tracker = Tracker::connect(target).await?;
                }
            }
        }
    }
    Ok(seen)
}

fn broken(promise: String, token: &Issued) -> TrialError {
    Violation { promise, evidence: format!("token {}", token.id) }.into()
}
