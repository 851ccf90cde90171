//! The answer to an accepted handshake is lost. The tracker retries with its key, and a thief tries too.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::client::{Issuer, Target, Tracker};
use crate::history::Key;
use crate::proxy::{Break, Proxy};
use crate::trial_token::{CallerOutcome, TrialToken};
use crate::{ProgressSink, TrialError};

const OWN: Option<Key> = Some(1);
const THIEF: Option<Key> = Some(2);
const STRANGER: Option<Key> = None;

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many tokens.
    pub count: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides who asks in which order.
    pub seed: u64,
}

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Tokens.
    pub tokens: u64,
    /// Answers that were given and did not arrive; each retry got the very same answer.
    pub answers_lost: u64,
    /// Requests whose line broke before anybody saw an answer.
    pub requests_cut: u64,
    /// Of these, redeemed by somebody else before the tracker came back, because they had not been carried out.
    pub overtaken: u64,
    /// Thieves and strangers rejected.
    pub refused: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tokens in {:.0} s; {} answers lost and given again to the same key, byte for byte; {} lines cut before \
             any answer, {} of them overtaken by somebody else; {} thieves and strangers refused",
            self.tokens,
            self.took.as_secs_f64(),
            self.answers_lost,
            self.requests_cut,
            self.overtaken,
            self.refused
        )
    }
}

/// Holds the trial.
pub async fn run(target: Target, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut issuer = Issuer::connect(target).await?;
    let proxy = Proxy::start(target.public).await?;
    let mut direct = Tracker::connect(target).await?;
    let mut tally = Tally::default();
    while tally.tokens < options.count && began.elapsed() < options.limit {
        let subject = TrialToken::new(issuer.issue(true).await?);
        let when = if rng.random() { Break::BeforeTheAnswer } else { Break::AfterTheRequest };
        let mut tracker = Tracker::connect_to(proxy.address()?).await?;
        let (asked, answer) = tokio::join!(subject.redeem(&mut tracker, OWN), proxy.break_one(when));
        if asked? != CallerOutcome::NoAnswer {
            return Err(TrialError::Setup("an answer came through a line that was cut".to_owned()));
        }
        match (when, answer?) {
            (Break::BeforeTheAnswer, Some(body)) => {
                subject.history.note("the server's 200 did not arrive");
                subject.accepted(OWN, body)?;
                tally.answers_lost += 1;
            }
            (Break::BeforeTheAnswer, None) => {
                return Err(subject.broken("a new token was not answered with 200"));
            }
            (Break::AfterTheRequest, _) => tally.requests_cut += 1,
        }
        ask_again(&subject, when, &mut direct, &mut rng, &mut tally).await?;
        subject.history.check()?;
        tally.tokens += 1;
        if tally.tokens.is_multiple_of(options.count.div_ceil(10)) {
            say(&format!("{} of {} tokens", tally.tokens, options.count));
        }
    }
    tally.took = began.elapsed();
    Ok(tally)
}

/// The tracker, a thief and a stranger ask, in any order.
async fn ask_again(
    subject: &TrialToken,
    when: Break,
    tracker: &mut Tracker,
    rng: &mut StdRng,
    tally: &mut Tally,
) -> Result<(), TrialError> {
    let mut who = [OWN, THIEF];
    who.shuffle(rng);
    // A stranger who redeems a token cannot be told his answer again, so he comes first only if it is redeemed.
    let mut order = who.to_vec();
    let at = if when == Break::BeforeTheAnswer { rng.random_range(0..=order.len()) } else { order.len() };
    order.insert(at, STRANGER);
    for key in order {
        let outcome = subject.redeem(tracker, key).await?;
        let first = subject.yes().map(|yes| Some(yes.key));
        let expected = if first == Some(key) { CallerOutcome::Accepted } else { CallerOutcome::Refused };
        if outcome != expected || (when == Break::BeforeTheAnswer && first != Some(OWN)) {
            return Err(subject.broken(&format!("asked with {key:?}, the server answered {outcome:?}")));
        }
        tally.refused += u64::from(outcome == CallerOutcome::Refused && key != OWN);
    }
    tally.overtaken += u64::from(subject.yes().is_some_and(|yes| Some(yes.key) != OWN));
    Ok(())
}
