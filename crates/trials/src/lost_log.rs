//! The log is taken away, and with it answers that were given. No store survives that; what can be promised is less.
//!
//! - While the server runs, it notices and says yes to nobody until it is started again, having saved what was in the
//!   log.
//! - After a crash, the next start sees that there is no log and moves the fence: it rejects every token that was issued
//!   until then, whatever the store has forgotten.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{HandshakeResponse, Issuer, Target, Tracker};
use crate::crashes::remove_log;
use crate::process::Launch;
use crate::trial_token::{CallerOutcome, TrialToken};
use crate::{ProgressSink, TrialError};

/// How many tokens are redeemed before the log is lost.
const TOKENS: usize = 20;

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Times that the log was taken away from a running server, and once more after a crash.
    pub rounds: u64,
    /// Tokens redeemed before the crash.
    pub redeemed: u64,
    /// Of these, rejected afterwards. All, or the trial fails.
    pub refused: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds in {:.0} s; a running server refused to go on without its log each time; after a crash, {} of \
             {} redeemed tokens were refused without their log",
            self.rounds,
            self.took.as_secs_f64(),
            self.refused,
            self.redeemed
        )
    }
}

/// Holds the trial with the server's binary, in temporary directories.
pub async fn run(
    binary: PathBuf,
    rounds: u64,
    limit: Duration,
    say: ProgressSink<'_>,
) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut tally = Tally::default();
    while tally.rounds < rounds && began.elapsed() < limit {
        let place = tempfile::tempdir()?;
        let launch = Launch::new(binary.clone(), place.path());
        while_running(&launch).await?;
        after_a_crash(&launch, &mut tally).await?;
        tally.rounds += 1;
        if tally.rounds.is_multiple_of(rounds.div_ceil(10)) {
            say(&format!("{} of {rounds} rounds", tally.rounds));
        }
    }
    tally.took = began.elapsed();
    Ok(tally)
}

async fn while_running(launch: &Launch) -> Result<(), TrialError> {
    let server = launch.start().await?;
    let redeemed = redeem_some(server.target()).await?;
    let live = TrialToken::new(Issuer::connect(server.target()).await?.issue(true).await?);
    remove_log(launch)?;
    let mut tracker = Tracker::connect(server.target()).await?;
    match tracker.redeem(&live.token.text, Some(1)).await {
        Ok(HandshakeResponse::Later(_)) => {}
        Ok(answer) => return Err(live.broken(&format!("a server without its log answered {answer}"))),
        Err(lost) => return Err(lost.into()),
    }
    server.stop().await?;
    let server = launch.start().await?;
    let mut tracker = Tracker::connect(server.target()).await?;
    for subject in &redeemed {
        if subject.redeem(&mut tracker, None).await? != CallerOutcome::Refused {
            return Err(subject.broken("redeemed twice, after the log was removed under a running server"));
        }
    }
    // An orderly stop leaves everything in the database and the log empty.
    server.stop().await?;
    Ok(())
}

async fn after_a_crash(launch: &Launch, tally: &mut Tally) -> Result<(), TrialError> {
    let server = launch.start().await?;
    let redeemed = redeem_some(server.target()).await?;
    server.kill().await?;
    remove_log(launch)?;

    tally.redeemed += u64::try_from(redeemed.len()).unwrap_or(u64::MAX);

    let server = launch.start().await?;
    let mut tracker = Tracker::connect(server.target()).await?;
    for subject in &redeemed {
        for key in [Some(1), None] {
            match tracker.redeem(&subject.token.text, key).await {
                Ok(HandshakeResponse::Spent(reason)) if matches!(reason.as_str(), "fenced" | "replay") => {}
                Ok(answer) => {
                    return Err(subject.broken(&format!("without its log a token was answered {answer}")));
                }
                Err(lost) => return Err(lost.into()),
            }
        }
        tally.refused += 1;
    }
    server.stop().await?;
    Ok(())
}

/// Issues some tokens and redeems them.
async fn redeem_some(target: Target) -> Result<Vec<TrialToken>, TrialError> {
    let tokens = Issuer::connect(target).await?.issue_many(TOKENS).await?;
    let mut tracker = Tracker::connect(target).await?;
    let subjects: Vec<_> = tokens.into_iter().map(TrialToken::new).collect();
    for subject in &subjects {
        if subject.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
            return Err(subject.broken("a new token is not accepted"));
        }
    }
    Ok(subjects)
}
