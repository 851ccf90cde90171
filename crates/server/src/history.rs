//! How many handshakes there were, and how long they took: for each minute of the last hour, and more coarsely for the
//! last week.
//!
//! Handshakes only increase counters. Once a second the difference is added to the current minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use countersign_core::{from_millis, to_millis};
use jiff::Timestamp;

use crate::sum::Sum;

const MINUTE_MILLIS: i64 = 60_000;

/// How far back it is known how finely.
#[derive(Debug)]
pub(crate) struct Range {
    /// As an address has it.
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    /// For how long a slot is.
    pub(crate) each: &'static str,
    minutes: i64,
    /// How many slots there are.
    pub(crate) slots: usize,
}

impl Range {
    pub(crate) const fn new(
        name: &'static str,
        text: &'static str,
        each: &'static str,
        minutes: i64,
        slots: usize,
    ) -> Self {
        Self { name, text, each, minutes, slots }
    }
}

/// The ranges. Their slots are all that is kept, 800 bytes for each, whatever happens.
pub(crate) static RANGES: [Range; 4] = [
    Range::new("1h", "hour", "minute", 1, 60),
    Range::new("6h", "6 hours", "5 minutes", 5, 72),
    Range::new("24h", "24 hours", "15 minutes", 15, 96),
    Range::new("7d", "7 days", "2 hours", 120, 84),
];

/// The slots in which something happened, oldest first, each with its number since 1970; at most as many as the range has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring(VecDeque<(i64, Box<Sum>)>);

impl Ring {
    /// Adds what came on top since the last look, if anything did.
    pub(crate) fn note(&mut self, range: &Range, now: Timestamp, more: &Sum) {
        if more.is_empty() {
            self.settle(range, now);
        } else {
            self.add(range, now, Box::new(*more));
        }
    }

    /// Adds to the slot of this moment. The oldest slot makes room where there is none left: time alone forgets nothing, since a
    /// clock that jumps ahead for a moment would empty the range.
    fn add(&mut self, range: &Range, now: Timestamp, mut more: Box<Sum>) {
        let this = range.slot(now);
        // A slot that seems to lie ahead was counted before the clock stepped back, or by another reading that was quicker.
        while self.0.back().is_some_and(|(slot, _)| *slot >= this) {
            if let Some((_, ahead)) = self.0.pop_back() {
                *more += &*ahead;
            }
        }
        if self.0.len() >= range.slots {
            self.0.pop_front();
        }
        self.0.push_back((this, more));
    }

    /// Moves what seems to lie ahead to the slot of this moment.
    fn settle(&mut self, range: &Range, now: Timestamp) {
        if self.0.back().is_some_and(|(slot, _)| *slot > range.slot(now))
            && let Some((_, ahead)) = self.0.pop_back()
        {
            self.add(range, now, ahead);
        }
    }

    /// The slots of the range, oldest first.
    pub(crate) fn within(&self, range: &Range, now: Timestamp) -> impl Iterator<Item = &Sum> {
        let slots = range.first(now)..=range.slot(now);
        self.0.iter().filter(move |(slot, _)| slots.contains(slot)).map(|(_, sum)| &**sum)
    }

    /// What is kept, oldest first.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &(i64, Box<Sum>)> {
        self.0.iter()
    }
}

impl FromIterator<(i64, Box<Sum>)> for Ring {
    fn from_iter<I: IntoIterator<Item = (i64, Box<Sum>)>>(slots: I) -> Self {
        Self(slots.into_iter().collect())
    }
}

/// The last week.
#[derive(Debug)]
pub(crate) struct History {
    started: Timestamp,
    kept: Mutex<HistoryState>,
}

#[derive(Debug)]
struct HistoryState {
    /// What there had been at the last look.
    before: Sum,
    ranges: [Ring; RANGES.len()],
}

impl History {
    /// One that begins now.
    pub(crate) fn new(started: Timestamp) -> Self {
        // All the room at once: one that grows takes up to twice as much.
        let ranges = RANGES.each_ref().map(|range| Ring(VecDeque::with_capacity(range.slots)));
        Self { started, kept: Mutex::new(HistoryState { before: Sum::default(), ranges }) }
    }

    /// When it began.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    /// Looks: so many there have been altogether.
    pub(crate) fn look(&self, now: Timestamp, totals: &Sum) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let more = totals.since(&kept.before);
        kept.before = *totals;
        for (ring, range) in kept.ranges.iter_mut().zip(&RANGES) {
            ring.note(range, now, &more);
        }
    }

    /// The slots of a range, oldest first, each with its start; the last one is still running.
    pub(crate) fn slots(&self, range: &'static Range, now: Timestamp) -> Vec<(Timestamp, Sum)> {
        let first = range.first(now);
        let mut slots: Vec<_> =
            (first..=range.slot(now)).map(|slot| (range.begin(slot), Sum::default())).collect();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ring) = RANGES.iter().position(|known| known.name == range.name) else { return slots };
        for (slot, sum) in kept.ranges.get(ring).into_iter().flat_map(Ring::slots) {
            let place = usize::try_from(slot - first).ok().and_then(|place| slots.get_mut(place));
            if let Some((_, place)) = place {
                *place = **sum;
            }
        }
        slots
    }

    /// The minutes of the last hour, oldest first.
    pub(crate) fn minutes(&self, now: Timestamp) -> Vec<Sum> {
        let [hour, ..] = &RANGES;
        self.slots(hour, now).into_iter().map(|(_, sum)| sum).collect()
    }
}

impl Range {
    /// The number of the slot with this moment in it.
    fn slot(&self, time: Timestamp) -> i64 {
        to_millis(time).div_euclid(self.minutes * MINUTE_MILLIS)
    }

    /// The number of the range's oldest slot at this moment. A ring may keep older ones.
    fn first(&self, now: Timestamp) -> i64 {
        self.slot(now) - self.span() + 1
    }

    /// How long a slot is, in minutes.
    pub(crate) fn minutes(&self) -> i64 {
        self.minutes
    }

    /// How far back it is known at this moment.
    pub(crate) fn since(&self, now: Timestamp) -> Timestamp {
        self.begin(self.first(now))
    }

    fn begin(&self, slot: i64) -> Timestamp {
        from_millis(slot.saturating_mul(self.minutes * MINUTE_MILLIS))
    }

    fn span(&self) -> i64 {
        i64::try_from(self.slots).unwrap_or(i64::MAX)
    }

    /// Where an axis of so many slots has a mark: at round times, seven at most. Returns minutes.
    pub(crate) fn step(&self, slots: usize) -> i64 {
        let minutes = self.minutes.saturating_mul(i64::try_from(slots).unwrap_or(i64::MAX));
        let steps = [1, 2, 5, 10, 15, 30, 60, 120, 240, 720, 1440];
        steps.into_iter().find(|step| minutes <= 7 * step && step % self.minutes == 0).unwrap_or(1440)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::{Clock, ManualClock, from_millis};

    use super::*;

    const MINUTES: usize = 60;

    fn accepted(accepted: u64) -> Sum {
        Sum::of_handshakes(&[("accepted", accepted)])
    }

    fn look(history: &History, clock: &ManualClock, totals: &Sum) {
        history.look(clock.now(), totals);
    }

    #[test]
    fn increase_is_counted_in_the_minute_it_is_seen() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        look(&history, &clock, &accepted(3));
        clock.advance(Duration::from_secs(59));
        look(&history, &clock, &accepted(5));
        clock.advance(Duration::from_secs(1));
        look(&history, &clock, &Sum::of_handshakes(&[("accepted", 5), ("replay", 2)]));
        let minutes = history.minutes(clock.now());
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes[MINUTES - 2], accepted(5));
        assert_eq!(minutes[MINUTES - 1], Sum::of_handshakes(&[("replay", 2)]));
        assert_eq!(minutes[..MINUTES - 2], vec![accepted(0); MINUTES - 2]);
    }

    #[test]
    fn clock_steps_keep_an_hour_of_records() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        for minute in 1..=200 {
            look(&history, &clock, &accepted(minute));
            clock.advance(Duration::from_mins(1));
        }
        let minutes = history.minutes(clock.now());
        assert_eq!(minutes[MINUTES - 1], accepted(0), "it has just begun");
        assert_eq!(minutes[..MINUTES - 1], vec![accepted(1); MINUTES - 1]);

        clock.set(from_millis(1_767_225_600_000));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES]);
        look(&history, &clock, &accepted(207));
        let minutes = history.minutes(clock.now());
        assert_eq!(minutes[MINUTES - 1], accepted(60 + 7), "what was kept of the time ahead is not lost");
        clock.advance(Duration::from_hours(1_000_000));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES]);
        look(&history, &clock, &accepted(0));
        assert_eq!(history.minutes(clock.now()), vec![accepted(0); MINUTES], "counters never go back");
    }

    #[test]
    fn each_range_keeps_a_bounded_history() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        for minute in 1..=20_000 {
            look(&history, &clock, &accepted(minute));
            clock.advance(Duration::from_mins(1));
        }
        for (nth, range) in RANGES.iter().enumerate() {
            assert!(history.kept.lock().unwrap().ranges[nth].0.len() <= range.slots, "{range:?}");
            let slots = history.slots(range, clock.now());
            assert_eq!(slots.len(), range.slots);
            let per_slot = u64::try_from(range.minutes).unwrap();
            let (first, last) = (slots[0].1, slots[range.slots - 2].1);
            assert_eq!((first, last), (accepted(per_slot), accepted(per_slot)), "{range:?}");
        }
    }

    #[test]
    fn history_limit_matches_the_documentation() {
        let clock = ManualClock::at(from_millis(1_767_225_600_000));
        let history = History::new(clock.now());
        // Long enough to fill the coarsest range.
        for minute in 1..=20_000 {
            look(&history, &clock, &accepted(minute));
            clock.advance(Duration::from_mins(1));
        }
        let kept = history.kept.lock().unwrap();
        assert_eq!(kept.ranges.iter().map(|ring| ring.0.len()).sum::<usize>(), 312, "all are full");
        let places = kept.ranges.iter().map(|ring| ring.0.capacity()).sum::<usize>();
        let bytes = places * size_of::<(i64, Box<Sum>)>() + 312 * size_of::<Sum>();
        assert!(bytes <= 250_000, "docs/limits.md says 250 KB, not {bytes} bytes");
    }
}
