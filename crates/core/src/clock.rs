//! The clock, passed in so that tests control time.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Tells the time.
///
/// Nothing in Countersign asks the operating system for the time except [`SystemClock`], so a test can decide what
/// time it is.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment, UTC, whole milliseconds.
    fn now(&self) -> Timestamp;

    /// The time since some moment in the past, on a clock that cannot be set. The difference of two readings is how much
    /// time has passed, even if [`now`](Self::now) was set in between.
    fn steady(&self) -> Duration;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
    fn now(&self) -> Timestamp {
        // Token ids and store records carry milliseconds; a finer clock would make a token older than itself.
        from_millis(to_millis(Timestamp::now()))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
    fn steady(&self) -> Duration {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        FIRST.elapsed()
    }
}

/// A clock that stands still until it is moved; for tests and demonstrations.
#[derive(Debug)]
pub struct ManualClock {
    millis: AtomicI64,
    steady_millis: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { millis: AtomicI64::new(to_millis(now)), steady_millis: AtomicU64::new(0) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.steady_millis.fetch_add(millis.unsigned_abs(), Ordering::SeqCst);
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the clock, also backwards, without any time passing: machines' clocks do step.
    pub fn set(&self, now: Timestamp) {
        self.millis.store(to_millis(now), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        Duration::from_millis(self.steady_millis.load(Ordering::SeqCst))
    }
}

/// A time as whole milliseconds since 1970-01-01T00:00:00Z.
pub fn to_millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// The time of so many milliseconds since 1970-01-01T00:00:00Z; beyond the years that exist, the last or first moment.
pub fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The moment so much later, or the last there is. Never panics, as `+` would at the end of time.
pub fn after(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The moment so much earlier, or the first there is.
pub fn before(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_clock_tells_whole_milliseconds() {
        let (first, steady) = (SystemClock.now(), SystemClock.steady());
        assert_eq!(from_millis(to_millis(first)), first);
        assert!(first > "2026-01-01T00:00:00Z".parse().unwrap(), "{first}");
        let mut readings = std::iter::repeat_with(|| SystemClock.steady()).take(1_000_000);
        assert!(readings.any(|later| later > steady));
    }

    #[test]
    fn setting_a_clock_lets_no_time_pass() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        clock.advance(Duration::from_millis(1_500));
        assert_eq!((to_millis(clock.now()), clock.steady()), (1_500, Duration::from_millis(1_500)));
        clock.set(from_millis(1_000));
        assert_eq!((to_millis(clock.now()), clock.steady()), (1_000, Duration::from_millis(1_500)));
        clock.advance(Duration::from_millis(1));
        assert_eq!((to_millis(clock.now()), clock.steady()), (1_001, Duration::from_millis(1_501)));
    }

    #[test]
    fn moments_beyond_all_years_are_the_last_or_the_first() {
        assert_eq!((from_millis(i64::MAX), from_millis(i64::MIN)), (Timestamp::MAX, Timestamp::MIN));
        assert_eq!((to_millis(from_millis(-1)), to_millis(from_millis(1))), (-1, 1));
        let second = Duration::from_secs(1);
        assert_eq!(after(Timestamp::MAX, second), Timestamp::MAX);
        assert_eq!(before(Timestamp::MIN, second), Timestamp::MIN);
        assert_eq!(to_millis(after(Timestamp::UNIX_EPOCH, second)), 1_000);
        assert_eq!(to_millis(before(Timestamp::UNIX_EPOCH, second)), -1_000);
    }
}
