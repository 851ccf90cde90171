//! Reading, beside the writer.
//!
//! In `SQLite`'s write-ahead mode a reader sees the last commit and neither waits for the writer nor holds it up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
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

/// After how many steps of `SQLite`'s virtual machine a read looks whether it is to stop: some milliseconds.
const STEPS_BETWEEN_LOOKS: i32 = 100_000;

/// Some read connections.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
    most: u32,
    is_stopped: Arc<AtomicBool>,
}

impl Readers {
    /// At most `most` reads run at the same time; more wait.
    pub(super) fn new(path: PathBuf, most: u32) -> Self {
        let turns = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1)));
        Self(Arc::new(Inner { path, idle: Mutex::default(), turns, most, is_stopped: Arc::default() }))
    }

    /// Runs `work` on a thread where it may block, all of it on one consistent state of the database.
    ///
    /// A read goes on when its caller has gone, and keeps its turn to its end.
    pub(super) async fn read<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let turn = Arc::clone(&self.0.turns).acquire_owned().await.map_err(|_| closed())?;
        let inner = Arc::clone(&self.0);
        let outcome = spawn_blocking(move || {
            let _turn = turn;
            inner.read(work).map_err(StoreError::Unavailable)
        });
        outcome
            .await
            .unwrap_or_else(|error| Err(StoreError::unavailable(format!("a read was cut short: {error}"))))
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.turns.available_permits()
    }

    /// Ends the reads under way with an error; later ones fail.
    pub(super) async fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
        self.close().await;
    }

    /// Waits for the reads under way; later ones fail.
    pub(super) async fn close(&self) {
        // Fails if it is closed already.
        let all = self.0.turns.acquire_many(self.0.most).await;
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
            let mut connection = connect(&self.path, Access::Read).map_err(fault)?;
            let is_stopped = Arc::clone(&self.is_stopped);
            let look = move || is_stopped.load(Ordering::Relaxed);
            connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(look)).map_err(fault)?;
            connection
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
