//! Of what strangers can cause, only so much a minute is kept one by one.

use std::array;
use std::sync::{Mutex, PoisonError};

use countersign_core::{EventKind, Reason, to_millis};
use jiff::Timestamp;

/// How many refusals of one reason become an event of their own in a minute; the others are summed up in one. A replay and
/// a relay attempt are such reasons, so that a million forged tokens hide neither.
pub const KEPT_EACH_MINUTE: u32 = 120;

const MINUTE_MILLIS: i64 = 60_000;

/// One for each [`Reason`], and one each for replays, relay attempts and wrong credentials.
const CLASSES: usize = Reason::ALL.len() + 3;
const REPLAY: usize = Reason::ALL.len();
const RELAY: usize = Reason::ALL.len() + 1;
const CREDENTIAL: usize = Reason::ALL.len() + 2;

/// What was refused lately, by reason.
#[derive(Debug)]
pub(super) struct Flood([Mutex<Minute>; CLASSES]);

#[derive(Debug)]
struct Minute {
    /// When it began, in milliseconds.
    began: i64,
    /// How many were kept in it.
    kept: u32,
    /// How many were not, and have not been summed up yet.
    more: u64,
    /// When they were summed up last, in milliseconds.
    told: i64,
}

impl Default for Flood {
    fn default() -> Self {
        let minute = || Mutex::new(Minute { began: i64::MIN, kept: 0, more: 0, told: i64::MIN });
        Self(array::from_fn(|_| minute()))
    }
}

impl Flood {
    /// Counts a refusal. Returns which one of its minute it is, if it is kept by itself.
    pub(super) fn admit(&self, kind: &EventKind, now: Timestamp) -> Option<u32> {
        let minute = self.0.get(class(kind))?;
        let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_within_a_minute(minute.began, now) {
            minute.began = to_millis(now);
            minute.kept = 0;
        }
        if minute.kept < KEPT_EACH_MINUTE {
            minute.kept += 1;
            return Some(minute.kept);
        }
        if minute.more == 0 {
            minute.told = to_millis(now);
        }
        minute.more += 1;
        None
    }

    /// What was not kept by itself, of each reason, a minute after it began to be too much, and every minute while it
    /// goes on; all of it at the end.
    pub(super) fn sum_up(&self, now: Timestamp, at_the_end: bool) -> Vec<(EventKind, u64)> {
        let mut sums = Vec::new();
        for (class, minute) in self.0.iter().enumerate() {
            let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
            if minute.more > 0 && (at_the_end || !is_within_a_minute(minute.told, now)) {
                sums.push((kind(class), minute.more));
                minute.more = 0;
                minute.told = to_millis(now);
            }
        }
        sums
    }
}

/// A clock that stepped back begins another minute.
fn is_within_a_minute(began: i64, now: Timestamp) -> bool {
    (0..MINUTE_MILLIS).contains(&to_millis(now).saturating_sub(began))
}

fn class(kind: &EventKind) -> usize {
    match kind {
        EventKind::Replay(_) => REPLAY,
        EventKind::Relay { .. } => RELAY,
        EventKind::CredentialRejected => CREDENTIAL,
        other => {
            let reason = other.reason();
            Reason::ALL.iter().position(|&known| Some(known) == reason).unwrap_or(CLASSES)
        }
    }
}

/// The kind of an event that sums up many.
fn kind(class: usize) -> EventKind {
    match Reason::ALL.get(class) {
        Some(&reason) => EventKind::Refused(reason),
        None if class == RELAY => EventKind::Relay { stated: None },
        None if class == CREDENTIAL => EventKind::CredentialRejected,
        None => EventKind::Replay(None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::{Clock, ManualClock, from_millis};

    use super::*;

    #[test]
    fn each_reason_has_its_own_minute_and_the_rest_is_summed_up() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let flood = Flood::default();
        let limit = usize::try_from(KEPT_EACH_MINUTE).unwrap();
        let kept =
            |kind: &EventKind, count| (0..count).filter(|_| flood.admit(kind, clock.now()).is_some()).count();
        let (replay, unknown) = (EventKind::Replay(None), EventKind::Refused(Reason::Unknown));
        let passed_on = EventKind::Relay { stated: None };

        assert_eq!(kept(&unknown, limit + 1_000), limit);
        assert_eq!(kept(&replay, 5), 5, "a replay is not hidden by forged tokens");
        assert_eq!(kept(&passed_on, limit + 1), limit);
        assert!(flood.sum_up(clock.now(), false).is_empty(), "the minute is not over");
        clock.advance(Duration::from_mins(1));
        let relays = (passed_on, 1);
        let forged = (unknown.clone(), 1_000);
        assert_eq!(flood.sum_up(clock.now(), false), [forged, relays]);
        assert!(flood.sum_up(clock.now(), false).is_empty(), "nothing is told twice");

        assert_eq!(kept(&unknown, limit + 7), limit, "another minute");
        assert_eq!(flood.sum_up(clock.now(), true), [(unknown.clone(), 7)]);
        clock.set(from_millis(0));
        assert_eq!(kept(&replay, limit + 2), limit, "a clock that steps back keeps nothing from being seen");
        assert_eq!(flood.sum_up(clock.now(), true), [(EventKind::Replay(None), 2)]);
    }
}
