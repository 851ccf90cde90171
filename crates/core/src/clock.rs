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
    /// time has passed, whatever happened to [`now`](Self::now) in between.
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
