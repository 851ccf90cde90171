//! The store of a single server: one `SQLite` file.
//!
//! It relies on `SQLite`'s write-ahead log with `synchronous=FULL`, so that a commit is on disk before it returns; on one
//! thread that writes (`writer.rs`, `thread.rs`); on a row for each ending, keyed by the token's id (`schema.rs`); and on a
//! lock file beside the database (`lock.rs`).
//!
//! The file does not shrink when records are purged: the pages that become free are used again, so it stays as large as
//! the busiest retention time made it. `auto_vacuum` would move pages on every commit to give back what the next hour
//! needs again.
//!
//! # Backups
//!
//! [`SqliteStore::backup`], or [`backup()`] from another process, copies a store while it is in use. To restore, stop the
//! server, remove `countersign.db` with its `-wal` and `-shm`, and put the copy there as `countersign.db`. Tokens
//! consumed after the backup are unknown to it; so the first server that opens it moves the fence to that moment, and
//! every token issued before is rejected. The same happens to a database whose log is missing: the log may have had the
//! records of answers that were given.

mod backend;
mod backup;
mod batch;
mod checkup;
mod fault;
mod files;
mod lock;
mod moving;
mod node_registry;
mod reader;
mod recent;
mod records;
mod schema;
#[cfg(test)]
pub(crate) mod tests;
mod thread;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Clock, EndResult, Ending, EndingQuery, Endings, Node, NodeList, StoreCounts, StoreError, StoreStats,
    StoreTimes, TokenId, TokenStore, from_millis, to_millis,
};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::task::spawn_blocking;

pub use self::backend::Database;
pub use self::backup::backup;
pub use self::moving::MovableSqlite;
pub use self::schema::LOCK_WAIT;

/// What the store of events, which is in a file of its own, does in the same way.
pub(crate) mod shared {
    pub(crate) use super::fault::unusable;
    pub(crate) use super::files::{beside, make_file};
    pub(crate) use super::records::{Address, first_id_at};
}

use self::batch::Connect;
use self::checkup::{CHECKED_AT_ONCE, Checkup};
use self::fault::while_opening;
pub(crate) use self::files::resolve;
use self::lock::Lock;
use self::reader::Readers;
use self::schema::Access;
use self::writer::Writer;
use crate::backend::IfMissing;
use crate::error::{BackupError, OpenError};

/// The database's name in the data directory.
pub const FILE_NAME: &str = "countersign.db";

/// How long a purge rests after each slice while others write: what it removes a second is still several times what
/// can be recorded in that.
const PURGE_REST: Duration = Duration::from_millis(1);

/// How many reads run at the same time, but for counting.
const READERS: u32 = 8;

/// A store in a `SQLite` file. See the [module](self).
///
/// Dropping it without [`close`](TokenStore::close) loses nothing that was answered; it waits for the batch under way.
pub struct SqliteStore {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    writer: Writer,
    readers: Readers,
    /// Counting reads the whole store, so others do not wait behind it.
    counter: Readers,
    /// Only while a large database is looked through, or was.
    checkup: Option<Checkup>,
    /// The fence's new position if opening has moved it, until it is reported.
    moved: Mutex<Option<Timestamp>>,
}

impl SqliteStore {
    /// Opens the database at `path`, and makes it and its directory if they are missing: the directory with mode 0700,
    /// the file with 0600. Looks through the whole file for damage: before this returns if it is small, and beside its
    /// use if it is not. Found then, damage ends all writing: see `checkup.rs`.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_or(path, clock, IfMissing::Make).await
    }

    /// The same, but for a database that is not there.
    pub async fn open_or(
        path: &Path,
        clock: Arc<dyn Clock>,
        if_missing: IfMissing,
    ) -> Result<Self, OpenError> {
        let path = resolve(path).map_err(|error| OpenError::Files {
            doing: "found",
            path: path.to_owned(),
            error,
        })?;
        let opened = spawn_blocking(move || {
            let connect_path = path.clone();
            let connect = Box::new(move || schema::connect(&connect_path, Access::Write));
            Self::open_with(path, clock, if_missing, connect, writer::QUEUE, CHECKED_AT_ONCE)
        });
        opened
            .await
            .unwrap_or_else(|error| Err(OpenError::Unusable(format!("opening was cut short: {error}"))))
    }

    fn open_with(
        path: PathBuf,
        clock: Arc<dyn Clock>,
        if_missing: IfMissing,
        connect: Connect,
        queue: usize,
        checked_at_once: u64,
    ) -> Result<Self, OpenError> {
        let files = |error| OpenError::Files { doing: "used", path: path.clone(), error };
        let lock = make_place(&path, if_missing)?;
        let is_small = path.metadata().map_err(files)?.len() <= checked_at_once;
        let (connection, moved) = connect_first(&path, &*clock, &connect, is_small)?;
        let readers = Readers::new(path.clone(), READERS);
        let counter = Readers::new(path.clone(), 1);
        let writer = Writer::start(path.clone(), connect, connection, lock, Arc::clone(&clock), queue)
            .map_err(files)?;
        let checkup = (!is_small).then(|| Checkup::start(path.clone(), writer.shared())).transpose()?;
        Ok(Self { path, clock, writer, readers, counter, checkup, moved: Mutex::new(moved) })
    }

    /// Copies the store into `to`, which must not exist, while it is in use. See [Backups](self#backups).
    pub async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let (path, to) = (self.path.clone(), to.to_owned());
        let copied = spawn_blocking(move || backup(&path, &to));
        copied.await.unwrap_or_else(|error| Err(BackupError::CutShort(error.to_string())))
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes what is missing and takes the lock.
fn make_place(path: &Path, if_missing: IfMissing) -> Result<Lock, OpenError> {
    let files = |doing, path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Files { doing, path, error }
    };
    let dir = files::dir_of(path);
    match if_missing {
        IfMissing::Make => files::make_dir(dir).map_err(files("made", dir))?,
        IfMissing::Fail => must_exist(path)?,
    }
    let mut lock = Lock::take(dir)?;
    if !path.exists() {
        files::make_file(path).map_err(files("made", path))?;
    }
    lock.take_database(path)?;
    if files::remove_stale_wal(path).map_err(files("read", path))? {
        tracing::warn!(database = %path.display(), "removed the log of the database that was here before");
    }
    Ok(lock)
}

/// Connects, checks and brings the database up to date, for a server: only one that was not handed over.
fn connect_first(
    path: &Path,
    clock: &dyn Clock,
    connect: &Connect,
    check: bool,
) -> Result<(Connection, Option<Timestamp>), OpenError> {
    let (connection, moved) = connect_to_move(path, clock, connect, check)?;
    match moving::handed_over_to(&connection).map_err(|error| while_opening(path, &error))? {
        None => Ok((connection, moved)),
        Some(to) => Err(OpenError::HandedOver { place: path.display().to_string(), to }),
    }
}

/// Connects, checks if that is asked for, and brings the database up to date. Returns where it has moved the fence, too.
fn connect_to_move(
    path: &Path,
    clock: &dyn Clock,
    connect: &dyn Fn() -> rusqlite::Result<Connection>,
    check: bool,
) -> Result<(Connection, Option<Timestamp>), OpenError> {
    let files = |error| OpenError::Files { doing: "read", path: path.to_owned(), error };
    let lost_log = files::mark_lost_log(path).map_err(files)?;
    let mut connection = connect().map_err(|error| while_opening(path, &error))?;
    if schema::recognize(&connection, path)? > 0 && check {
        schema::check(&connection, path)?;
    }
    let moved = schema::prepare(&mut connection, path, clock, lost_log)?;
    if lost_log {
        files::unmark_lost_log(path).map_err(files)?;
    }
    Ok((connection, moved))
}

/// What is in the database at `path`, also while a server has it open: it takes no lock and changes nothing.
pub fn inspect(path: &Path) -> Result<StoreStats, OpenError> {
    let connection = connect_to_read(path)?;
    reader::consistently(&connection, |connection| reader::stats(connection, path))
        .map_err(|error| while_opening(path, &error))
}

/// What a look into a database finds.
#[derive(Clone, Debug)]
pub struct Examination {
    /// How much is in it.
    pub stats: StoreStats,
    /// The store that it was handed over to; `None`: a server may use it.
    pub handed_over_to: Option<String>,
    /// Which servers have used it. Whether one does now cannot be seen from the outside.
    pub node_list: NodeList,
    /// What it knows about the time.
    pub times: StoreTimes,
    /// What is damaged, if anything is.
    pub damage: Option<String>,
}

/// Looks through the database at `path`, also while a server has it open; changes nothing. Takes about two seconds for
/// each gigabyte.
pub fn examine(path: &Path, now: Timestamp) -> Result<Examination, OpenError> {
    let connection = connect_to_read(path)?;
    let damage = match schema::check(&connection, path) {
        Ok(()) => None,
        Err(OpenError::Damaged { detail, .. }) => Some(detail),
        Err(other) => return Err(other),
    };
    reader::consistently(&connection, |connection| {
        let handed_over_to = if schema::has_table(connection, "copying")? {
            moving::handed_over_to(connection)?
        } else {
            None
        };
        let node_list = if schema::has_table(connection, "nodes")? {
            node_registry::node_list(connection, now, None)?
        } else {
            NodeList { now, nodes: Vec::new() }
        };
        Ok(Examination {
            stats: reader::stats(connection, path)?,
            handed_over_to,
            node_list,
            times: reader::times(connection)?,
            damage,
        })
    })
    .map_err(|error| while_opening(path, &error))
}

/// A database that this user may not look for is not missing.
fn must_exist(path: &Path) -> Result<(), OpenError> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Missing(path.to_owned())),
        Err(error) => Err(OpenError::Files { doing: "looked for", path: path.to_owned(), error }),
    }
}

/// A read connection to a store that this process may not have the lock of.
fn connect_to_read(path: &Path) -> Result<Connection, OpenError> {
    let path =
        &*resolve(path).map_err(|error| OpenError::Files { doing: "found", path: path.to_owned(), error })?;
    must_exist(path)?;
    files::mark_lost_log(path).map_err(|error| OpenError::Files {
        doing: "read",
        path: path.to_owned(),
        error,
    })?;
    let connection = schema::connect(path, Access::Read).map_err(|error| while_opening(path, &error))?;
    if schema::recognize(&connection, path)? == 0 {
        return Err(OpenError::Missing(path.to_owned()));
    }
    Ok(connection)
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenStore for SqliteStore {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        self.writer.call(move |batch| batch.end(id, expires, &ending)).await
    }

    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        self.readers.read(move |connection| records::look(connection, id, expires)).await
    }

    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        let query = query.clone();
        self.readers.read(move |connection| recent::endings(connection, &query)).await
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        let fence = self.writer.call_in_turn(move |batch| batch.move_fence(to_millis(to))).await?;
        Ok(from_millis(fence))
    }

    fn take_moved_fences(&self) -> Vec<Timestamp> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().collect()
    }

    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        let cutoff = to_millis(cutoff);
        // No token expires before it was made, so the ids made since the cutoff need no look.
        let until = records::first_id_at(cutoff);
        let mut from = records::first_id_at(0);
        let mut removed = 0;
        let mut calls = self.writer.counts().calls;
        // A reader finds where there is something to remove, so that the writer is not bothered when there is nothing.
        while let Some(first) = self
            .readers
            .read(move |connection| records::first_expired(connection, from, until, cutoff))
            .await?
        {
            let slice =
                self.writer.call_in_turn(move |batch| batch.purge_slice(first, until, cutoff)).await?;
            removed += slice.removed;
            match slice.next {
                Some(next) => from = next,
                None => break,
            }
            let before = std::mem::replace(&mut calls, self.writer.counts().calls);
            // One of them was the slice itself.
            if calls > before + 1 {
                tokio::time::sleep(PURGE_REST).await;
            }
        }
        Ok(removed)
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        self.readers.read(reader::times).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let path = self.path.clone();
        self.counter.read(move |connection| reader::stats(connection, &path)).await
    }

    fn counts(&self) -> Option<StoreCounts> {
        Some(self.writer.counts())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        if self.writer.has_just_written(now) {
            return Ok(());
        }
        self.writer.call(move |batch| records::probe(batch.connection(), to_millis(now))).await
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        let (id, now) = (node.id, node.clock);
        let node = node.clone();
        self.writer.call_in_turn(move |batch| node_registry::check_in(batch.connection(), &node)).await?;
        self.readers.read(move |connection| node_registry::node_list(connection, now, Some(id))).await
    }

    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        self.readers.read(move |connection| node_registry::node_list(connection, now, None)).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.counter.stop().await;
        if let Some(checkup) = &self.checkup {
            checkup.stop();
        }
        self.writer.close().await;
    }
}
