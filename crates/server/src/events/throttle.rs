//! Limits how many events a minute unauthenticated clients can create, and how many lines of the log.

use std::sync::{Mutex, PoisonError};

use countersign_core::{Denial, EventKind, Reason, to_millis};
use jiff::Timestamp;

/// How many refusals of one reason become an event of their own in a minute; the others are summed up in one. A replay and
/// a relay attempt are such reasons, so that a million forged tokens hide neither.
pub const KEPT_EACH_MINUTE: u32 = 120;

const MINUTE_MILLIS: i64 = 60_000;

/// What was rejected lately, by reason: an entry for each [`Reason`], for replays, relay attempts and wrong credentials, and
/// for each [`Denial`]. Its kind is that of the event that sums up many.
#[derive(Debug)]
pub(super) struct EventThrottle(Vec<(EventKind, Mutex<Minute>)>);

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
    /// When the log had the last line about them, in milliseconds.
    logged: i64,
    /// How many have not been logged since.
    unlogged: u64,
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Which one of its minute it is, if it is kept by itself.
    pub(super) nth: Option<u32>,
    /// Whether it gets a line of its own in the log.
    pub(super) is_logged: bool,
}

impl Default for EventThrottle {
    fn default() -> Self {
        let reasons = Reason::ALL.iter().map(|reason| EventKind::Refused(*reason));
        let attacks =
            [EventKind::Replay(None), EventKind::Relay { stated: None }, EventKind::CredentialRejected];
        let denials = Denial::ALL.iter().map(|denial| EventKind::CallerDenied(*denial));
        Self(reasons.chain(attacks).chain(denials).map(|kind| (kind, Mutex::default())).collect())
    }
}

impl Default for Minute {
    fn default() -> Self {
        Self { began: i64::MIN, kept: 0, more: 0, told: i64::MIN, logged: i64::MIN, unlogged: 0 }
    }
}

impl Minute {
    /// Counts another one. Returns which one of its minute it is, if it is kept by itself.
    fn keep(&mut self, now: Timestamp) -> Option<u32> {
        if !is_within_a_minute(self.began, now) {
            self.began = to_millis(now);
            self.kept = 0;
        }
        if self.kept < KEPT_EACH_MINUTE {
            self.kept += 1;
            return Some(self.kept);
        }
        if self.more == 0 {
            self.told = to_millis(now);
        }
        self.more += 1;
        None
    }
}

impl EventThrottle {
    /// Counts a refusal. Of those that are worth a line in the log (`log`), the first gets one, and so does the first after
    /// a minute without any; the others are for [`unlogged`](Self::unlogged).
    pub(super) fn admit(&self, kind: &EventKind, now: Timestamp, log: bool) -> Admitted {
        let is_same = |known: &EventKind| (known.filter(), known.reason()) == (kind.filter(), kind.reason());
        let Some((_, minute)) = self.0.iter().find(|(known, _)| is_same(known)) else {
            return Admitted { nth: None, is_logged: false };
        };
        let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = log && minute.unlogged == 0 && !is_within_a_minute(minute.logged, now);
        if is_logged {
            minute.logged = to_millis(now);
        } else if log {
            minute.unlogged += 1;
        }
        Admitted { nth: minute.keep(now), is_logged }
    }

    /// The number of unlogged events by reason, once a minute; all of them at the end.
    pub(super) fn unlogged(&self, now: Timestamp, at_the_end: bool) -> Vec<(EventKind, u64)> {
        let mut sums = Vec::new();
        for (kind, minute) in &self.0 {
            let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
            if minute.unlogged > 0 && (at_the_end || !is_within_a_minute(minute.logged, now)) {
                sums.push((kind.clone(), minute.unlogged));
                minute.unlogged = 0;
                minute.logged = to_millis(now);
            }
        }
        sums
    }

    /// The number of events that were dropped, by reason: a minute after the limit was reached, every minute while it lasts,
    /// and all of them at the end.
    pub(super) fn sum_up(&self, now: Timestamp, at_the_end: bool) -> Vec<(EventKind, u64)> {
        let mut sums = Vec::new();
        for (kind, minute) in &self.0 {
            let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
            if minute.more > 0 && (at_the_end || !is_within_a_minute(minute.told, now)) {
                sums.push((kind.clone(), minute.more));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::{Clock, ManualClock, from_millis};

    use super::*;

    #[test]
    fn each_reason_is_limited_separately() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let throttle = EventThrottle::default();
        let limit = usize::try_from(KEPT_EACH_MINUTE).unwrap();
        let kept = |kind: &EventKind, count| {
            (0..count).filter(|_| throttle.admit(kind, clock.now(), true).nth.is_some()).count()
        };
        let (replay, unknown) = (EventKind::Replay(None), EventKind::Refused(Reason::Unknown));
        let passed_on = EventKind::Relay { stated: None };

        assert_eq!(kept(&unknown, limit + 1_000), limit);
        assert_eq!(kept(&replay, 5), 5, "a replay is not hidden by forged tokens");
        assert_eq!(kept(&passed_on, limit + 1), limit);
        assert!(throttle.sum_up(clock.now(), false).is_empty(), "the minute is not over");
        clock.advance(Duration::from_mins(1));
        let relays = (passed_on, 1);
        let forged = (unknown.clone(), 1_000);
        assert_eq!(throttle.sum_up(clock.now(), false), [forged, relays]);
        assert!(throttle.sum_up(clock.now(), false).is_empty(), "nothing is told twice");

        assert_eq!(kept(&unknown, limit + 7), limit, "another minute");
        assert_eq!(throttle.sum_up(clock.now(), true), [(unknown.clone(), 7)]);
        clock.set(from_millis(0));
        assert_eq!(kept(&replay, limit + 2), limit, "a clock that steps back keeps nothing from being seen");
        assert_eq!(throttle.sum_up(clock.now(), true), [(EventKind::Replay(None), 2)]);
    }

    #[test]
    fn repeated_refusals_are_logged_once_a_minute() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let throttle = EventThrottle::default();
        let logged = |kind: &EventKind, count| {
            (0..count).filter(|_| throttle.admit(kind, clock.now(), true).is_logged).count()
        };
        let (replay, expired) = (EventKind::Replay(None), EventKind::Refused(Reason::Expired));
        assert_eq!((logged(&replay, 10_000), logged(&expired, 3)), (1, 1));
        assert!(!throttle.admit(&replay, clock.now(), false).is_logged, "it is not worth a line");
        assert!(throttle.unlogged(clock.now(), false).is_empty(), "the minute is not over");
        clock.advance(Duration::from_mins(1));
        assert_eq!(logged(&replay, 5), 0, "it goes on");
        assert_eq!(throttle.unlogged(clock.now(), false), [(expired.clone(), 2), (replay.clone(), 10_004)]);
        assert_eq!(logged(&replay, 5), 0, "it goes on for another minute");
        assert!(throttle.unlogged(clock.now(), false).is_empty(), "nothing is said twice");
        assert_eq!(throttle.unlogged(clock.now(), true), [(replay.clone(), 5)]);
        clock.advance(Duration::from_mins(1));
        assert!(throttle.unlogged(clock.now(), false).is_empty());
        assert_eq!(logged(&replay, 2), 1, "after a minute of calm it is said in full again");
        clock.set(from_millis(0));
        assert_eq!(throttle.unlogged(clock.now(), false), [(replay, 1)], "also when the clock steps back");
    }
}
