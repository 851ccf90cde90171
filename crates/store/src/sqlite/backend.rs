//! What is done with a database that is named by its URL.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, Entropy, EventStore, StoreStats, TokenStore};
use tokio::task::spawn_blocking;

use super::{MovableSqlite, SqliteStore, backup, inspect};
use crate::backend::{Backend, IfMissing};
use crate::error::{BackupError, OpenError};
use crate::events::SqliteEvents;
use crate::moving::Movable;

/// The database at this path.
#[derive(Debug)]
pub struct Database(pub PathBuf);

#[async_trait]
impl Backend for Database {
    async fn open(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        _: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(SqliteStore::open_or(&self.0, clock, if_missing).await?))
    }

    async fn inspect(&self, _: Arc<dyn Clock>, _: Arc<dyn Entropy>) -> Result<StoreStats, OpenError> {
        let path = self.0.clone();
        let stats = spawn_blocking(move || inspect(&path)).await;
        stats.unwrap_or_else(|error| Err(OpenError::Unusable(format!("looking was cut short: {error}"))))
    }

    async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let (from, to) = (self.0.clone(), to.to_owned());
        let copied = spawn_blocking(move || backup(&from, &to)).await;
        copied.unwrap_or_else(|error| Err(BackupError::CutShort(error.to_string())))
    }

    fn name(&self) -> Result<String, OpenError> {
        let absolute = std::path::absolute(&self.0).and_then(|path| match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            found => found,
        });
        match absolute {
            Ok(path) => Ok(format!("sqlite:{}", path.display())),
            Err(error) => Err(OpenError::Files { doing: "found", path: self.0.clone(), error }),
        }
    }

    async fn movable(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        _: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn Movable>, OpenError> {
        Ok(Arc::new(MovableSqlite::open(&self.0, clock, if_missing).await?))
    }

    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(SqliteEvents::beside(&self.0))
    }
}
