//! Reading, beside the writer.
//!
//! In `SQLite`'s write-ahead mode a reader sees the last commit and neither waits for the writer nor holds it up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_core::{StoreError, StoreStats, StoreTimes, Unusable, from_millis};
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::fault::unusable;
use super::files::{mark_lost_log, wal_of};
use super::records::{self, Watermarks};
use super::schema::{Access, connect};
use crate::error::closed;

/// How many reads run at the same time; more wait.
const READERS: u32 = 8;

/// Some read connections.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let turns = Semaphore::new(usize::try_from(READERS).unwrap_or(1));
        Self(Arc::new(Inner { path, idle: Mutex::default(), turns }))
    }

    /// Runs `work` on a thread where it may block, all of it on one consistent state of the database.
    pub(super) async fn read<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let _turn = self.0.turns.acquire().await.map_err(|_| closed())?;
        let inner = Arc::clone(&self.0);
        let outcome = spawn_blocking(move || inner.read(work).map_err(StoreError::Unavailable));
        outcome
            .await
            .unwrap_or_else(|error| Err(StoreError::unavailable(format!("a read was cut short: {error}"))))
    }

    /// Waits for the reads under way; later ones fail.
    pub(super) async fn close(&self) {
        // Fails if it is closed already.
        let all = self.0.turns.acquire_many(READERS).await;
        self.0.turns.close();
        drop(all);
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Inner {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Unusable> {
        let fault = |error: rusqlite::Error| unusable(&self.path, error);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = if let Some(connection) = idle {
            connection
        } else {
            mark_lost_log(&self.path).map_err(|error| {
                Unusable::because(format!("{} cannot be read: {error}", self.path.display()), error)
            })?;
            connect(&self.path, Access::Read).map_err(fault)?
        };
        let result = consistently(&connection, work).map_err(fault)?;
        // One that failed is not used again.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(result)
    }
}

/// Runs `work` inside a read transaction.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.unchecked_transaction()?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// What the database knows about the time: it has no clock.
pub(super) fn times(connection: &Connection) -> rusqlite::Result<StoreTimes> {
    let Watermarks { fence, horizon } = Watermarks::read_of_any_version(connection)?;
    Ok(StoreTimes { clock: None, fence: from_millis(fence), horizon, newest: records::newest(connection)? })
}

/// Counts what is there; reads all of it.
pub(super) fn stats(connection: &Connection, path: &Path) -> rusqlite::Result<StoreStats> {
    let (consumed, revoked) = records::count(connection)?;
    let watermarks = Watermarks::read_of_any_version(connection)?;
    let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    Ok(StoreStats {
        kind: "sqlite",
        schema: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        consumed,
        revoked,
        fence: from_millis(watermarks.fence),
        horizon: watermarks.horizon.expires,
        bytes: Some(bytes(path) + bytes(&wal_of(path))),
    })
}
