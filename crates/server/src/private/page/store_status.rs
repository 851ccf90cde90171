//! How the store stands, asked no more often for many viewers than for one.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{StoreError, StoreStats, TokenStore};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::app::App;

use super::PATIENCE;

/// For how long it is believed that the store works.
const READY_HOLDS: Duration = Duration::from_secs(5);

/// A count of the records holds this many times as long as counting took, at most [`MAX_HOLD`]: a hundred million take ten
/// seconds and more.
const HOLD_RATIO: u32 = 50;
const MAX_HOLD: Duration = Duration::from_mins(15);

/// How the store stood when it was asked.
#[derive(Clone, Debug)]
pub(super) struct StoreStatus {
    asked: Timestamp,
    /// Whether a token could be issued and consumed.
    pub(super) ready: Result<(), StoreError>,
    /// Its records when they were last counted, with what this server has added since.
    pub(super) count: Option<Count>,
}

/// A count of the records.
#[derive(Clone, Debug)]
pub(super) struct Count {
    pub(super) stats: StoreStats,
    at: Timestamp,
    holds: Duration,
    /// How many tokens this server had consumed and revoked when counting began.
    before: (u64, u64),
}

impl Count {
    /// When it was begun, if that is long enough ago for another server to have added some.
    pub(super) fn long_ago(&self) -> Option<Timestamp> {
        (self.holds > READY_HOLDS).then_some(self.at)
    }
}

/// What the viewers share.
#[derive(Debug, Default)]
pub(super) struct StoreWatch(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    status: Option<StoreStatus>,
    counter: Counter,
}

impl StoreWatch {
    /// Asks the store, unless it was asked just now. Other viewers wait for that answer.
    pub(super) async fn look(&self, app: &App, now: Timestamp) -> StoreStatus {
        let mut known = self.0.lock().await;
        let mut status = match known.status.take() {
            Some(status) if is_within(status.asked, now, READY_HOLDS) => status,
            _ => {
                let ready = app.ready(PATIENCE).await;
                let count = match &ready {
                    Ok(()) => known.counter.look(app.tokens.store(), now, additions(app)).await,
                    Err(_) => None,
                };
                StoreStatus { asked: now, ready, count }
            }
        };
        known.status = Some(status.clone());
        let (consumed, revoked) = additions(app);
        if let Some(count) = &mut status.count {
            count.stats.consumed += consumed.saturating_sub(count.before.0);
            count.stats.revoked += revoked.saturating_sub(count.before.1);
        }
        status
    }
}

/// What this server has consumed and revoked since its start.
fn additions(app: &App) -> (u64, u64) {
    let tally = app.events.tally();
    let consumed = tally.outcomes().into_iter().find(|(outcome, _)| *outcome == "accepted");
    (consumed.map_or(0, |(_, count)| count), tally.tokens().1)
}

/// Counts the records, once at a time. A count that takes longer than a page waits goes on, and a later page has it.
#[derive(Debug, Default)]
struct Counter {
    last: Option<Count>,
    /// When another count may begin, after one that failed.
    rests: Option<(Timestamp, Duration)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    began: Timestamp,
    before: (u64, u64),
    task: JoinHandle<(Result<StoreStats, StoreError>, Duration)>,
}

impl Counter {
    async fn look(
        &mut self,
        store: &Arc<dyn TokenStore>,
        now: Timestamp,
        before: (u64, u64),
    ) -> Option<Count> {
        let holds = |(at, span)| is_within(at, now, span);
        if self.last.as_ref().is_some_and(|count| holds((count.at, count.holds)))
            || self.rests.is_some_and(holds)
        {
            return self.last.clone();
        }
        let running = self.running.get_or_insert_with(|| {
            let store = Arc::clone(store);
            let count = async move {
                let began = Instant::now();
                (store.stats().await, began.elapsed())
            };
            Running { began: now, before, task: tokio::spawn(count) }
        });
        let Ok(done) = timeout(PATIENCE, &mut running.task).await else { return self.last.clone() };
        let (at, before) = (running.began, running.before);
        self.running = None;
        let (stats, elapsed) = done.ok()?;
        let span = (elapsed * HOLD_RATIO).min(MAX_HOLD);
        match stats {
            Ok(stats) => {
                self.last = Some(Count { stats, at, holds: span, before });
                self.rests = None;
            }
            Err(_) => self.rests = Some((now, span)),
        }
        self.last.clone()
    }
}

/// Whether a moment is at most so long ago, and not ahead.
fn is_within(then: Timestamp, now: Timestamp, span: Duration) -> bool {
    let ago = now.duration_since(then);
    !ago.is_negative() && ago.unsigned_abs() < span
}
