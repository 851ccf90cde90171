//! The sessions, and what happened to them, in one `SQLite` file that several gates on a machine share.
//!
//! The file is asked at each request, so a session that was ended is over at once, whoever ended it, and in every gate.

use std::collections::HashMap;
use std::fmt;
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
use crate::secret::{SecretError, check_private_file, make_private_file};

/// The file's name in the data directory.
pub(crate) const FILE_NAME: &str = "gate-sessions.db";

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
    /// Names it in lists and in the log. Nobody has the session by it.
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

/// A session that is to begin.
#[derive(Clone, Debug)]
pub(crate) struct NewSession {
    pub(crate) digest: Digest,
    pub(crate) tracker: String,
    pub(crate) issuer: String,
    pub(crate) user: String,
    pub(crate) peer: Option<String>,
    pub(crate) began: Timestamp,
    pub(crate) ends: Timestamp,
}

impl NewSession {
    fn session(&self) -> Session {
        Session {
            id: id_of(&self.digest),
            tracker: self.tracker.clone(),
            issuer: self.issuer.clone(),
            user: self.user.clone(),
            peer: self.peer.clone(),
            began: self.began,
            ends: self.ends,
        }
    }
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
        make_private_file(&path)?;
        Self::open_file(path)
    }

    /// Opens the file that a gate has made in this directory. Whoever only looks may be another user than the gate's, such as
    /// root, whose file the gate could not use.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be used, or others than this user can.
    pub fn open_existing(data_dir: &Path) -> Result<Self, SessionError> {
        let path = data_dir.join(FILE_NAME);
        check_private_file(&path)?;
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
    pub(crate) async fn begin(&self, new: NewSession, most: u32) -> Result<(), SessionError> {
        self.call(&self.writes, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            change.execute("DELETE FROM sessions WHERE ends <= ?1", [to_millis(new.began)])?;
            Event::login(&new.session()).record(&change)?;
            change.execute(
                "INSERT INTO sessions (digest, tracker, issuer, user, peer, began, ends) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    new.digest.0,
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
                .prepare(
                    "DELETE FROM sessions WHERE tracker = ?1 AND issuer = ?2 AND number NOT IN (SELECT number FROM sessions \
                     WHERE tracker = ?1 AND issuer = ?2 ORDER BY number DESC LIMIT ?3) \
                     RETURNING digest, tracker, issuer, user, peer, began, ends",
                )?
                .query_map(params![new.tracker, new.issuer, most], read)?
                .collect::<Result<_, _>>()?;
            for session in &ended {
                Event::ended(session, WhyEnded::MaxSessions, new.began).record(&change)?;
            }
            change.commit()
        })
        .await
    }

    /// The session that this cookie is of, if it has not ended.
    pub(crate) async fn find(&self, digest: Digest, now: Timestamp) -> Result<Option<Session>, SessionError> {
        self.call(&self.reads, move |connection| {
            connection
                .prepare(
                    "SELECT digest, tracker, issuer, user, peer, began, ends FROM sessions \
                     WHERE digest = ?1 AND ends > ?2",
                )?
                .query_row(params![digest.0, to_millis(now)], read)
                .optional()
        })
        .await
    }

    /// All sessions that have not ended, the newest first.
    pub async fn list(&self, now: Timestamp) -> Result<Vec<Session>, SessionError> {
        self.call(&self.reads, move |connection| {
            connection
                .prepare(
                    "SELECT digest, tracker, issuer, user, peer, began, ends FROM sessions \
                     WHERE ends > ?1 ORDER BY number DESC",
                )?
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

    /// Ends sessions, for every gate on this file, before this returns. They end also if that cannot be recorded.
    pub async fn end(&self, which: WhichSessions, now: Timestamp) -> Result<Ended, SessionError> {
        let sessions = self.call(&self.writes, move |connection| {
            let (by, value) = match &which {
                WhichSessions::Id(id) => {
                    ("lower(hex(substr(digest, 1, 8))) = ?1", Some(id.to_ascii_lowercase()))
                }
                WhichSessions::Issuer(issuer) => ("issuer = ?1", Some(issuer.clone())),
                WhichSessions::All => ("?1 IS NULL", None),
            };
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let ended: Vec<Session> = change
                .prepare(&format!(
                    "DELETE FROM sessions WHERE {by} RETURNING digest, tracker, issuer, user, peer, began, ends"
                ))?
                .query_map([value], read)?
                .collect::<Result<_, _>>()?;
            change.commit()?;
            // Those that are over anyway are only removed.
            Ok(ended.into_iter().filter(|session| session.ends > now).collect::<Vec<_>>())
        });
        let sessions = sessions.await?;
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

    /// Records that something was refused.
    pub(crate) async fn note(&self, event: Event) -> Result<(), SessionError> {
        self.call(&self.notes, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            event.record(&change)?;
            change.commit()
        })
        .await
    }

    /// What happened, the oldest first.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Event>, SessionError> {
        self.call(&self.reads, move |connection| events::list(connection, &query)).await
    }

    /// `SQLite` waits for the disk, so it has a thread of its own, which finishes even if nobody waits for it any more.
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
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::events::EventKind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn new(value: &str, issuer: &str, began: i64) -> NewSession {
        NewSession {
            digest: Digest::of(value),
            tracker: "https://bugs.example.org/".to_owned(),
            issuer: issuer.to_owned(),
            user: "launchpad".to_owned(),
            peer: Some("192.0.2.1".to_owned()),
            began: at(began),
            ends: at(began + 60),
        }
    }

    async fn is_open(sessions: &Sessions, value: &str, now: i64) -> bool {
        sessions.find(Digest::of(value), at(now)).await.unwrap().is_some()
    }

    /// How many were ended, all of which were recorded.
    async fn ended(sessions: &Sessions, which: WhichSessions) -> usize {
        let Ended { number, unrecorded } = sessions.end(which, at(1)).await.unwrap();
        assert!(unrecorded.is_none(), "{unrecorded:?}");
        number
    }

    #[tokio::test]
    async fn session_lives_until_its_end_also_in_another_gate() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        let other = Sessions::open(directory.path()).unwrap();
        for gate in [&sessions, &other] {
            assert!(is_open(gate, "a", 59).await);
            assert!(!is_open(gate, "a", 60).await);
            assert!(!is_open(gate, "b", 0).await);
        }
        let listed = other.list(at(0)).await.unwrap();
        assert_eq!(listed, [sessions.find(Digest::of("a"), at(0)).await.unwrap().unwrap()]);
        assert_eq!(listed[0].id, id_of(&Digest::of("a")));
        // The next login removes what has ended.
        sessions.begin(new("b", "launchpad", 60), 10).await.unwrap();
        assert_eq!(sessions.list(at(0)).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn ended_session_is_over_in_every_gate() {
        let directory = TempDir::new().unwrap();
        let (one, two) =
            (Sessions::open(directory.path()).unwrap(), Sessions::open(directory.path()).unwrap());
        for (value, issuer) in [("a", "launchpad"), ("b", "launchpad"), ("c", "other"), ("d", "other")] {
            one.begin(new(value, issuer, 0), 10).await.unwrap();
        }
        assert!(is_open(&two, "a", 0).await);
        let id = id_of(&Digest::of("a")).to_uppercase();
        assert_eq!(ended(&one, WhichSessions::Id(id.clone())).await, 1);
        assert!(!is_open(&two, "a", 0).await);
        assert_eq!(ended(&one, WhichSessions::Id(id)).await, 0);
        for id in ["", "%", "0"] {
            assert_eq!(ended(&one, WhichSessions::Id(id.to_owned())).await, 0, "{id}");
        }
        assert_eq!(ended(&two, WhichSessions::Issuer("other".to_owned())).await, 2);
        assert!(is_open(&one, "b", 0).await && !is_open(&one, "c", 0).await);
        assert_eq!(ended(&two, WhichSessions::All).await, 1);
        assert_eq!(one.list(at(0)).await.unwrap(), []);
        let kinds = vec![EventKind::SessionEnded];
        let ended = one.events(EventQuery { kinds, ..EventQuery::default() }).await.unwrap();
        let of = |event: &Event| (event.issuer.clone().unwrap(), event.reason.clone().unwrap(), event.at);
        let [launchpad, other] =
            ["launchpad", "other"].map(|issuer| (issuer.to_owned(), "operator".to_owned(), at(1)));
        assert_eq!(
            ended.iter().map(of).collect::<Vec<_>>(),
            [&launchpad, &other, &other, &launchpad].map(Clone::clone)
        );
        assert_eq!(ended[0].session.as_deref(), Some(&*id_of(&Digest::of("a"))));
    }

    #[tokio::test]
    async fn oldest_sessions_of_one_issuer_make_room() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("other", "other", 0), 2).await.unwrap();
        // A clock that steps back does not end the newest.
        for (value, began) in [("a", 3), ("b", 2), ("c", 1)] {
            sessions.begin(new(value, "launchpad", began), 2).await.unwrap();
        }
        for (value, expected) in [("a", false), ("b", true), ("c", true), ("other", true)] {
            assert_eq!(is_open(&sessions, value, 5).await, expected, "{value}");
        }
        let events = sessions.events(EventQuery::default()).await.unwrap();
        let ended = events.iter().filter(|event| event.reason.as_deref() == Some("max_sessions"));
        assert_eq!(
            ended.map(|event| event.session.clone().unwrap()).collect::<Vec<_>>(),
            [id_of(&Digest::of("a"))]
        );
    }

    #[tokio::test]
    async fn logins_of_two_gates_at_once_all_succeed() {
        let directory = TempDir::new().unwrap();
        let gates = [Sessions::open(directory.path()).unwrap(), Sessions::open(directory.path()).unwrap()];
        let logins = (0..40).map(|number| {
            let gate = gates[number % 2].clone();
            tokio::spawn(async move { gate.begin(new(&number.to_string(), "launchpad", 0), 100).await })
        });
        for login in logins.collect::<Vec<_>>() {
            login.await.unwrap().unwrap();
        }
        assert_eq!(gates[0].list(at(0)).await.unwrap().len(), 40);
    }

    #[tokio::test]
    async fn events_outlive_a_restart_and_old_ones_are_forgotten() {
        let directory = TempDir::new().unwrap();
        let refused = |at| Event::refused(EventKind::LoginRefused, "spent", Some("launchpad"), None, at, 7);
        let month = 30 * 24 * 3600;
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        sessions.note(refused(at(1))).await.unwrap();
        drop(sessions);
        let sessions = Sessions::open_existing(directory.path()).unwrap();
        let all = sessions.events(EventQuery::default()).await.unwrap();
        assert_eq!(all[0].session.as_deref(), Some(&*id_of(&Digest::of("a"))));
        assert_eq!((all.len(), &*all[0].kind, &all[1]), (2, "login", &refused(at(1))));
        for (query, expected) in [
            (EventQuery { since: Some(at(1)), ..EventQuery::default() }, "login-refused"),
            (EventQuery { kinds: vec![EventKind::Login], ..EventQuery::default() }, "login"),
            (EventQuery { limit: Some(1), ..EventQuery::default() }, "login-refused"),
        ] {
            let found = sessions.events(query).await.unwrap();
            assert_eq!((found.len(), &*found[0].kind), (1, expected));
        }
        sessions.note(refused(at(month + 1))).await.unwrap();
        assert_eq!(
            sessions.events(EventQuery::default()).await.unwrap(),
            [refused(at(1)), refused(at(month + 1))]
        );
    }

    #[tokio::test]
    async fn refusals_that_cannot_be_recorded_stall_nobody() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        let other = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = || Event::refused(EventKind::RequestRefused, "session_over", None, None, at(1), 0);
        let refusals: Vec<_> = (0..4)
            .map(|_| {
                let sessions = sessions.clone();
                tokio::spawn(async move { sessions.note(refused()).await })
            })
            .collect();
        let login = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.begin(new("b", "launchpad", 0), 10).await }
        });
        for refusal in refusals {
            assert!(refusal.await.unwrap().is_err(), "the other process writes");
            // Asked while the login waits for that process.
            assert!(is_open(&sessions, "a", 1).await);
        }
        assert!(!login.is_finished(), "the refusals took longer than a login's patience");
        other.execute_batch("COMMIT").unwrap();
        login.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn session_ends_also_if_that_cannot_be_recorded() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        file.execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
        let Ended { number, unrecorded } = sessions.end(WhichSessions::All, at(1)).await.unwrap();
        assert_eq!(number, 1);
        assert!(unrecorded.unwrap().to_string().contains("full"));
        assert!(!is_open(&sessions, "a", 1).await);
    }

    #[tokio::test]
    async fn refusals_push_no_login_out_of_the_record() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        let refused = |at| Event::refused(EventKind::RequestRefused, "session_over", None, None, at, 0);
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        sessions.note(refused(at(1))).await.unwrap();
        let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        file.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [events::MOST_EVENTS])
            .unwrap();
        for second in [2, 3] {
            sessions.note(refused(at(second))).await.unwrap();
        }
        let left = sessions.events(EventQuery::default()).await.unwrap();
        let left: Vec<_> = left.iter().map(|event| (&*event.kind, event.at)).collect();
        let [second, third] = [2, 3].map(|second| ("request-refused", at(second)));
        assert_eq!(left, [("login", at(0)), second, third]);
    }

    #[tokio::test]
    async fn clock_that_jumps_ahead_leaves_the_record() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        let refused = |at| Event::refused(EventKind::RequestRefused, "session_over", None, None, at, 0);
        for second in 0..100 {
            sessions.note(refused(at(second))).await.unwrap();
        }
        sessions.note(refused(at(365 * 24 * 3600))).await.unwrap();
        let left = sessions.events(EventQuery::default()).await.unwrap();
        assert_eq!((left.len(), left[0].at), (91, at(10)), "the oldest ten went");
    }

    #[tokio::test]
    async fn file_of_an_older_gate_keeps_its_sessions() {
        let directory = TempDir::new().unwrap();
        let sessions = Sessions::open(directory.path()).unwrap();
        sessions.begin(new("a", "launchpad", 0), 10).await.unwrap();
        drop(sessions);
        // As the first version left it.
        let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        file.execute_batch("DROP TABLE events; PRAGMA user_version = 1").unwrap();
        drop(file);
        let sessions = Sessions::open(directory.path()).unwrap();
        assert!(is_open(&sessions, "a", 0).await);
        assert_eq!(sessions.events(EventQuery::default()).await.unwrap(), []);
    }

    #[test]
    fn looking_makes_no_file() {
        let directory = TempDir::new().unwrap();
        let error = Sessions::open_existing(directory.path()).unwrap_err().to_string();
        assert!(error.contains("no gate has begun to use"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn file_that_is_unsafe_or_newer_is_rejected() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(FILE_NAME);
        drop(Sessions::open(directory.path()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = Sessions::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("can be changed by other users"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
        assert!(matches!(Sessions::open(directory.path()), Err(SessionError::Newer { found: 3, .. })));
    }
}
