//! What one tracker or one caller did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{array, mem};

use countersign_core::to_millis;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::handshake_outcome::{HandshakeOutcome, OUTCOMES};
use crate::history::{Range, Ring};
use crate::latency::LatencyCounts;
use crate::sum::Sum;

/// The ranges, with coarser slots than the chart's, because there are many rows: 54 slots of some 800 bytes at most for each. One
/// slot more than the range has, so that all of it is covered.
pub(crate) static RANGES: [Range; 4] = [
    Range::new("1h", "hour", "5 minutes", 5, 13),
    Range::new("6h", "6 hours", "30 minutes", 30, 13),
    Range::new("24h", "24 hours", "2 hours", 120, 13),
    Range::new("7d", "7 days", "12 hours", 720, 15),
];

/// The range of this name.
pub(crate) fn range(name: &str) -> Option<&'static Range> {
    RANGES.iter().find(|range| range.name == name)
}

/// Counters, and what they said in each slot of time.
#[derive(Debug)]
pub(super) struct Row {
    issued: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES.len()],
    latencies: LatencyCounts,
    /// Only a look and a reader take it, never a handshake.
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    /// The counters at the last look.
    before: Sum,
    last_good: Option<Timestamp>,
    ranges: [Ring; RANGES.len()],
    /// Whether there is something new since it was kept.
    changed: bool,
}

/// A row as it is kept for the next server. A later version may know more outcomes, other slots and other classes; each passes over
/// what it does not know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptRow {
    last_good: Option<Timestamp>,
    /// By how many minutes their slots are long.
    slots: BTreeMap<i64, Vec<KeptSlot>>,
}

impl KeptRow {
    /// `None` for a text that no row has written.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// When something happened last, in milliseconds; as exactly as the shortest of its slots tell.
    pub(super) fn latest(&self) -> i64 {
        let end =
            |minutes: i64, slot: i64| minutes.saturating_mul(60_000).saturating_mul(slot.saturating_add(1));
        let ends = self
            .slots
            .iter()
            .filter_map(|(minutes, slots)| slots.iter().map(|kept| end(*minutes, kept.slot)).max());
        ends.min().or(self.last_good.map(to_millis)).unwrap_or(i64::MIN)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptSlot {
    /// Its number since 1970.
    slot: i64,
    issued: u64,
    outcomes: BTreeMap<String, u64>,
    latencies: BTreeMap<usize, u64>,
}

impl KeptSlot {
    fn of(slot: i64, sum: &Sum) -> Self {
        let outcomes = sum.outcomes().filter(|(_, count)| *count > 0);
        Self {
            slot,
            issued: sum.issued,
            outcomes: outcomes.map(|(outcome, count)| (outcome.to_owned(), count)).collect(),
            latencies: sum.latencies.classes().collect(),
        }
    }

    fn sum(self) -> Sum {
        Sum {
            issued: self.issued,
            outcomes: OUTCOMES.map(|outcome| self.outcomes.get(outcome).copied().unwrap_or_default()),
            latencies: self.latencies.into_iter().collect(),
        }
    }
}

impl Default for Row {
    fn default() -> Self {
        Self {
            issued: AtomicU64::new(0),
            outcomes: array::from_fn(|_| AtomicU64::new(0)),
            latencies: LatencyCounts::new(),
            past: Mutex::default(),
        }
    }
}

impl Row {
    /// A token was issued.
    pub(super) fn issued(&self) {
        self.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// A handshake was answered.
    pub(super) fn handshake(&self, outcome: HandshakeOutcome<'_>, took: Duration) {
        if let Some(count) = self.outcomes.get(outcome.place()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.latencies.add(took);
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> Sum {
        Sum {
            issued: self.issued.load(Ordering::Relaxed),
            outcomes: self.outcomes.each_ref().map(|count| count.load(Ordering::Relaxed)),
            latencies: self.latencies.read(),
        }
    }

    /// Notes what came on top since the last look. Returns whether there is anything left that a range would show.
    pub(super) fn look(&self, now: Timestamp) -> bool {
        let counted = self.counted();
        let mut past = self.past();
        let more = counted.since(&past.before);
        past.before = counted;
        past.changed |= !more.is_empty();
        // One that seems to lie ahead is from before the clock stepped back.
        if more.good() > 0 || past.last_good > Some(now) {
            past.last_good = Some(now);
            past.changed = true;
        }
        for (ring, range) in past.ranges.iter_mut().zip(&RANGES) {
            ring.note(range, now, &more);
        }
        past.ranges.iter().zip(&RANGES).any(|(ring, range)| ring.within(range, now).next().is_some())
    }

    /// When a handshake was good last, and what there was in a range.
    pub(super) fn read(&self, range: &'static Range, now: Timestamp) -> (Option<Timestamp>, Sum) {
        let past = self.past();
        let mut sum = Sum::default();
        for (ring, _) in past.ranges.iter().zip(&RANGES).filter(|(_, known)| known.name == range.name) {
            ring.within(range, now).for_each(|more| sum += more);
        }
        (past.last_good, sum)
    }

    /// As a text for the next server, if there is something new since it was asked for last.
    pub(super) fn changed(&self) -> Option<String> {
        let mut past = self.past();
        if !mem::take(&mut past.changed) {
            return None;
        }
        let slots = past.ranges.iter().zip(&RANGES).map(|(ring, range)| {
            (range.minutes(), ring.slots().map(|(slot, sum)| KeptSlot::of(*slot, sum)).collect())
        });
        // Numbers and names: nothing that JSON could not say.
        serde_json::to_string(&KeptRow { last_good: past.last_good, slots: slots.collect() }).ok()
    }

    /// Goes on from what was kept.
    pub(super) fn restore(&self, mut kept: KeptRow) {
        let mut past = self.past();
        past.last_good = kept.last_good;
        for (ring, range) in past.ranges.iter_mut().zip(&RANGES) {
            let mut slots = kept.slots.remove(&range.minutes()).unwrap_or_default();
            slots.sort_by_key(|kept| kept.slot);
            let too_many = slots.len().saturating_sub(range.slots);
            *ring = slots.into_iter().skip(too_many).map(|kept| (kept.slot, Box::new(kept.sum()))).collect();
        }
    }

    /// When a handshake was answered 200 last, and what was counted in this process.
    pub(super) fn totals(&self) -> (Option<Timestamp>, Sum) {
        (self.past().last_good, self.counted())
    }
}
