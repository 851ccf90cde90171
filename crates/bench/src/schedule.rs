//! The schedule of requests; latency counts from the scheduled time.
//!
//! Without a rate, each connection sends its next request when the last one is answered (a *closed loop*): it shows how
//! much a server can do, but a server that stalls is asked less, so its stall counts for a handful of requests only.
//!
//! With a rate, requests have a timetable that the server cannot delay (an *open loop*). A request that
//! is sent late because the server stalled counts from its scheduled time, so that a stall shows in every request that it
//! delayed. Leaving that out is what is known as coordinated omission.

use std::time::Duration;

/// How late the timer may ring that a connection waits with: it counts whole milliseconds, and so does what it waits with.
const GRAIN: Duration = Duration::from_millis(2);

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So long after the warm-up.
    Time(Duration),
    /// After so many rounds, those of the warm-up not counted.
    Count(u64),
}

/// How much load there is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Rounds a second over all connections, in an open loop; `None`: as many as there can be, in a closed loop.
    pub rate: Option<f64>,
    /// For how long there is load before anything is measured.
    pub warmup: Duration,
    /// When it is over.
    pub limit: Limit,
}

/// A round that a connection has taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When to send, since the start of the run.
    pub due: Duration,
    /// Whether it counts.
    pub measured: bool,
}

impl Slot {
    /// From when its latency counts, for one who `waited` for its time or not.
    pub fn counts_from(self, sent: Duration, waited: bool) -> Duration {
        // That the timer is coarse is not the server's doing. What it rings later than that can be: on a machine that both
        // share. Were all of it counted then, the timer's two milliseconds would be the 99th percentile of a fast server.
        if waited { sent.min(self.due + GRAIN) } else { self.due }
    }
}

/// Hands out the rounds.
#[derive(Debug)]
pub struct Schedule {
    plan: Plan,
    taken: u64,
    measured: u64,
}

impl Schedule {
    /// Begins with the first round.
    pub fn new(plan: Plan) -> Self {
        Self { plan, taken: 0, measured: 0 }
    }

    /// The next round for a connection that is free `now`; `None` when there are no more.
    pub fn next(&mut self, now: Duration) -> Option<Slot> {
        let due = match self.plan.rate {
            None => now,
            Some(rate) => offset(self.taken, rate),
        };
        let measured = due >= self.plan.warmup;
        let over = match self.plan.limit {
            Limit::Time(time) => due.max(now) >= self.plan.warmup + time,
            Limit::Count(count) => self.measured >= count,
        };
        if over {
            return None;
        }
        self.taken += 1;
        self.measured += u64::from(measured);
        Some(Slot { due, measured })
    }

    /// How many rounds of the timetable were due by `now` and never started.
    pub(crate) fn unsent(&self, now: Duration) -> u64 {
        let Some(rate) = self.plan.rate else { return 0 };
        match self.plan.limit {
            Limit::Count(_) => 0,
            Limit::Time(time) => {
                due_before(now.min(self.plan.warmup + time), rate).saturating_sub(self.taken)
            }
        }
    }

    /// How far the run is, from 0 to 1.
    pub(crate) fn progress(&self, now: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "it is drawn, not counted with")]
        let part = match self.plan.limit {
            Limit::Time(time) => now.as_secs_f64() / (self.plan.warmup + time).as_secs_f64(),
            Limit::Count(count) => self.measured as f64 / count as f64,
        };
        part.clamp(0.0, 1.0)
    }
}

/// When the nth round is due.
#[expect(clippy::cast_precision_loss, reason = "2^53 rounds are never reached")]
fn offset(nth: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(nth as f64 / rate).unwrap_or(Duration::MAX)
}

/// How many rounds are due before that moment.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and rates are positive and bounded"
)]
fn due_before(moment: Duration, rate: f64) -> u64 {
    (moment.as_secs_f64() * rate).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const fn slot(due: u64, measured: bool) -> Slot {
        Slot { due: ms(due), measured }
    }

    #[test]
    fn closed_loop_waits_for_each_answer() {
        let mut schedule = Schedule::new(Plan { rate: None, warmup: ms(10), limit: Limit::Time(ms(100)) });
        assert_eq!(schedule.next(ms(0)), Some(slot(0, false)));
        assert_eq!(schedule.next(ms(9)), Some(slot(9, false)));
        assert_eq!(schedule.next(ms(10)), Some(slot(10, true)));
        assert_eq!(schedule.next(ms(109)), Some(slot(109, true)));
        assert_eq!(schedule.next(ms(110)), None);
        assert_eq!(schedule.unsent(ms(110)), 0);
    }

    #[test]
    fn count_excludes_the_warm_up() {
        let mut schedule = Schedule::new(Plan { rate: None, warmup: ms(10), limit: Limit::Count(2) });
        assert_eq!(schedule.next(ms(0)), Some(slot(0, false)));
        assert_eq!(schedule.next(ms(10)), Some(slot(10, true)));
        assert!((schedule.progress(ms(11)) - 0.5).abs() < 0.001);
        assert_eq!(schedule.next(ms(11)), Some(slot(11, true)));
        assert_eq!(schedule.next(ms(12)), None);
    }

    #[test]
    fn open_loop_keeps_its_timetable_with_a_slow_server() {
        let mut schedule = Schedule::new(Plan { rate: Some(100.0), warmup: ms(20), limit: Limit::Count(3) });
        // All are asked for late, after a stall of a second.
        let dues: Vec<_> = std::iter::from_fn(|| schedule.next(ms(1000))).collect();
        let expected = [slot(0, false), slot(10, false), slot(20, true), slot(30, true), slot(40, true)];
        assert_eq!(dues, expected);
    }

    #[test]
    fn unsent_requests_are_reported() {
        let plan = Plan { rate: Some(100.0), warmup: ms(0), limit: Limit::Time(ms(100)) };
        let mut schedule = Schedule::new(plan);
        assert_eq!(schedule.next(ms(0)), Some(slot(0, true)));
        assert_eq!(schedule.next(ms(95)), Some(slot(10, true)));
        // Due at 20 ms, but there is nobody left to send it in time.
        assert_eq!(schedule.next(ms(100)), None);
        assert_eq!(schedule.unsent(ms(3000)), 8);
        // Stopped in between, only what was due by then is missing.
        assert_eq!(schedule.unsent(ms(35)), 2);
        assert!((schedule.progress(ms(3000)) - 1.0).abs() < 0.001);
    }

    #[test]
    fn stall_counts_for_each_delayed_request() {
        let late = Slot { due: ms(10), measured: true };
        // Busy until 1000 ms: 990 ms of waiting count.
        assert_eq!(late.counts_from(ms(1000), false), ms(10));
        assert_eq!(late.counts_from(ms(11), false), ms(10));
        // Waited for its time, and the timer rang a little late: the grain of the timer does not count.
        assert_eq!(late.counts_from(ms(11), true), ms(11));
        assert_eq!(late.counts_from(ms(12), true), ms(12));
        // Rang later than that: the rest shows, and nothing jumps.
        assert_eq!(late.counts_from(ms(13), true), ms(12));
        assert_eq!(late.counts_from(ms(20), true), ms(12));
    }
}
