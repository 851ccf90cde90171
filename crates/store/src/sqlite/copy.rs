//! A database as one end of a copy.
//!
//! Two ways to have it: [`SqliteCopy::reading`] beside the server that uses it, and [`SqliteCopy::owning`] with the lock,
//! so that no server can. Only an owner changes anything; that is why handing over waits until the server has stopped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use countersign_core::{Clock, Horizon, StoreError, TokenId, from_millis, to_millis};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::task::spawn_blocking;

use super::lock::Lock;
use super::schema::{self, Access};
use super::{connect_first_for_copy, connect_to_read, fault, make_place, records, resolve};
use crate::OpenError;
use crate::copy::{CopyEnd, CopyError, CopyId, CopyState, Lines, Record};

/// A database as one end of a copy.
pub struct SqliteCopy {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
    /// Whose directory it is; `None` if it only reads.
    _lock: Option<Lock>,
}

impl fmt::Debug for SqliteCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteCopy").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteCopy {
    /// The database at `path`, to read from, also while a server uses it.
    pub async fn reading(path: &Path) -> Result<Self, OpenError> {
        let path = path.to_owned();
        on_a_thread(move || {
            let connection = connect_to_read(&path)?;
            Ok(Self { path, connection: Arc::new(Mutex::new(connection)), _lock: None })
        })
        .await
    }

    /// The database at `path`, for nobody else; made if `make` says so. Brings its schema up to date.
    pub async fn owning(path: &Path, clock: Arc<dyn Clock>, make: bool) -> Result<Self, OpenError> {
        let path = path.to_owned();
        on_a_thread(move || {
            let path = resolve(&path).map_err(|error| OpenError::Files {
                doing: "found",
                path: path.clone(),
                error,
            })?;
            let lock = make_place(&path, make)?;
            let connect = || schema::connect(&path, Access::Write);
            let (connection, _) = connect_first_for_copy(&path, &*clock, &connect, true)?;
            Ok(Self { path, connection: Arc::new(Mutex::new(connection)), _lock: Some(lock) })
        })
        .await
    }

    /// Runs `work` on the connection, on a thread where it may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, CopyError> {
        let (connection, path) = (Arc::clone(&self.connection), self.path.clone());
        let done = spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection).map_err(|fault| fault.into_error(&path))
        });
        done.await.unwrap_or_else(|error| Err(cut_short(&error).into()))
    }

    /// The same for what only reads.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |connection| Ok(work(connection)?)).await.map_err(|error| match error {
            CopyError::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        })
    }

    /// Runs `work` in a transaction that is on disk when this returns.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, CopyError> {
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(OpenError::Unusable(format!("opening was cut short: {error}"))))
}

fn cut_short(error: &tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("the work was cut short: {error}"))
}

/// What goes wrong inside a transaction.
enum Fault {
    Sqlite(rusqlite::Error),
    Copy(CopyError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    fn into_error(self, path: &Path) -> CopyError {
        match self {
            Self::Sqlite(error) => StoreError::Unavailable(fault::sentence(path, &error)).into(),
            Self::Copy(error) => error,
        }
    }
}

const SERVING: i64 = 0;
const RECEIVING: i64 = 1;
const HANDED_OVER: i64 = 2;

/// Whether a server may use the database.
pub(super) fn state(connection: &Connection) -> rusqlite::Result<CopyState> {
    let (state, copy, peer): (i64, Option<String>, Option<String>) =
        connection.query_row("SELECT state, copy, peer FROM copying", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let (copy, peer) = (copy.map(CopyId::from_text), peer.unwrap_or_default());
    match (state, copy) {
        (SERVING, made_by) => Ok(CopyState::Serving { made_by }),
        (RECEIVING, Some(copy)) => Ok(CopyState::Receiving { copy, from: peer }),
        (HANDED_OVER, Some(copy)) => Ok(CopyState::HandedOver { copy, to: peer }),
        (state, _) => Err(rusqlite::Error::IntegralValueOutOfRange(0, state)),
    }
}

fn set_state(connection: &Connection, state: i64, copy: &CopyId, peer: Option<&str>) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE copying SET state = ?, copy = ?, peer = ?", (state, copy.as_str(), peer))
        .map(drop)
}

fn must_receive(connection: &Connection, copy: &CopyId) -> Result<(), Fault> {
    match state(connection)? {
        CopyState::Receiving { copy: other, .. } if other == *copy => Ok(()),
        _ => Err(Fault::Copy(CopyError::Changed)),
    }
}

#[async_trait]
impl CopyEnd for SqliteCopy {
    async fn state(&self) -> Result<CopyState, StoreError> {
        // A database that an older version of the program uses knows of no copies.
        self.read(|connection| {
            if schema::has_table(connection, "copying")? {
                state(connection)
            } else {
                Ok(CopyState::Serving { made_by: None })
            }
        })
        .await
    }

    async fn lines(&self) -> Result<Lines, StoreError> {
        let lines = self.read(records::Lines::read_of_any_version).await?;
        Ok(Lines { fence: from_millis(lines.fence), horizon: lines.horizon })
    }

    async fn records_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.read(move |connection| records::page(connection, after, limit)).await
    }

    async fn last_id(&self) -> Result<Option<TokenId>, StoreError> {
        self.read(|connection| {
            connection
                .query_row("SELECT id FROM endings ORDER BY id DESC LIMIT 1", (), |row| row.get(0))
                .optional()
                .map(|id| id.map(TokenId::from_bytes))
        })
        .await
    }

    async fn receive(&self, copy: &CopyId, from: &str) -> Result<bool, CopyError> {
        let (copy, from) = (copy.clone(), from.to_owned());
        self.write(move |transaction| {
            match state(transaction)? {
                CopyState::Serving { .. } => {
                    let used = "SELECT EXISTS (SELECT 1 FROM endings) OR EXISTS (SELECT 1 FROM nodes)";
                    if transaction.query_row(used, (), |row| row.get(0))? {
                        return Ok(false);
                    }
                }
                CopyState::HandedOver { .. } => {
                    transaction.execute("DELETE FROM endings", ())?;
                    transaction.execute("DELETE FROM nodes", ())?;
                }
                CopyState::Receiving { .. } => return Ok(false),
            }
            set_state(transaction, RECEIVING, &copy, Some(&from))?;
            // A restored backup that receives a copy becomes what is copied.
            transaction.execute("UPDATE store SET is_backup = 0", ())?;
            Ok(true)
        })
        .await
    }

    async fn replace(
        &self,
        copy: &CopyId,
        after: Option<TokenId>,
        until: Option<TokenId>,
        records: &[Record],
    ) -> Result<(), CopyError> {
        let (copy, records) = (copy.clone(), records.to_vec());
        self.write(move |transaction| {
            must_receive(transaction, &copy)?;
            match records::replace(transaction, after, until, &records)? {
                None => Ok(()),
                Some(id) => Err(Fault::Copy(CopyError::Conflict(id))),
            }
        })
        .await
    }

    async fn set_lines(&self, copy: &CopyId, lines: Lines) -> Result<(), CopyError> {
        let copy = copy.clone();
        self.write(move |transaction| {
            must_receive(transaction, &copy)?;
            let Horizon { created, expires } = lines.horizon;
            let lines = (to_millis(lines.fence), to_millis(created), to_millis(expires));
            transaction.execute("UPDATE store SET fence = ?, cleared = ?, horizon = ?", lines)?;
            Ok(())
        })
        .await
    }

    async fn hand_over(&self, copy: &CopyId, to: &str) -> Result<(), CopyError> {
        let (copy, to) = (copy.clone(), to.to_owned());
        self.write(move |transaction| match state(transaction)? {
            CopyState::Serving { .. } => Ok(set_state(transaction, HANDED_OVER, &copy, Some(&to))?),
            CopyState::HandedOver { copy: other, .. } if other == copy => Ok(()),
            _ => Err(Fault::Copy(CopyError::Changed)),
        })
        .await
    }

    async fn serve(&self, copy: &CopyId) -> Result<(), CopyError> {
        let copy = copy.clone();
        self.write(move |transaction| {
            must_receive(transaction, &copy)?;
            Ok(set_state(transaction, SERVING, &copy, None)?)
        })
        .await
    }
}
