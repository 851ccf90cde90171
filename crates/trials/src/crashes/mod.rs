//! The server is killed at random moments under load, its files are damaged as a power cut could, and it is started
//! again: whatever it has answered must still hold.

mod damage;
mod load;
mod settle;
mod wal;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use self::damage::{Damage, DurablePrefix, damage};
use self::load::{End, load};
use self::settle::{KEY_IS_SURELY_GOOD, settle};
use self::wal::{Salt, Wal, beside};
use crate::client::{Issuer, Tracker};
use crate::process::{Launch, ServerProcess};
use crate::trial_token::{CallerOutcome, TrialToken};
use crate::{ProgressSink, TrialError, Violation};

/// How many of the tokens of earlier cycles are tried again after each crash; all of them are at the end.
const SAMPLE: usize = 32;

/// About as many turns of an empty loop as a server takes to start.
const MAX_START_SPINS: u32 = 1_500_000;

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many crashes under load.
    pub cycles: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides what happens when.
    pub seed: u64,
    /// Take the whole log away after every crash. That loses answers that were given, which no store survives: the
    /// trial has to notice.
    pub lose_log: bool,
}

/// What a trial saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Crashes and stops under load.
    pub cycles: u64,
    /// How many of them were orderly stops.
    pub stops: u64,
    /// Servers killed while they were starting, beside those.
    pub killed_while_starting: u64,
    /// Servers killed while they were making a new store.
    pub killed_at_first_start: u64,
    /// Second servers that were started on the directory of a running one, and refused to start.
    pub second_servers_refused: u64,
    /// Tokens, each with two rivals.
    pub tokens: u64,
    /// Tokens answered 200 before the crash.
    pub answered: u64,
    /// Requests that got no answer because of it.
    pub unanswered_requests: u64,
    /// Unanswered tokens that turned out to be consumed.
    pub settled_as_consumed: u64,
    /// Unanswered tokens that turned out to be live, and were redeemed then.
    pub settled_as_live: u64,
    /// Times that the log was begun anew, after a checkpoint.
    pub checkpoints: u64,
    /// What was done to the files.
    pub wrecks: BTreeMap<String, u64>,
    /// Times that transactions nobody was answered about were cut or overwritten.
    pub transactions_undone: u64,
    /// Cycles on a machine that stood still for so long that no key could be tried.
    pub too_slow: u64,
    /// Tokens tried once more at the end: all that were ever redeemed.
    pub tried_at_the_end: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} crashes under load in {:.0} s ({} of them orderly stops), {} more while starting, {} more at the \
             very first start, {} second servers refused, {} checkpoints; \
             {} tokens: {} answered before the crash, {} not answered and consumed, {} not answered and live; \
             {} requests cut off; transactions nobody was answered about undone {} times; \
             {} tokens tried again at the end, none redeemed twice, none lost",
            self.cycles,
            self.took.as_secs_f64(),
            self.stops,
            self.killed_while_starting,
            self.killed_at_first_start,
            self.second_servers_refused,
            self.checkpoints,
            self.tokens,
            self.answered,
            self.settled_as_consumed,
            self.settled_as_live,
            self.unanswered_requests,
            self.transactions_undone,
            self.tried_at_the_end,
        )?;
        if self.too_slow > 0 {
            write!(f, "; {} cycles too slow to try keys", self.too_slow)?;
        }
        for (what, times) in &self.wrecks {
            write!(f, "\n  {times:>6} x {what}")?;
        }
        Ok(())
    }
}

/// Holds the trial with the server's binary, in a temporary directory.
pub async fn run(binary: PathBuf, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let place = tempfile::tempdir()?;
    let launch = Launch::new(binary, place.path());
    let began = Instant::now();
    let mut trial = Trial {
        launch,
        options,
        rng: StdRng::seed_from_u64(options.seed),
        log: None,
        redeemed: Vec::new(),
        tally: Tally::default(),
    };
    let mut server = trial.start().await?;
    if options.lose_log {
        // Without a log, a database that was never written back is empty, and a new store is careful by itself.
        server.stop().await?;
        server = trial.start().await?;
    }
    while trial.tally.cycles < options.cycles && began.elapsed() < options.limit {
        server = trial.cycle(server).await?;
        if trial.tally.cycles.is_multiple_of(options.cycles.div_ceil(10)) {
            say(&format!("{} of {} crashes", trial.tally.cycles, options.cycles));
        }
    }
    trial.try_at_the_end(&server).await?;
    server.stop().await?;
    trial.tally.took = began.elapsed();
    Ok(trial.tally)
}

struct Trial {
    launch: Launch,
    options: Options,
    rng: StdRng,
    /// The generation that the log was last seen in.
    log: Option<Salt>,
    /// Every token that was ever redeemed.
    redeemed: Vec<Arc<Vec<TrialToken>>>,
    tally: Tally,
}

impl Trial {
    /// Load, crash, damage, start, settle.
    async fn cycle(&mut self, server: ServerProcess) -> Result<ServerProcess, TrialError> {
        let began = Instant::now();
        let subjects = Arc::new(self.subjects(&server).await?);
        let end = if self.rng.random_ratio(1, 32) { End::Stopped } else { End::Killed };
        if self.rng.random_ratio(1, 16) {
            self.second_server().await?;
        }
        let floor = DurablePrefix::of(&self.launch.database());
        let load = load(server, end, &subjects, &mut self.rng).await?;
        self.damage(end, floor, &subjects)?;
        if self.rng.random_ratio(1, 16) {
            self.first_start().await?;
        }
        let server = self.start().await?;
        let with_keys = began.elapsed() < KEY_IS_SURELY_GOOD;
        let settled = settle(&server, &subjects, with_keys, &mut self.rng).await?;
        self.try_again(&server).await?;

        self.tally.cycles += 1;
        self.tally.stops += u64::from(end == End::Stopped);
        self.tally.too_slow += u64::from(!with_keys);
        self.tally.tokens += count(subjects.len());
        self.tally.answered += settled.seen;
        self.tally.settled_as_consumed += settled.unseen_consumed;
        self.tally.settled_as_live += settled.unseen_live;
        self.tally.unanswered_requests += count(load.unanswered);
        self.redeemed.push(subjects);
        Ok(server)
    }

    async fn subjects(&mut self, server: &ServerProcess) -> Result<Vec<TrialToken>, TrialError> {
        let mut issuer = Issuer::connect(server.target()).await?;
        let tokens = issuer.issue_many(self.rng.random_range(8..=96)).await?;
        Ok(tokens.into_iter().map(TrialToken::new).collect())
    }

    fn damage(&mut self, end: End, floor: DurablePrefix, subjects: &[TrialToken]) -> Result<(), TrialError> {
        let database = self.launch.database();
        let salt = Wal::read(&database).map(|wal| wal.salt());
        // An orderly stop empties the log; every other new generation follows a checkpoint under load.
        self.tally.checkpoints += u64::from(self.log.is_some() && salt.is_some() && salt != self.log);
        self.log = salt;
        if self.options.lose_log {
            for subject in subjects {
                subject.history.note("the log was removed");
            }
            return remove_log(&self.launch);
        }
        // An orderly stop has written the log back and may be followed by nothing that a crash may.
        let what = if end == End::Killed { Damage::choose(&mut self.rng) } else { Damage::None };
        let answered: Vec<_> = subjects.iter().filter(|s| s.yes().is_some()).map(|s| s.token.id).collect();
        let undone = damage(what, &database, floor, &answered, &mut self.rng)?;
        self.tally.transactions_undone += u64::from(undone);
        *self.tally.wrecks.entry(what.to_string()).or_default() += 1;
        for subject in subjects {
            subject.history.note(what);
        }
        Ok(())
    }

    /// Starts a server; in some cases only after some that are killed before they are ready.
    async fn start(&mut self) -> Result<ServerProcess, TrialError> {
        while self.rng.random_ratio(1, 8) {
            self.launch.start_and_kill(self.rng.random_range(0..MAX_START_SPINS)).await?;
            self.tally.killed_while_starting += 1;
        }
        self.launch.start().await
    }

    /// A second server on the same data does not start.
    async fn second_server(&mut self) -> Result<(), TrialError> {
        match self.launch.start().await {
            Err(TrialError::Setup(said)) if said.contains("is in use by process") => {
                self.tally.second_servers_refused += 1;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Err(Violation {
                promise: "two servers run on the same data directory".to_owned(),
                evidence: String::new(),
            }
            .into()),
        }
    }

    /// In a new directory, kills servers while they make the store and the key ring. The next one has to work.
    async fn first_start(&mut self) -> Result<(), TrialError> {
        let place = tempfile::tempdir()?;
        let launch = Launch::new(self.launch.binary().to_owned(), place.path());
        for _ in 0..self.rng.random_range(1..=4) {
            launch.start_and_kill(self.rng.random_range(0..MAX_START_SPINS)).await?;
            self.tally.killed_at_first_start += 1;
        }
        let server = launch.start().await?;
        let token = Issuer::connect(server.target()).await?.issue(true).await?;
        let mut tracker = Tracker::connect(server.target()).await?;
        let subject = TrialToken::new(token);
        if subject.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
            return Err(
                subject.broken("a new token is not accepted, after a first start that was interrupted")
            );
        }
        server.kill().await?;
        let server = launch.start().await?;
        let mut tracker = Tracker::connect(server.target()).await?;
        refused(&subject, &mut tracker).await?;
        server.kill().await
    }

    /// Tries some tokens of earlier cycles.
    async fn try_again(&mut self, server: &ServerProcess) -> Result<(), TrialError> {
        let mut tracker = Tracker::connect(server.target()).await?;
        for _ in 0..SAMPLE {
            let cycle = self.redeemed.choose(&mut self.rng);
            if let Some(subject) = cycle.and_then(|subjects| subjects.choose(&mut self.rng)) {
                refused(subject, &mut tracker).await?;
            }
        }
        Ok(())
    }

    /// Tries all tokens that were ever redeemed, and looks at their records.
    async fn try_at_the_end(&mut self, server: &ServerProcess) -> Result<(), TrialError> {
        let mut tracker = Tracker::connect(server.target()).await?;
        let mut issuer = Issuer::connect(server.target()).await?;
        for subject in self.redeemed.iter().flat_map(|subjects| subjects.iter()) {
            if subject.yes().is_some() {
                refused(subject, &mut tracker).await?;
                subject.look(&mut issuer).await?;
                subject.history.check()?;
                self.tally.tried_at_the_end += 1;
            }
        }
        Ok(())
    }
}

/// A token that was redeemed gets a stranger nothing.
async fn refused(subject: &TrialToken, tracker: &mut Tracker) -> Result<(), TrialError> {
    match subject.redeem(tracker, None).await? {
        CallerOutcome::Refused => Ok(()),
        outcome => Err(subject.broken(&format!("a stranger with a redeemed token was answered {outcome:?}"))),
    }
}

/// Removes the log and its index.
pub(crate) fn remove_log(launch: &Launch) -> Result<(), TrialError> {
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(beside(&launch.database(), suffix))?;
    }
    Ok(())
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
