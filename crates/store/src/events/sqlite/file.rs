//! The file of events: making it, opening it, and putting aside one that cannot be used.

use std::fs;
use std::io;
use std::path::PathBuf;

use countersign_core::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{Inner, LOCK_WAIT};
use crate::sqlite::shared::{beside, make_file, unusable};

/// Says in the file's header whose it is: `cste`.
const APPLICATION_ID: i32 = 0x6373_7465;

/// The schema's version. A file of a newer one is left as it is: the program that wrote it will want to go on with it.
const VERSION: i32 = 1;

/// `kind` is the kind's label, and for a refusal `refused/` and the reason's. `line` is when a replayed token was first
/// used, or where the fence was moved to; `note` the tracker that was stated at a relay attempt, or the name of a key.
const SCHEMA: &str = "
    CREATE TABLE events (
        id BLOB NOT NULL PRIMARY KEY,
        kind TEXT NOT NULL,
        token BLOB,
        audience TEXT,
        peer BLOB,
        user_agent TEXT,
        request INTEGER,
        count INTEGER NOT NULL,
        line INTEGER,
        first_by BLOB,
        note TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX events_by_kind ON events (kind, id);";

/// The fence and the keys as the server saw them last, in one row. Older files without this table have the same version.
const KNOWN: &str = "
    CREATE TABLE IF NOT EXISTS known (one INTEGER PRIMARY KEY CHECK (one = 1), said TEXT NOT NULL) STRICT";

/// Recent counters of trackers and callers, one row each. Older files without this table have the same version.
const ACTIVITY: &str = "
    CREATE TABLE IF NOT EXISTS activity (name TEXT NOT NULL PRIMARY KEY, said TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// The name of a caller. Files that were made before callers had names get it when they are opened for writing, and stay of
/// the same version: an earlier program names the columns that it writes and reads.
const CALLER: &str = "ALTER TABLE events ADD COLUMN caller TEXT";

/// How many unusable files are kept. They may hold what happened at a break-in, so that none is ever removed or overwritten,
/// and yet they must not fill the disk that tokens need.
const MAX_ASIDE: usize = 9;

impl Inner {
    pub(super) fn unavailable(&self, error: rusqlite::Error) -> StoreError {
        StoreError::Unavailable(unusable(&self.path, error))
    }

    pub(super) fn newer(&self, version: i32) -> StoreError {
        StoreError::unavailable(format!(
            "{} was written by a newer version of Countersign (events {version}, this version knows {VERSION}) and is left \
             as it is; install that version again, or move the file away, and another one is made",
            self.path.display()
        ))
    }

    /// Opens the file. One that is damaged, or not one of ours, is put aside: history is not worth a server that does not
    /// tell what happens now.
    pub(super) fn open_or_replace(&self) -> Result<Connection, StoreError> {
        match self.open() {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(Owner::Newer(version))) => Err(self.newer(version)),
            Ok(Err(_)) => self.replace("it is not a file of events"),
            Err(error) if is_damage(&error) => self.replace(&error.to_string()),
            Err(error) => Err(self.unavailable(error)),
        }
    }

    /// `Err` within: the file is not one of ours.
    fn open(&self) -> rusqlite::Result<Result<Connection, Owner>> {
        match make_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                    Some(error.to_string()),
                ));
            }
            _ => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(LOCK_WAIT)?;
        // A file that turns out not to be used keeps its log, which closing would remove.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        // What is not ours is not changed.
        if let owner @ (Owner::Newer(_) | Owner::Other) = owner(&connection)? {
            return Ok(Err(owner));
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", 4 * 1024 * 1024)?;
        // Pages that a purge empties go back to the disk a few at a time.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(()))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match owner(&transaction)? {
            Owner::Ours => {}
            Owner::Nobody => {
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            owner @ (Owner::Newer(_) | Owner::Other) => return Ok(Err(owner)),
        }
        transaction.execute_batch(KNOWN)?;
        transaction.execute_batch(ACTIVITY)?;
        if !has_callers(&transaction)? {
            transaction.execute_batch(CALLER)?;
        }
        transaction.commit()?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(Ok(connection))
    }

    /// Moves the file, with the log that belongs to it, to a name that nothing has. Returns the name.
    fn put_aside(&self) -> io::Result<PathBuf> {
        let aside = self.claim_aside()?;
        // The log goes first: left behind, it would be taken for the new file's.
        let log = fs::rename(beside(&self.path, "-wal"), beside(&aside, "-wal"));
        let moved = match log {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(&self.path, &aside),
        };
        if let Err(error) = moved {
            // Only the name was made; the log, if it has moved, is kept, and the name is not used again.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        // An index of the log, which SQLite rebuilds when it opens the file.
        match fs::remove_file(beside(&self.path, "-shm")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(aside),
        }
    }

    /// Makes an empty file with the first free name: `.aside`, `.aside-2` and so on.
    fn claim_aside(&self) -> io::Result<PathBuf> {
        for nth in 1..=MAX_ASIDE {
            let suffix = if nth == 1 { ".aside".to_owned() } else { format!(".aside-{nth}") };
            let aside = beside(&self.path, &suffix);
            if beside(&aside, "-wal").try_exists()? {
                continue;
            }
            match make_file(&aside) {
                Ok(()) => return Ok(aside),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let all = format!("there are {MAX_ASIDE} such files already; look at them, and move them away");
        Err(io::Error::new(io::ErrorKind::AlreadyExists, all))
    }

    fn replace(&self, reason: &str) -> Result<Connection, StoreError> {
        let aside = self.put_aside().map_err(|error| {
            StoreError::unavailable(format!(
                "{} cannot be used ({reason}), nor put aside ({error}); move it away, and another one is made",
                self.path.display()
            ))
        })?;
        tracing::warn!(
            file = %self.path.display(), aside = %aside.display(), reason,
            "the events so far cannot be read and were put aside; tokens are not touched by that"
        );
        match self.open() {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(_)) => Err(StoreError::unavailable("another program writes the file of events")),
            Err(error) => Err(self.unavailable(error)),
        }
    }
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// There is nothing in it.
    Nobody,
    Ours,
    /// That of a newer version of this program; its schema's version.
    Newer(i32),
    Other,
}

pub(super) fn owner(connection: &Connection) -> rusqlite::Result<Owner> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(match (pragma("application_id")?, pragma("user_version")?) {
        (APPLICATION_ID, VERSION) => Owner::Ours,
        (APPLICATION_ID, version) if version > VERSION => Owner::Newer(version),
        _ if is_empty(connection)? => Owner::Nobody,
        _ => Owner::Other,
    })
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) = 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
    connection.query_row(sql, (name,), |row| row.get(0))
}

pub(super) fn has_callers(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) = 1 FROM pragma_table_info('events') WHERE name = 'caller'";
    connection.query_row(sql, (), |row| row.get(0))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", (), |row| row.get(0))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
