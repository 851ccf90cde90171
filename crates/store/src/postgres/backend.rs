//! What is done with a database that is named by its URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, Entropy, EventStore, StoreStats, TokenStore};

use super::{MovablePostgres, PostgresOptions, PostgresStore, PostgresUrl, inspect};
use crate::backend::{Backend, IfMissing};
use crate::error::{BackupError, OpenError};
use crate::events::SqliteEvents;
use crate::moving::Movable;
use crate::sqlite::FILE_NAME;

/// The database at this URL.
#[derive(Debug)]
pub struct PostgresDatabase {
    /// Where it is.
    pub url: PostgresUrl,
    /// What is said about it beside its URL.
    pub options: PostgresOptions,
    /// Where each server keeps the events that it has seen itself.
    pub data_dir: PathBuf,
}

#[async_trait]
impl Backend for PostgresDatabase {
    async fn open(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(PostgresStore::open_or(&self.url, &self.options, clock, entropy, if_missing).await?))
    }

    async fn inspect(
        &self,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<StoreStats, OpenError> {
        inspect(&self.url, &self.options, clock, entropy).await
    }

    async fn backup(&self, _: &Path) -> Result<(), BackupError> {
        Err(OpenError::BackupElsewhere.into())
    }

    fn name(&self) -> Result<String, OpenError> {
        Ok(MovablePostgres::name(&self.url, &self.options))
    }

    async fn movable(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn Movable>, OpenError> {
        Ok(Arc::new(MovablePostgres::open(&self.url, &self.options, clock, entropy, if_missing).await?))
    }

    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(SqliteEvents::beside(&self.data_dir.join(FILE_NAME)))
    }
}
