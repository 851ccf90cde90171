//! Events in a `SQLite` file beside the database of endings.
//!
//! A commit here is not synced: after a power cut the last seconds may be missing, which is acceptable for events. One
//! connection writes, on the blocking threads of the runtime and one batch at a time; each question has a connection of
//! its own. A connection that failed is dropped, so that writing resumes by itself when the cause is gone.

mod file;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{Event, EventQuery, EventStore, Known, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::task::spawn_blocking;

use self::file::{Owner, has_table, owner};
use self::rows::{insert, purge_slice, select};
use crate::error::closed;

/// For how long a connection waits for another one's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A store of events in a file.
#[derive(Clone, Debug)]
pub struct SqliteEvents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
enum Writer {
    Idle,
    Open(Connection),
    Closed,
}

impl SqliteEvents {
    /// The events that go with the database at `database`: `countersign-events.db` beside `countersign.db`.
    pub fn beside(database: &Path) -> Self {
        let mut name = database.file_stem().unwrap_or_default().to_owned();
        name.push("-events.db");
        let path = database.with_file_name(name);
        // The working directory may change.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self(Arc::new(Inner { path, writer: Mutex::new(Writer::Idle) }))
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` with the writing connection, on a thread where it may block.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        on_a_thread(move || {
            let mut writer = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut connection = match std::mem::replace(&mut *writer, Writer::Idle) {
                Writer::Open(connection) => connection,
                Writer::Idle => inner.open_or_replace()?,
                Writer::Closed => {
                    *writer = Writer::Closed;
                    return Err(closed());
                }
            };
            let result = work(&mut connection).map_err(|error| inner.unavailable(error))?;
            *writer = Writer::Open(connection);
            Ok(result)
        })
        .await
    }

    /// Runs `work` with a connection that only reads; `None` if nothing has ever been written.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let inner = Arc::clone(&self.0);
        on_a_thread(move || {
            if matches!(*inner.writer.lock().unwrap_or_else(PoisonError::into_inner), Writer::Closed) {
                return Err(closed());
            }
            if !inner.path.exists() {
                return Ok(None);
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let found = Connection::open_with_flags(&inner.path, flags).and_then(|connection| {
                connection.busy_timeout(LOCK_WAIT)?;
                Ok(match owner(&connection)? {
                    Owner::Ours => Ok(Some(work(&connection)?)),
                    Owner::Newer(version) => Err(inner.newer(version)),
                    Owner::Nobody | Owner::Other => Ok(None),
                })
            });
            found.unwrap_or_else(|error| Err(inner.unavailable(error)))
        })
        .await
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::unavailable(format!("this was cut short: {error}"))))
}

#[async_trait]
impl EventStore for SqliteEvents {
    async fn append(&self, events: &[Event]) -> Result<(), StoreError> {
        let events = events.to_vec();
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for event in &events {
                insert(&transaction, event)?;
            }
            transaction.commit()
        })
        .await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let query = query.clone();
        Ok(self.read(move |connection| select(connection, &query)).await?.unwrap_or_default())
    }

    async fn purge_events(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        if !self.0.path.exists() {
            return Ok(0);
        }
        let mut removed = 0;
        loop {
            let slice = self.write(move |connection| purge_slice(connection, cutoff)).await?;
            removed += slice;
            if slice == 0 {
                return Ok(removed);
            }
        }
    }

    async fn known(&self) -> Result<Option<Known>, StoreError> {
        let said = self.read(|connection| {
            if !has_table(connection, "known")? {
                return Ok(None);
            }
            connection.query_row("SELECT said FROM known", (), |row| row.get::<_, String>(0)).optional()
        });
        // What cannot be read is as good as nothing, and is written anew.
        Ok(said.await?.flatten().and_then(|said| Known::from_text(&said)))
    }

    async fn remember(&self, known: &Known) -> Result<(), StoreError> {
        let said = known.to_text();
        self.write(move |connection| {
            connection.execute("INSERT OR REPLACE INTO known (one, said) VALUES (1, ?)", (said,)).map(drop)
        })
        .await
    }

    async fn activity(&self) -> Result<Vec<(String, String)>, StoreError> {
        let kept = self.read(|connection| {
            if !has_table(connection, "activity")? {
                return Ok(Vec::new());
            }
            let mut statement = connection.prepare("SELECT name, said FROM activity")?;
            statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        });
        Ok(kept.await?.unwrap_or_default())
    }

    async fn keep_activity(&self, changed: Arc<BTreeMap<String, Option<String>>>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (name, text) in &*changed {
                match text {
                    Some(text) => transaction
                        .prepare_cached("INSERT OR REPLACE INTO activity (name, said) VALUES (?, ?)")?
                        .execute((name, text))?,
                    None => {
                        transaction.prepare_cached("DELETE FROM activity WHERE name = ?")?.execute((name,))?
                    }
                };
            }
            // Writes a page even if nothing changed, to see whether that works.
            let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        })
        .await
    }

    async fn close_events(&self) {
        let inner = Arc::clone(&self.0);
        let closed = on_a_thread(move || {
            *inner.writer.lock().unwrap_or_else(PoisonError::into_inner) = Writer::Closed;
            Ok(())
        });
        // It can only fail because the process is ending.
        let _ = closed.await;
    }
}
