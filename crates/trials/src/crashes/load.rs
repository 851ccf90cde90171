//! Loads a server until it is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::TrialError;
use crate::client::{Target, Tracker};
use crate::history::Key;
use crate::process::{ServerProcess, spin};
use crate::trial_token::{CallerOutcome, TrialToken};

/// How many connections carry the load.
const WORKERS: usize = 8;

/// The keys of those who fight for each token.
pub(super) const KEYS: [Key; 2] = [1, 2];

/// The longest wait between the event that triggers the end and the end: around a millisecond.
const MAX_SPINS: u32 = 30_000;

/// How the server's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `kill -9`.
    Killed,
    /// SIGTERM, as an operator stops it.
    Stopped,
}

/// What the load came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Requests that were answered.
    pub(super) answered: usize,
    /// Requests that were sent, and not answered.
    pub(super) unanswered: usize,
}

/// Lets all keys fight for all tokens until, at a random moment, the server ends.
pub(super) async fn load(
    server: ServerProcess,
    end: End,
    subjects: &Arc<Vec<TrialToken>>,
    rng: &mut StdRng,
) -> Result<Load, TrialError> {
    let mut errands: Vec<_> =
        (0..subjects.len()).flat_map(|subject| KEYS.map(|key| (subject, key))).collect();
    errands.shuffle(rng);
    let last = rng.random_range(0..errands.len());
    let spins = rng.random_range(0..MAX_SPINS);
    let shared = Arc::new(Shared { errands, last, sent: AtomicUsize::new(0), reached: Notify::new() });
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (shared, subjects) = (Arc::clone(&shared), Arc::clone(subjects));
        let target = server.target();
        workers.spawn(async move {
            let load = work(target, &shared, &subjects).await;
            // If the server is gone before its time, nobody else reaches the last errand.
            shared.reached.notify_one();
            load
        });
    }
    shared.reached.notified().await;
    spin(spins);
    let ended = match end {
        End::Killed => {
            server.kill().await?;
            "the server was killed"
        }
        End::Stopped => {
            let status = server.stop().await?;
            if !status.success() {
                return Err(TrialError::Setup(format!("the server did not stop in good order: {status}")));
            }
            "the server was stopped"
        }
    };
    let mut load = Load::default();
    while let Some(worker) = workers.join_next().await {
        let worker = worker.map_err(|error| TrialError::setup("a worker broke off", error))??;
        load.answered += worker.answered;
        load.unanswered += worker.unanswered;
    }
    for subject in subjects.iter() {
        subject.history.note(ended);
    }
    Ok(load)
}

struct Shared {
    /// Which token, and with which key.
    errands: Vec<(usize, Key)>,
    /// With which errand the end begins.
    last: usize,
    sent: AtomicUsize,
    reached: Notify,
}

async fn work(target: Target, shared: &Shared, subjects: &[TrialToken]) -> Result<Load, TrialError> {
    let mut load = Load::default();
    // The server may be gone already.
    let Ok(mut tracker) = Tracker::connect(target).await else { return Ok(load) };
    loop {
        let number = shared.sent.fetch_add(1, Ordering::SeqCst);
        let Some((subject, key)) = shared.errands.get(number) else { return Ok(load) };
        let Some(subject) = subjects.get(*subject) else { return Ok(load) };
        if number == shared.last {
            shared.reached.notify_one();
        }
        match subject.redeem(&mut tracker, Some(*key)).await? {
            CallerOutcome::Accepted | CallerOutcome::Refused => load.answered += 1,
            CallerOutcome::NoAnswer => {
                load.unanswered += 1;
                return Ok(load);
            }
        }
    }
}
