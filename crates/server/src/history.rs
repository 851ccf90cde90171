//! How many handshakes there were in each minute of the last hour.
//!
//! Nothing is noted as handshakes are answered: now and then somebody looks at how many there have been altogether, and
//! what came on top since the last look belongs to the minute of this one.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::{Mutex, PoisonError};

use countersign_core::to_millis;
use jiff::Timestamp;

/// For how many minutes it is known.
pub(crate) const MINUTES: usize = 60;

const MINUTE_MILLIS: i64 = 60_000;

/// Handshakes, by how they were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handshakes {
    pub(crate) accepted: u64,
    /// Refused, and neither a replay nor a relay attempt.
    pub(crate) refused: u64,
    pub(crate) replays: u64,
    pub(crate) relays: u64,
    /// Not answered, because the store was busy or away.
    pub(crate) unanswered: u64,
}

impl Handshakes {
    pub(crate) fn all(&self) -> u64 {
        self.accepted + self.refused + self.replays + self.relays + self.unanswered
    }

    /// Replays and relay attempts.
    pub(crate) fn alarming(&self) -> u64 {
        self.replays + self.relays
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            accepted: self.accepted.saturating_sub(before.accepted),
            refused: self.refused.saturating_sub(before.refused),
            replays: self.replays.saturating_sub(before.replays),
            relays: self.relays.saturating_sub(before.relays),
            unanswered: self.unanswered.saturating_sub(before.unanswered),
        }
    }
}

impl AddAssign for Handshakes {
    fn add_assign(&mut self, more: Self) {
        self.accepted += more.accepted;
        self.refused += more.refused;
        self.replays += more.replays;
        self.relays += more.relays;
        self.unanswered += more.unanswered;
    }
}

/// The last hour.
#[derive(Debug)]
pub(crate) struct History {
    started: Timestamp,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many there had been at the last look.
    before: Handshakes,
    /// Oldest first, each with its number since 1970; minutes without handshakes are left out.
    minutes: VecDeque<(i64, Handshakes)>,
}

impl History {
    /// One that begins now.
    pub(crate) fn new(started: Timestamp) -> Self {
        Self { started, kept: Mutex::default() }
    }

    /// When it began.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    /// Looks: so many there have been altogether.
    pub(crate) fn look(&self, now: Timestamp, totals: Handshakes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let more = totals.since(&kept.before);
        kept.before = totals;
        let this = minute(now);
        // What seems to lie ahead is from before the clock stepped back.
        kept.minutes.retain(|(minute, _)| *minute <= this && this - minute < span());
        if more.all() == 0 {
            return;
        }
        match kept.minutes.back_mut() {
            Some((minute, handshakes)) if *minute == this => *handshakes += more,
            _ => kept.minutes.push_back((this, more)),
        }
    }

    /// The last [`MINUTES`], oldest first; the last one goes on.
    pub(crate) fn minutes(&self, now: Timestamp) -> Vec<Handshakes> {
        let mut minutes = vec![Handshakes::default(); MINUTES];
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (minute, handshakes) in &kept.minutes {
            let place = minute - (self::minute(now) - span() + 1);
            if let Some(slot) = usize::try_from(place).ok().and_then(|place| minutes.get_mut(place)) {
                *slot = *handshakes;
            }
        }
        minutes
    }
}

fn minute(time: Timestamp) -> i64 {
    to_millis(time).div_euclid(MINUTE_MILLIS)
}

fn span() -> i64 {
    i64::try_from(MINUTES).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::{Clock, ManualClock, from_millis};

    use super::*;

    fn accepted(accepted: u64) -> Handshakes {
        Handshakes { accepted, ..Handshakes::default() }
    }

    #[test]
    fn what_came_on_top_belongs_to_the_minute_of_the_look() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        history.look(clock.now(), accepted(3));
        clock.advance(Duration::from_secs(59));
        history.look(clock.now(), accepted(5));
        clock.advance(Duration::from_secs(1));
        history.look(clock.now(), Handshakes { replays: 2, ..accepted(5) });
        let minutes = history.minutes(clock.now());
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes[MINUTES - 2], accepted(5));
        assert_eq!(minutes[MINUTES - 1], Handshakes { replays: 2, ..accepted(0) });
        assert_eq!(minutes[..MINUTES - 2], [accepted(0); MINUTES - 2]);
    }

    #[test]
    fn an_hour_is_kept_whatever_the_clock_does() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        for minute in 1..=200 {
            history.look(clock.now(), accepted(minute));
            clock.advance(Duration::from_mins(1));
        }
        let minutes = history.minutes(clock.now());
        assert_eq!(minutes[MINUTES - 1], accepted(0), "it has just begun");
        assert_eq!(minutes[..MINUTES - 1], [accepted(1); MINUTES - 1]);
        assert!(history.kept.lock().unwrap().minutes.len() <= MINUTES);

        clock.set(from_millis(1_767_225_600_000));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES]);
        history.look(clock.now(), accepted(207));
        assert_eq!(history.minutes(clock.now())[MINUTES - 1], accepted(7));
        clock.advance(Duration::from_hours(1_000_000));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES]);
        history.look(clock.now(), accepted(0));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES], "counters never go back");
    }
}
