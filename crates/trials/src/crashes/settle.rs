//! Checks after a crash: every client retries, and the answers must fit those from before.

use std::time::Duration;

use countersign_core::{Clock, SystemClock};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::load::KEYS;
use crate::TrialError;
use crate::client::{Issuer, Tracker, date_consumed};
use crate::history::Key;
use crate::process::ServerProcess;
use crate::trial_token::{CallerOutcome, TrialToken};

/// A key is good for 60 s. A cycle that took nearly as long, on a machine that stood still, is judged without keys.
pub(super) const KEY_IS_SURELY_GOOD: Duration = Duration::from_secs(45);

/// What settling came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    /// Tokens answered 200 before the crash.
    pub(super) seen: u64,
    /// Tokens that nobody had seen a 200 for, and which had been consumed before the crash all the same.
    pub(super) unseen_consumed: u64,
    /// Tokens that nobody had seen a 200 for, and which were still live.
    pub(super) unseen_live: u64,
}

/// Settles every token: with all keys in random order, as a stranger without one, then by a look.
pub(super) async fn settle(
    server: &ServerProcess,
    subjects: &[TrialToken],
    with_keys: bool,
    rng: &mut StdRng,
) -> Result<Settled, TrialError> {
    let mut tracker = Tracker::connect(server.target()).await?;
    let mut issuer = Issuer::connect(server.target()).await?;
    let restarted = SystemClock.now();
    let mut settled = Settled::default();
    for subject in subjects {
        let before = subject.yes();
        for key in who_asks(before.is_some(), with_keys, rng) {
            let outcome = subject.redeem(&mut tracker, key).await?;
            let accepted = subject.yes().is_some_and(|yes| Some(yes.key) == key);
            let expected = if accepted { CallerOutcome::Accepted } else { CallerOutcome::Refused };
            if outcome != expected {
                let promise =
                    format!("asked with {key:?}, the server answered {outcome:?}, not {expected:?}");
                return Err(subject.broken(&promise));
            }
        }
        if with_keys && subject.yes().is_none() {
            return Err(subject.broken("a token that nobody was answered about serves none of its keys"));
        }
        subject.look(&mut issuer).await?;
        subject.history.check()?;
        match (before, subject.yes().and_then(|yes| date_consumed(&yes.body))) {
            (Some(_), _) => settled.seen += 1,
            (None, Some(at)) if at < restarted => settled.unseen_consumed += 1,
            (None, _) => settled.unseen_live += 1,
        }
    }
    Ok(settled)
}

/// A stranger may come at any time to a token that is known to be redeemed, and last to one that is not.
fn who_asks(redeemed: bool, with_keys: bool, rng: &mut StdRng) -> Vec<Option<Key>> {
    let mut keys: Vec<_> = if with_keys { KEYS.map(Some).into() } else { Vec::new() };
    if redeemed {
        keys.push(None);
    }
    keys.shuffle(rng);
    if with_keys && !redeemed {
        keys.push(None);
    }
    keys
}
