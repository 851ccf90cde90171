//! How long handshakes took, as a histogram, for the median and the 99th percentile.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first class ends here, in microseconds, as a power of two.
const FIRST: u32 = 6;

/// How many classes there are for each doubling, as a power of two.
const FINE: u32 = 2;

/// From 64 microseconds to 67 seconds.
const CLASSES: usize = 80;

/// Counts the handshakes by the time that their answers took.
#[derive(Debug)]
pub(crate) struct LatencyCounts([AtomicU64; CLASSES]);

/// How many handshakes there were of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latencies([u64; CLASSES]);

impl LatencyCounts {
    pub(crate) fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(crate) fn add(&self, took: Duration) {
        if let Some(count) = self.0.get(class(took)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there have been.
    pub(crate) fn read(&self) -> Latencies {
        let counts = self.0.each_ref();
        Latencies(counts.map(|count| count.load(Ordering::Relaxed)))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

impl Latencies {
    /// The counts since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut more = *self;
        more.0.iter_mut().zip(before.0).for_each(|(count, before)| *count = count.saturating_sub(before));
        more
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count = count.saturating_add(more));
    }

    /// The classes that have any, each with how many.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.into_iter().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Within what time so many of 100 were answered; `None`: there was none. It is the end of a class, so
    /// at most a quarter too long (64 µs are reported as 80), except times below 64 µs, which are all reported as 80.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u128 = self.0.iter().map(|&count| u128::from(count)).sum();
        let rank = all * u128::from(percent);
        let mut below = 0_u128;
        let class = self.0.iter().position(|&count| {
            below += 100 * u128::from(count);
            below >= rank
        });
        class.filter(|_| all > 0).map(end)
    }
}

impl FromIterator<(usize, u64)> for Latencies {
    /// From its classes; those that there are none of are passed over.
    fn from_iter<I: IntoIterator<Item = (usize, u64)>>(classes: I) -> Self {
        let mut latencies = Self::default();
        for (class, count) in classes {
            if let Some(place) = latencies.0.get_mut(class) {
                *place = count;
            }
        }
        latencies
    }
}

/// The class of a time.
fn class(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1 << FIRST);
    let doublings = micros.ilog2();
    let place = (micros >> (doublings - FINE)) & ((1 << FINE) - 1);
    let class = (u64::from(doublings - FIRST) << FINE) + place;
    usize::try_from(class).unwrap_or(CLASSES).min(CLASSES - 1)
}

/// Where a class ends.
fn end(class: usize) -> Duration {
    let class = u32::try_from(class).unwrap_or(0);
    let place = u64::from(class & ((1 << FINE) - 1));
    Duration::from_micros((place + 1 + (1 << FINE)) << ((class >> FINE) + FIRST - FINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_at_most_a_quarter_high() {
        for micros in [64, 65, 100, 999, 1_000, 1_280, 54_321, 1_000_000, 20_000_000] {
            let took = Duration::from_micros(micros);
            let counts = LatencyCounts::new();
            counts.add(took);
            let found = counts.read().percentile(50).unwrap();
            assert!(found > took && found <= took.mul_f64(1.25), "{took:?} is told as {found:?}");
        }
        // What is shorter than the first class counts in it, and what is longer than the last in that.
        for (took, told) in [
            (Duration::ZERO, Duration::from_micros(80)),
            (Duration::from_micros(63), Duration::from_micros(80)),
            (Duration::MAX, Duration::from_micros(1 << 26)),
        ] {
            let counts = LatencyCounts::new();
            counts.add(took);
            assert_eq!(counts.read().percentile(50), Some(told), "{took:?}");
        }
    }

    #[test]
    fn slowest_percent_is_beyond_the_99th_percentile() {
        let counts = LatencyCounts::new();
        (0..990).for_each(|_| counts.add(Duration::from_millis(1)));
        (0..10).for_each(|_| counts.add(Duration::from_secs(1)));
        let found = counts.read();
        assert!(found.percentile(99).unwrap() < Duration::from_millis(2), "{found:?}");
        counts.add(Duration::from_secs(1));
        let more = counts.read();
        assert!(more.percentile(50).unwrap() < Duration::from_millis(2));
        assert!(more.percentile(99).unwrap() >= Duration::from_secs(1));
        assert!(more.since(&found).percentile(50).unwrap() >= Duration::from_secs(1), "one more, and slow");
        assert_eq!(more.since(&more).percentile(99), None);
    }
}
