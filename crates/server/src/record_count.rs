//! How many records the store has. To count a hundred million takes ten seconds and more, so they are counted once at a time, for
//! all who ask, and a count goes on when its caller does not wait for it.

use std::time::Duration;

use countersign_core::{StoreError, StoreStats};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::app::App;

/// A count holds this many times as long as counting took, at most [`MAX_HOLD`].
const HOLD_RATIO: u32 = 50;
const MAX_HOLD: Duration = Duration::from_mins(15);

/// A caller of the API gets a kept count only if it holds at least so long, because counting took a second.
const LONG_HOLD: Duration = Duration::from_secs(50);

/// How long a caller of the API waits, in turns of [`TURN`] with those who look at the page; less than a request may take.
const TURNS: u32 = 8;
const TURN: Duration = Duration::from_secs(3);

/// A count of the records.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    /// What the store said, with what this server has added since, and without what it has purged.
    pub(crate) stats: StoreStats,
    /// When it was begun.
    pub(crate) at: Timestamp,
    /// For how long it holds.
    pub(crate) holds: Duration,
    before: Changes,
}

/// This server's changes of the store since its start.
#[derive(Clone, Copy, Debug)]
struct Changes {
    consumed: u64,
    revoked: u64,
    /// Of both kinds; nearly all are consumptions.
    purged: u64,
}

impl Changes {
    fn of(app: &App) -> Self {
        let tally = app.events.tally();
        Self {
            consumed: tally.totals().of("accepted"),
            revoked: tally.revoked.get(),
            purged: tally.purged.get(),
        }
    }
}

impl Count {
    fn holds_at(&self, now: Timestamp) -> bool {
        is_within(self.at, now, self.holds)
    }

    fn with_changes(mut self, app: &App) -> Self {
        let (then, now) = (self.before, Changes::of(app));
        let consumed = self.stats.consumed + now.consumed.saturating_sub(then.consumed);
        self.stats.consumed = consumed.saturating_sub(now.purged.saturating_sub(then.purged));
        self.stats.revoked += now.revoked.saturating_sub(then.revoked);
        self
    }
}

/// The last count and the one under way.
#[derive(Debug, Default)]
pub struct RecordCount(Mutex<Counter>);

#[derive(Debug, Default)]
struct Counter {
    last: Option<Count>,
    /// When the page may ask for another count, after one that failed.
    rests: Option<(Timestamp, Duration)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    at: Timestamp,
    before: Changes,
    task: JoinHandle<(Result<StoreStats, StoreError>, Duration)>,
}

impl RecordCount {
    /// The count for the page: one that still holds, or a new one, or the last if counting takes too long or fails.
    pub(crate) async fn lately(&self, app: &App, now: Timestamp, patience: Duration) -> Option<Count> {
        let mut counter = self.0.lock().await;
        let is_recent = counter.last.as_ref().is_some_and(|count| count.holds_at(now));
        let rests = counter.rests.is_some_and(|(since, span)| is_within(since, now, span));
        if !is_recent && !rests {
            // A store that cannot count says why to those who ask it.
            let _ = counter.count(app, now, patience).await;
        }
        counter.last.clone().map(|count| count.with_changes(app))
    }

    /// The count for a caller of the API: `None` if it takes longer than a request may.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(crate) async fn now(&self, app: &App) -> Result<Option<Count>, StoreError> {
        for _ in 0..TURNS {
            let mut counter = self.0.lock().await;
            let now = app.tokens.clock().now();
            let kept = counter.last.clone().filter(|count| count.holds >= LONG_HOLD && count.holds_at(now));
            let found = match kept {
                Some(kept) => Some(kept),
                None => counter.count(app, now, TURN).await?,
            };
            if let Some(count) = found {
                return Ok(Some(count.with_changes(app)));
            }
        }
        Ok(None)
    }
}

impl Counter {
    /// Waits for the count under way, or for a new one; `None` if it is not done in time.
    async fn count(
        &mut self,
        app: &App,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Option<Count>, StoreError> {
        let running = self.running.get_or_insert_with(|| {
            let store = app.tokens.store().clone();
            let count = async move {
                let began = Instant::now();
                (store.stats().await, began.elapsed())
            };
            Running { at: now, before: Changes::of(app), task: tokio::spawn(count) }
        });
        let Ok(done) = timeout(patience, &mut running.task).await else { return Ok(None) };
        let (at, before) = (running.at, running.before);
        self.running = None;
        let (stats, elapsed) =
            done.map_err(|error| StoreError::unavailable(format!("counting was cut short: {error}")))?;
        let holds = (elapsed * HOLD_RATIO).min(MAX_HOLD);
        self.rests = stats.is_err().then_some((now, holds));
        let count = Count { stats: stats?, at, holds, before };
        self.last = Some(count.clone());
        Ok(Some(count))
    }
}

/// Whether a moment is less than so long ago, and not ahead.
pub(crate) fn is_within(then: Timestamp, now: Timestamp, span: Duration) -> bool {
    let ago = now.duration_since(then);
    !ago.is_negative() && ago.unsigned_abs() < span
}
