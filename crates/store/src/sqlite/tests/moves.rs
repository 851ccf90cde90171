//! Moves from a database to a database.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, ManualClock, SequenceEntropy, TokenStore, from_millis};
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{MovableSqlite, SqliteStore};
use super::{Place, consume};
use crate::backend::IfMissing;
use crate::contract::{self, MovePlace};
use crate::error::OpenError;
use crate::moving::Movable;

/// A place for a store in a file.
pub(crate) struct SqlitePlace(TempDir);

impl SqlitePlace {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("some.db")
    }
}

#[async_trait]
impl MovePlace for SqlitePlace {
    fn name(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    async fn movable(&self, clock: Arc<dyn Clock>) -> Arc<dyn Movable> {
        Arc::new(MovableSqlite::open(&self.path(), clock, IfMissing::Make).await.unwrap())
    }

    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(SqliteStore::open(&self.path(), clock).await?))
    }
}

#[tokio::test]
async fn moved_store_refuses_used_tokens() {
    contract::moved_store_refuses_used_tokens(&SqlitePlace::new(), &SqlitePlace::new()).await;
    contract::moved_store_refuses_purged_tokens(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn store_moves_back() {
    contract::store_moves_back(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn move_interrupted_anywhere_is_completed() {
    contract::move_interrupted_anywhere_is_completed(&|| {
        (Box::new(SqlitePlace::new()), Box::new(SqlitePlace::new()))
    })
    .await;
}

#[tokio::test]
async fn moves_in_wrong_order_are_refused() {
    let places = || (SqlitePlace::new(), SqlitePlace::new(), SqlitePlace::new());
    let (from, to, third) = places();
    contract::moves_in_wrong_order_are_refused(&from, &to, &third).await;
    let (from, to, third) = places();
    contract::first_move_is_not_repeated_after_second(&from, &to, &third).await;
    contract::target_that_was_replaced_is_refused(&SqlitePlace::new(), &SqlitePlace::new()).await;
    contract::store_takes_over_only_if_reserved(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn record_from_the_future_stops_the_move() {
    contract::record_from_the_future_stops_the_move(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn store_in_use_is_not_moved() {
    let place = Place::new();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(from_millis(1_767_225_600_123)));
    let store = place.open().await;
    consume(&store, place.token()).await.unwrap();
    let in_use = MovableSqlite::open(&place.db(), clock, IfMissing::Fail).await.unwrap_err();
    assert!(matches!(in_use, OpenError::InUse { .. }), "{in_use}");
}

/// Version 0.1 copied records into a target that was in state 1 meanwhile.
#[tokio::test]
async fn copy_begun_by_the_previous_version_is_completed() {
    let (from, to) = (SqlitePlace::new(), SqlitePlace::new());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(from_millis(1_767_225_600_123)));
    let (source, target) = (from.movable(Arc::clone(&clock)).await, to.movable(Arc::clone(&clock)).await);
    let older = "UPDATE copying SET state = 1, copy = 'c', peer = ?";
    Connection::open(to.path()).unwrap().execute(older, (from.name(),)).unwrap();
    assert_eq!(target.handed_over_to().await, Ok(Some(from.name())));
    let (from, to, entropy) = (from.name(), to.name(), SequenceEntropy::default());
    let moved = crate::moving::hand_over((&*source, &from), (&*target, &to), &*clock, &entropy).await;
    let moved = moved.unwrap().unwrap();
    assert_eq!(target.take_over(moved.id, &from, moved.fence, None).await, Ok(()));
    assert_eq!(target.handed_over_to().await, Ok(None));
}
