//! How the store stands, asked no more often for many viewers than for one.

use std::time::Duration;

use countersign_core::StoreError;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::app::App;
use crate::record_count::{Count, is_within};

use super::PATIENCE;

/// For how long it is believed that the store works.
const READY_HOLDS: Duration = Duration::from_secs(5);

/// How the store stood when it was asked.
#[derive(Clone, Debug)]
pub(super) struct StoreStatus {
    /// Whether a token could be issued and consumed.
    pub(super) ready: Result<(), StoreError>,
    pub(super) count: Option<Count>,
}

impl StoreStatus {
    /// When its records were counted, if that is long enough ago for another server to have added some.
    pub(super) fn counted_long_ago(&self) -> Option<Timestamp> {
        self.count.as_ref().filter(|count| count.holds > READY_HOLDS).map(|count| count.at)
    }
}

/// What the viewers share: whether it was ready, and when that was asked.
#[derive(Debug, Default)]
pub(super) struct StoreWatch(Mutex<Option<(Timestamp, Result<(), StoreError>)>>);

impl StoreWatch {
    /// Asks the store, unless it was asked just now. Other viewers wait for that answer.
    pub(super) async fn look(&self, app: &App, now: Timestamp) -> StoreStatus {
        let mut known = self.0.lock().await;
        let ready = match known.take() {
            Some((asked, ready)) if is_within(asked, now, READY_HOLDS) => known.insert((asked, ready)),
            _ => known.insert((now, app.ready(PATIENCE).await)),
        };
        let ready = ready.1.clone();
        drop(known);
        let count = match &ready {
            Ok(()) => app.record_count.lately(app, now, PATIENCE).await,
            Err(_) => None,
        };
        StoreStatus { ready, count }
    }
}
