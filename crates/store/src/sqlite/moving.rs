//! A database that is moved from or to. This process holds the lock, so no server uses the database meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use countersign_core::{Clock, StoreError, StoredRing, from_millis, to_millis};
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::task::spawn_blocking;

use super::lock::Lock;
use super::schema::{self, Access};
use super::{connect_to_move, fault, make_place, records, resolve};
use crate::backend::IfMissing;
use crate::error::OpenError;
use crate::moving::{Movable, MoveError, MoveId, fence_of_target};

/// A database that is moved from or to.
#[derive(Debug)]
pub struct MovableSqlite {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
    _lock: Lock,
}

impl MovableSqlite {
    /// The database at `path`. Brings its schema up to date.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, if_missing: IfMissing) -> Result<Self, OpenError> {
        let path = resolve(path).map_err(|error| OpenError::Files {
            doing: "found",
            path: path.to_owned(),
            error,
        })?;
        let opened = spawn_blocking(move || {
            let lock = make_place(&path, if_missing)?;
            let connect = || schema::connect(&path, Access::Write);
            let (connection, _) = connect_to_move(&path, &*clock, &connect, true)?;
            Ok(Self { path, connection: Arc::new(Mutex::new(connection)), _lock: lock })
        });
        opened
            .await
            .unwrap_or_else(|error| Err(OpenError::Unusable(format!("opening was cut short: {error}"))))
    }

    /// Runs `work` in a transaction that is on disk when this returns, on a thread where it may block.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, MoveError>> + Send + 'static,
    ) -> Result<T, MoveError> {
        let (connection, path) = (Arc::clone(&self.connection), self.path.clone());
        let done = spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(
                |transaction| match work(&transaction)? {
                    Ok(value) => transaction.commit().map(|()| Ok(value)),
                    refused => Ok(refused),
                },
            );
            changed.map_err(|error| StoreError::Unavailable(fault::unusable(&path, error)))?
        });
        done.await.unwrap_or_else(|error| {
            Err(StoreError::unavailable(format!("the work was cut short: {error}")).into())
        })
    }
}

const SERVES: i64 = 0;
const HANDED_OVER: i64 = 2;

/// The store that the database was handed over to. Version 0.1 had a third state, 1, for the target of a copy that was not
/// complete: its source is the store to serve from, as that of a target is now.
pub(super) fn handed_over_to(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT state, peer FROM copying", (), |row| {
        let peer: Option<String> = row.get(1)?;
        Ok((row.get::<_, i64>(0)? != SERVES).then(|| peer.unwrap_or_default()))
    })
}

/// `copy` is the id of the move; the version before expects a name there, and never NULL.
fn set_handed_over(connection: &Connection, id: MoveId, to: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE copying SET state = ?, copy = ?, peer = ?";
    connection.execute(sql, (HANDED_OVER, id.to_string(), to)).map(drop)
}

/// Whether this move was the last one to change the database.
fn is_reserved_for(connection: &Connection, id: MoveId) -> rusqlite::Result<bool> {
    connection.query_row("SELECT copy IS ? FROM copying", (id.to_string(),), |row| row.get(0))
}

#[async_trait]
impl Movable for MovableSqlite {
    async fn handed_over_to(&self) -> Result<Option<String>, StoreError> {
        let to = self.change(|transaction| handed_over_to(transaction).map(Ok)).await;
        to.map_err(|error| match error {
            MoveError::Store(error) => error,
            other => StoreError::unavailable(other.to_string()),
        })
    }

    async fn reserve(&self, id: MoveId, from: &str) -> Result<(), MoveError> {
        let from = from.to_owned();
        self.change(move |transaction| {
            match handed_over_to(transaction)? {
                Some(other) if other != from => return Ok(Err(MoveError::TargetHandedOver(other))),
                Some(_) => {}
                None => {
                    let is_used = "SELECT EXISTS (SELECT 1 FROM endings) OR EXISTS (SELECT 1 FROM nodes)";
                    if transaction.query_row(is_used, (), |row| row.get(0))? {
                        return Ok(Err(MoveError::TargetInUse));
                    }
                }
            }
            set_handed_over(transaction, id, &from).map(Ok)
        })
        .await
    }

    async fn hand_over(&self, id: MoveId, to: &str, latest: Timestamp) -> Result<Timestamp, MoveError> {
        let to = to.to_owned();
        self.change(move |transaction| {
            if handed_over_to(transaction)?.is_some_and(|other| other != to) {
                return Ok(Err(MoveError::Changed));
            }
            set_handed_over(transaction, id, &to)?;
            let watermarks = records::Watermarks::read(transaction)?;
            let newest = records::newest(transaction)?;
            Ok(fence_of_target(from_millis(watermarks.fence), watermarks.horizon, newest, latest))
        })
        .await
    }

    async fn take_over(
        &self,
        id: MoveId,
        from: &str,
        fence: Timestamp,
        _: Option<&StoredRing>,
    ) -> Result<(), MoveError> {
        let (from, fence) = (from.to_owned(), to_millis(fence));
        self.change(move |transaction| match handed_over_to(transaction)? {
            Some(other) if other == from && is_reserved_for(transaction, id)? => {
                transaction.execute("UPDATE store SET fence = max(fence, ?)", (fence,))?;
                let sql = "UPDATE copying SET state = ?, copy = NULL, peer = NULL";
                transaction.execute(sql, (SERVES,)).map(|_| Ok(()))
            }
            None if records::Watermarks::read(transaction)?.fence >= fence => Ok(Ok(())),
            _ => Ok(Err(MoveError::Changed)),
        })
        .await
    }
}
