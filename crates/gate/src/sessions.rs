//! The sessions, and what happened to them, in one `SQLite` file that several gates on a machine share.
//!
//! The file is asked at each request, so a session that was ended is over immediately, in every gate.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::{from_millis, to_millis};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::events::{self, Event, EventQuery, WhyEnded};
use crate::secret::{SecretError, check_file_system, check_sessions_file, make_sessions_file};

/// The file's name in the data directory.
pub(crate) const FILE_NAME: &str = "gate-sessions.db";

/// Takes some room on the disk, which [`Sessions::end`] gives back when the disk is full: a stolen session must be endable then.
const RESERVE_NAME: &str = "gate-sessions.reserve";

/// How much. Ending a thousand sessions, and recording it, writes less.
const RESERVE_BYTES: usize = 1024 * 1024;

/// The version of the tables, as `PRAGMA user_version` has it.
const VERSION: i64 = 2;

/// How long a call waits for another process that writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for a refusal that is to be recorded. Strangers cause these, and must not have anything wait.
const PATIENCE_FOR_A_REFUSAL: Duration = Duration::from_millis(200);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS sessions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        tracker TEXT NOT NULL,
        issuer TEXT NOT NULL,
        user TEXT NOT NULL,
        peer TEXT,
        began INTEGER NOT NULL,
        ends INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS sessions_ends ON sessions (ends);
";

/// The columns of a session, in the order in which [`read`] takes them.
const COLUMNS: &str = "digest, tracker, issuer, user, peer, began, ends";

/// The SHA-256 of a session's cookie, by which the file knows the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(value: &str) -> Self {
        Self(Sha256::digest(value.as_bytes()).into())
    }
}

/// A session: a login of an issuer that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Names it in lists and in the log. It does not open the session.
    pub id: String,
    /// The tracker's base URL in its normal form.
    pub tracker: String,
    /// The issuer, by its name in the configuration.
    pub issuer: String,
    /// The user that it is logged in as.
    pub user: String,
    /// The address that logged in, if it is known.
    pub peer: Option<String>,
    /// When it began.
    pub began: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
}

/// Which sessions to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichSessions {
    /// The one of this id.
    Id(String),
    /// All of this issuer.
    Issuer(String),
    /// All.
    All,
}

/// Sessions that were ended.
#[derive(Debug)]
pub struct Ended {
    /// How many.
    pub number: usize,
    /// Why this could not be recorded as events, if so.
    pub unrecorded: Option<SessionError>,
}

/// The file of the sessions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It is not private, or cannot be made.
    #[error(transparent)]
    Files(#[from] SecretError),
    /// A newer gate has changed its tables.
    #[error(
        "the sessions in {path} are of version {found}, and this program knows versions up to {VERSION}; run the newer \
         program, or remove the file, which ends all sessions",
        path = .path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// `SQLite` says so.
    #[error("cannot use the sessions in {path}: {error}", path = .path.display())]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What it said. It quotes no values.
        error: rusqlite::Error,
    },
    /// The process is ending.
    #[error("the work on the sessions was cut short")]
    CutShort,
}

/// The file of the sessions. Cloning is cheap.
#[derive(Clone)]
pub struct Sessions {
    path: Arc<PathBuf>,
    /// Of its own, so that no question about a session waits for a writer: `SQLite` lets one read while others write.
    reads: Arc<Mutex<Connection>>,
    writes: Arc<Mutex<Connection>>,
    /// For refusals, so that no login waits for these.
    notes: Arc<Mutex<Connection>>,
}

impl Sessions {
    /// Opens the file in this directory, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// If it cannot be used, or others than this user can.
    pub fn open(data_dir: &Path) -> Result<Self, SessionError> {
        let path = data_dir.join(FILE_NAME);
        check_file_system(data_dir)?;
        make_sessions_file(&path)?;
        let sessions = Self::open_file(path)?;
        sessions.keep_reserve();
        Ok(sessions)
    }

    /// Opens the file that a gate has made in this directory. A reader may be another user than the gate's, such as
    /// root, whose file the gate could not use.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be used, or others than this user can.
    pub fn open_existing(data_dir: &Path) -> Result<Self, SessionError> {
        let path = data_dir.join(FILE_NAME);
        check_sessions_file(&path)?;
        Self::open_file(path)
    }

    fn open_file(path: PathBuf) -> Result<Self, SessionError> {
        let sqlite = |error| SessionError::Sqlite { path: path.clone(), error };
        let mut writes = connect(&path, PATIENCE).map_err(sqlite)?;
        let found = prepare(&mut writes).map_err(sqlite)?;
        if found > VERSION {
            return Err(SessionError::Newer { path, found });
        }
        let reads = connect(&path, PATIENCE).map_err(sqlite)?;
        let notes = connect(&path, PATIENCE_FOR_A_REFUSAL).map_err(sqlite)?;
        let [reads, writes, notes] =
            [reads, writes, notes].map(|connection| Arc::new(Mutex::new(connection)));
        Ok(Self { path: Arc::new(path), reads, writes, notes })
    }

    /// Begins a session. Of those of one tracker and issuer only so many go on; the oldest ones end.
    pub(crate) async fn begin(&self, digest: Digest, new: Session, most: u32) -> Result<(), SessionError> {
        self.call(&self.writes, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            change.execute("DELETE FROM sessions WHERE ends <= ?1", [to_millis(new.began)])?;
            Event::login(&new).record(&change)?;
            change.execute(
                &format!("INSERT INTO sessions ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
                params![
                    digest.0,
                    new.tracker,
                    new.issuer,
                    new.user,
                    new.peer,
                    to_millis(new.began),
                    to_millis(new.ends)
                ],
            )?;
            // By number, and not by time: a clock that was set back must not end the session that has just begun.
            let ended: Vec<Session> = change
                .prepare(&format!(
                    "DELETE FROM sessions WHERE tracker = ?1 AND issuer = ?2 AND number NOT IN (SELECT number FROM sessions \
                     WHERE tracker = ?1 AND issuer = ?2 ORDER BY number DESC LIMIT ?3) RETURNING {COLUMNS}"
                ))?
                .query_map(params![new.tracker, new.issuer, most], read)?
                .collect::<Result<_, _>>()?;
            for session in &ended {
                Event::ended(session, WhyEnded::MaxSessions, new.began).record(&change)?;
            }
            change.commit()
        })
        .await?;
        let sessions = self.clone();
        spawn_blocking(move || sessions.keep_reserve()).await.map_err(|_| SessionError::CutShort)
    }

    /// The session that this cookie is of, if it has not ended.
    pub(crate) async fn find(&self, digest: Digest, now: Timestamp) -> Result<Option<Session>, SessionError> {
        self.call(&self.reads, move |connection| {
            connection
                .prepare(&format!("SELECT {COLUMNS} FROM sessions WHERE digest = ?1 AND ends > ?2"))?
                .query_row(params![digest.0, to_millis(now)], read)
                .optional()
        })
        .await
    }

    /// All sessions that have not ended, the newest first.
    pub async fn list(&self, now: Timestamp) -> Result<Vec<Session>, SessionError> {
        self.call(&self.reads, move |connection| {
            connection
                .prepare(&format!("SELECT {COLUMNS} FROM sessions WHERE ends > ?1 ORDER BY number DESC"))?
                .query_map([to_millis(now)], read)?
                .collect()
        })
        .await
    }

    /// How many sessions of each issuer have not ended.
    pub(crate) async fn counts(&self, now: Timestamp) -> Result<HashMap<String, i64>, SessionError> {
        self.call(&self.reads, move |connection| {
            connection
                .prepare("SELECT issuer, count(*) FROM sessions WHERE ends > ?1 GROUP BY issuer")?
                .query_map([to_millis(now)], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Ends sessions, for every gate on this file, before this returns. They end also if that cannot be recorded. If nothing can
    /// be written, tries again with the room that was kept for this.
    pub async fn end(&self, which: WhichSessions, now: Timestamp) -> Result<Ended, SessionError> {
        let mut ended = self.remove(which.clone()).await;
        if ended.is_err() && fs::remove_file(self.path.with_file_name(RESERVE_NAME)).is_ok() {
            ended = self.remove(which).await;
        }
        // Those that are over anyway are only removed.
        let sessions: Vec<Session> = ended?.into_iter().filter(|session| session.ends > now).collect();
        let number = sessions.len();
        let recorded = self.call(&self.writes, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for session in &sessions {
                Event::ended(session, WhyEnded::Operator, now).record(&change)?;
            }
            change.commit()
        });
        Ok(Ended { number, unrecorded: recorded.await.err() })
    }

    async fn remove(&self, which: WhichSessions) -> Result<Vec<Session>, SessionError> {
        self.call(&self.writes, move |connection| {
            let (by, value) = match which {
                WhichSessions::Id(id) => {
                    ("lower(hex(substr(digest, 1, 8))) = ?1", Some(id.to_ascii_lowercase()))
                }
                WhichSessions::Issuer(issuer) => ("issuer = ?1", Some(issuer)),
                WhichSessions::All => ("?1 IS NULL", None),
            };
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let ended: Vec<Session> = change
                .prepare(&format!("DELETE FROM sessions WHERE {by} RETURNING {COLUMNS}"))?
                .query_map([value], read)?
                .collect::<Result<_, _>>()?;
            change.commit()?;
            Ok(ended)
        })
        .await
    }

    /// Takes the room, unless it is taken. A disk that is full is no reason for a gate not to start.
    fn keep_reserve(&self) {
        let path = self.path.with_file_name(RESERVE_NAME);
        // A disk that was full may have left a part of it.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == RESERVE_BYTES as u64) {
            return;
        }
        // Not zeros, which some file systems keep in no room.
        let mut bytes = Vec::with_capacity(RESERVE_BYTES);
        let mut block = Sha256::digest(RESERVE_NAME);
        while bytes.len() < RESERVE_BYTES {
            bytes.extend_from_slice(&block);
            block = Sha256::digest(block);
        }
        // Two gates that do this at the same time write the same.
        let made = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        let written = made.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        if let Err(error) = written {
            tracing::warn!(%error, file = %path.display(), "no room can be kept for ending sessions when the disk is full");
        }
    }

    /// Records that something was refused.
    pub(crate) async fn note(&self, event: Event) -> Result<(), SessionError> {
        self.call(&self.notes, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            event.record(&change)?;
            change.commit()
        })
        .await
    }

    /// Fails if nothing can be written, such as with a full disk: no session can then be made or ended.
    pub(crate) async fn probe_write(&self) -> Result<(), SessionError> {
        // With a short time limit, because the health check has one, too.
        self.call(&self.notes, |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Writes a page, though it changes nothing.
            change.pragma_update(None, "user_version", VERSION)?;
            change.commit()
        })
        .await
    }

    /// What happened, the oldest first.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Event>, SessionError> {
        self.call(&self.reads, move |connection| events::list(connection, &query)).await
    }

    /// `SQLite` waits for the disk, so it has a thread of its own, which finishes even if its caller is gone.
    async fn call<T: Send + 'static>(
        &self,
        connection: &Arc<Mutex<Connection>>,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SessionError> {
        let connection = Arc::clone(connection);
        let done =
            spawn_blocking(move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner)));
        let sqlite = |error| SessionError::Sqlite { path: PathBuf::clone(&self.path), error };
        done.await.map_err(|_| SessionError::CutShort)?.map_err(sqlite)
    }
}

fn connect(path: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(patience)?;
    // A session that was ended must not come back with the power.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Makes the tables, unless they are of a newer version, which is returned.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found < VERSION {
        change.execute_batch(SCHEMA)?;
        change.execute_batch(events::SCHEMA)?;
        change.pragma_update(None, "user_version", VERSION)?;
    }
    change.commit()?;
    Ok(found)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Session> {
    let digest: [u8; 32] = row.get(0)?;
    Ok(Session {
        id: id_of(&Digest(digest)),
        tracker: row.get(1)?,
        issuer: row.get(2)?,
        user: row.get(3)?,
        peer: row.get(4)?,
        began: from_millis(row.get(5)?),
        ends: from_millis(row.get(6)?),
    })
}

/// The first 64 bits of the hash.
pub(crate) fn id_of(digest: &Digest) -> String {
    HEXLOWER.encode(digest.0.first_chunk::<8>().map_or(&[][..], |start| start))
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
