//! The stopwatch, passed in so that tests control time.

use std::time::{Duration, Instant};

/// Tells how much time has gone by since some fixed moment.
pub trait Stopwatch: Send {
    /// Never less than before.
    fn elapsed(&self) -> Duration;
}

/// The machine's own monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemStopwatch(Instant);

impl SystemStopwatch {
    /// Starts it.
    #[expect(clippy::disallowed_methods, reason = "a latency is what the machine's own clock says")]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Stopwatch for SystemStopwatch {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
