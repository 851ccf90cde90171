//! The database's schema and its upgrades.

use std::path::Path;
use std::time::Duration;

use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{Clock, after, from_millis, to_millis};
use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::fault::while_opening;
use crate::error::OpenError;

/// Says in the file's header whose it is: `cstk`. `SQLite` file format, section 1.3.17.
const APPLICATION_ID: i32 = 0x6373_746b;

/// The steps from an empty database to the present one. Step n leads to schema version n; a step that was released is
/// never changed.
const STEPS: &[&str] = &[
    // 1: `id` is the token's UUIDv7, so rows append in the order of time and a purge clears whole pages. Times are
    // milliseconds: `expires` since 1970, `early` how long before `expires` the token's life ended, because small
    // numbers take few bytes. `kind` is 0 for consumed and 1 for revoked; `by` an address of 4 or 16 bytes.
    "CREATE TABLE endings (
        id BLOB NOT NULL PRIMARY KEY,
        expires INTEGER NOT NULL,
        early INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        by BLOB,
        retry_key BLOB
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        fence INTEGER NOT NULL,
        horizon INTEGER NOT NULL,
        is_backup INTEGER NOT NULL,
        probed INTEGER NOT NULL
    ) STRICT;",
    // 2: who serves from the store, as it said of itself: JSON.
    "CREATE TABLE nodes (
        id TEXT NOT NULL PRIMARY KEY,
        seen INTEGER NOT NULL,
        said TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;",
    // 3: whether a server may use it: 0 yes, 2 it was handed over to the store `peer`. `moving.rs` knows of 1.
    "CREATE TABLE copying (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        state INTEGER NOT NULL,
        copy TEXT,
        peer TEXT
    ) STRICT;
    INSERT INTO copying (one, state) VALUES (1, 0);",
    // 4: the horizon as a pair: `cleared` is when the youngest token was created whose record was removed, `horizon` the
    // latest expiry of one. Before, `horizon` alone was a watermark: tokens that expired before it were rejected; `upgrade`
    // makes a pair of it.
    "ALTER TABLE store ADD COLUMN cleared INTEGER NOT NULL DEFAULT 0;",
];

/// The step after which the horizon is a pair.
const PAIR: u32 = 4;

/// The newest schema version that this build knows.
pub(super) fn newest() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// How a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// For how long a connection waits for another program's lock before it gives up.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Connects to the database at `path`, which exists, and sets what is set for each connection.
pub(super) fn connect(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let mode = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_WAIT)?;
    // A manipulated file must do no harm beyond its content.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    if access == Access::Write {
        // Only an orderly close writes the log back. Any other end of a connection is treated like a crash.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // FULL: the log is on disk before a commit returns. On macOS only `fullfsync` empties the drive's own cache.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        // Every 4 MiB the log's pages go to the database: short pauses instead of rare long ones. A purge or a long
        // backup may make the log grow; it shrinks back to this many bytes.
        connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
        connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    }
    Ok(connection)
}

/// Refuses what is not a store, or not one of this version or older. Returns the schema version; 0: the file is empty.
/// Changes nothing.
pub(super) fn recognize(connection: &Connection, path: &Path) -> Result<u32, OpenError> {
    let failed = |error: rusqlite::Error| while_opening(path, &error);
    let application: i32 = pragma(connection, "application_id").map_err(failed)?;
    let version: i32 = pragma(connection, "user_version").map_err(failed)?;
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).map_err(failed)?;
    match (application, version, objects) {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, 1.., 1..) => {
            let found = version.unsigned_abs();
            if found > newest() {
                return Err(OpenError::Newer { path: path.to_owned(), found, known: newest() });
            }
            Ok(found)
        }
        (APPLICATION_ID, ..) => {
            let detail = "its schema is missing".to_owned();
            Err(OpenError::Damaged { path: path.to_owned(), detail })
        }
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

/// Looks for damage; reads the whole file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let answer: String = connection
        .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
        .map_err(|error| while_opening(path, &error))?;
    if answer == "ok" {
        Ok(())
    } else {
        // SQLite answers in lines.
        Err(OpenError::Damaged { path: path.to_owned(), detail: answer.replace('\n', ", ") })
    }
}

/// Brings the database to the newest schema. A new one gets its fence; one that is a backup, or has lost its log, gets it
/// moved. Returns where to, if so.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    clock: &dyn Clock,
    lost_log: bool,
) -> Result<Option<Timestamp>, OpenError> {
    let failed = |error: rusqlite::Error| while_opening(path, &error);
    recognize(connection, path)?;
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(OpenError::NoWal(path.to_owned()));
    }
    let now = clock.now();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // No other process can write between this check and the commit.
    let version = recognize(&transaction, path)?;
    let moved = upgrade(&transaction, version, now).map_err(failed)?;
    if lost_log {
        transaction
            .execute("UPDATE store SET fence = max(fence + 1, ?1)", (fence_at(now),))
            .map_err(failed)?;
    }
    let fence = transaction.query_row("SELECT fence FROM store", (), |row| row.get(0)).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    if moved {
        tracing::warn!(
            database = %path.display(),
            "the store was restored from a backup: every token issued before this moment is refused"
        );
    }
    if lost_log {
        tracing::warn!(
            database = %path.display(),
            "the store's -wal file is missing, and with it perhaps the latest records: every token issued before \
             this moment is refused"
        );
    }
    Ok((moved || lost_log).then(|| from_millis(fence)))
}

/// Where the fence rejects every token that was issued until now: the clock may have been ahead meanwhile, or the store on
/// another machine.
fn fence_at(now: Timestamp) -> i64 {
    to_millis(after(now, CLOCK_SKEW)).saturating_add(1)
}

/// Returns whether the fence was moved because this is a backup.
fn upgrade(transaction: &Transaction<'_>, version: u32, now: Timestamp) -> rusqlite::Result<bool> {
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    if version < newest() {
        transaction.pragma_update(None, "user_version", newest())?;
    }
    if version == 0 {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.execute(
            "INSERT INTO store (one, fence, horizon, is_backup, probed, cleared) VALUES (1, ?1, 0, 0, ?1, 0)",
            (to_millis(now),),
        )?;
    } else if version < PAIR {
        // Every token is rejected that was rejected before, but for those that are yet to be issued: a wrong clock may have
        // moved the old horizon far ahead of the present.
        transaction.execute(
            "UPDATE store SET horizon = horizon - 1, cleared = min(horizon - 1, ?1)",
            (fence_at(now),),
        )?;
    }
    let moved = transaction.execute(
        "UPDATE store SET is_backup = 0, fence = max(fence + 1, ?1) WHERE is_backup = 1",
        (fence_at(now),),
    )?;
    Ok(moved == 1)
}

/// Whether there is a table of this name.
pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)";
    connection.query_row(sql, (name,), |row| row.get(0))
}

/// Whether the horizon is a pair.
pub(super) fn has_pair(connection: &Connection) -> rusqlite::Result<bool> {
    pragma(connection, "user_version").map(|version| version.unsigned_abs() >= PAIR)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
