//! Copies from a database to a database.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, ManualClock, TokenStore, from_millis};
use tempfile::TempDir;

use super::super::{SqliteCopy, SqliteStore};
use super::{Place, consume};
use crate::OpenError;
use crate::contract::{self, CopyPlace};
use crate::copy::CopyEnd;

struct SqlitePlace(TempDir);

impl SqlitePlace {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("some.db")
    }
}

#[async_trait]
impl CopyPlace for SqlitePlace {
    fn name(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    async fn end(&self, clock: Arc<dyn Clock>) -> Arc<dyn CopyEnd> {
        Arc::new(SqliteCopy::owning(&self.path(), clock, true).await.unwrap())
    }

    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(SqliteStore::open(&self.path(), clock).await?))
    }
}

#[tokio::test]
async fn a_copy_is_what_the_source_was() {
    contract::a_copy_is_what_the_source_was(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn a_copy_comes_back() {
    contract::a_copy_comes_back(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn a_copy_can_be_cut_short_anywhere() {
    contract::a_copy_can_be_cut_short_anywhere(&|| {
        (Box::new(SqlitePlace::new()), Box::new(SqlitePlace::new()))
    })
    .await;
}

#[tokio::test]
async fn the_wrong_order_is_refused() {
    let (from, to, third) = (SqlitePlace::new(), SqlitePlace::new(), SqlitePlace::new());
    contract::the_wrong_order_is_refused(&from, &to, &third).await;
}

#[tokio::test]
async fn a_store_that_receives_takes_nothing_else() {
    contract::a_store_that_receives_takes_nothing_else(&SqlitePlace::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn a_source_in_use_can_be_read_and_not_handed_over() {
    let place = Place::new();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(from_millis(1_767_225_600_123)));
    let store = place.open().await;
    let token = place.token();
    consume(&store, token).await.unwrap();
    let reading = SqliteCopy::reading(&place.db()).await.unwrap();
    assert_eq!(reading.records_after(None, 9).await.unwrap().len(), 1);
    let copy = crate::copy::CopyId::from_text("copy".to_owned());
    assert!(reading.hand_over(&copy, "elsewhere").await.is_err(), "it may only read");
    let in_use = SqliteCopy::owning(&place.db(), clock, false).await.unwrap_err();
    assert!(matches!(in_use, OpenError::InUse { .. }), "{in_use}");
}
