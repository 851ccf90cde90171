//! Events in a `SQLite` file beside the database of endings.
//!
//! A commit here is not synced: after a power cut the last seconds may be missing, which is acceptable for events. One
//! connection writes, on the blocking threads of the runtime and one batch at a time; each question has a connection of
//! its own. A connection that failed is dropped, so that writing resumes by itself when the cause is gone.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    CallerName, Event, EventId, EventKind, EventName, EventQuery, EventStore, FirstUse, KindFilter, Known,
    NameFilter, Note, Reason, RequestId, StoreError, TokenId, from_millis, kept_of, to_millis,
};
use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior, params_from_iter,
};
use tokio::task::spawn_blocking;

use crate::error::closed;
use crate::sqlite::shared::{Address, beside, first_id_at, make_file, unusable};

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

/// What the server knew last of the fence and of the keys, in one row. Files that were made before it was kept are of the
/// same version.
const KNOWN: &str = "
    CREATE TABLE IF NOT EXISTS known (one INTEGER PRIMARY KEY CHECK (one = 1), said TEXT NOT NULL) STRICT";

/// What trackers and callers did lately, in a row for each. Files that were made before it was kept are of the same version.
const ACTIVITY: &str = "
    CREATE TABLE IF NOT EXISTS activity (name TEXT NOT NULL PRIMARY KEY, said TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// The name of a caller. Files that were made before callers had names get it when they are opened for writing, and stay of
/// the same version: an earlier program names the columns that it writes and reads.
const CALLER: &str = "ALTER TABLE events ADD COLUMN caller TEXT";

/// How many unusable files are kept. They may hold what happened at a break-in, so that none is ever removed or overwritten,
/// and yet they must not fill the disk that tokens need.
const MAX_ASIDE: usize = 9;

/// For how long a connection waits for another one's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How many events one slice of a purge removes, so that appending need not wait for all of it.
const SLICE: i64 = 5000;

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

impl Inner {
    fn unavailable(&self, error: rusqlite::Error) -> StoreError {
        StoreError::Unavailable(unusable(&self.path, error))
    }

    fn newer(&self, version: i32) -> StoreError {
        StoreError::unavailable(format!(
            "{} was written by a newer version of Countersign (events {version}, this version knows {VERSION}) and is left \
             as it is; install that version again, or move the file away, and another one is made",
            self.path.display()
        ))
    }

    /// Opens the file. One that is damaged, or not one of ours, is put aside: history is not worth a server that does not
    /// tell what happens now.
    fn open_or_replace(&self) -> Result<Connection, StoreError> {
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
        // An index of the log, which whoever opens the file makes anew.
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
enum Owner {
    /// There is nothing in it.
    Nobody,
    Ours,
    /// That of a newer version of this program; its schema's version.
    Newer(i32),
    Other,
}

fn owner(connection: &Connection) -> rusqlite::Result<Owner> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(match (pragma("application_id")?, pragma("user_version")?) {
        (APPLICATION_ID, VERSION) => Owner::Ours,
        (APPLICATION_ID, version) if version > VERSION => Owner::Newer(version),
        _ if is_empty(connection)? => Owner::Nobody,
        _ => Owner::Other,
    })
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) = 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
    connection.query_row(sql, (name,), |row| row.get(0))
}

fn has_callers(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) = 1 FROM pragma_table_info('events') WHERE name = 'caller'";
    connection.query_row(sql, (), |row| row.get(0))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", (), |row| row.get(0))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
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

    async fn keep_activity(&self, changed: &BTreeMap<String, Option<String>>) -> Result<(), StoreError> {
        let changed = changed.clone();
        self.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (name, text) in &changed {
                match text {
                    Some(text) => transaction
                        .prepare_cached("INSERT OR REPLACE INTO activity (name, said) VALUES (?, ?)")?
                        .execute((name, text))?,
                    None => {
                        transaction.prepare_cached("DELETE FROM activity WHERE name = ?")?.execute((name,))?
                    }
                };
            }
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

/// A kind as it stands in the table.
fn code(kind: KindFilter, reason: Option<Reason>) -> String {
    match reason {
        Some(reason) => format!("{}/{}", kind.label(), reason.label()),
        None => kind.label().to_owned(),
    }
}

/// Every code there is.
fn codes() -> impl Iterator<Item = (KindFilter, String)> {
    KindFilter::ALL.iter().flat_map(|&kind| {
        let reasons: Vec<Option<Reason>> = match kind {
            KindFilter::Refused => Reason::ALL.iter().copied().map(Some).collect(),
            _ => vec![None],
        };
        reasons.into_iter().map(move |reason| (kind, code(kind, reason)))
    })
}

fn insert(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let (line, first_by, note) = match &event.kind {
        EventKind::Replay(Some(first)) => (Some(first.at), first.by, None),
        EventKind::Relay { stated } => (None, None, stated.as_ref().map(|note| note.as_str().to_owned())),
        EventKind::KeyRotated { key } | EventKind::KeyRevoked { key } => (None, None, Some(key.to_string())),
        EventKind::FenceMoved { fence } => (Some(*fence), None, None),
        EventKind::Issued
        | EventKind::Consumed
        | EventKind::CredentialRejected
        | EventKind::Refused(_)
        | EventKind::Revoked
        | EventKind::Replay(None) => (None, None, None),
    };
    connection
        .prepare_cached(
            "INSERT INTO events \
             (id, kind, token, audience, peer, user_agent, request, count, line, first_by, note, caller) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )?
        .execute((
            event.id.as_bytes(),
            code(event.kind.filter(), event.kind.reason()),
            event.token.as_ref().map(TokenId::as_bytes),
            &event.audience,
            event.peer.map(Address),
            event.user_agent.as_ref().map(Note::as_str),
            event.request.map(|RequestId(id)| id.cast_signed()),
            i64::try_from(event.count).unwrap_or(i64::MAX),
            line.map(to_millis),
            first_by.map(Address),
            note,
            event.caller.as_ref().map(CallerName::as_str),
        ))
        .map(drop)
}

fn select(connection: &Connection, query: &EventQuery) -> rusqlite::Result<Vec<Event>> {
    // The file may have been written by an earlier version alone.
    let caller = if has_callers(connection)? { "caller" } else { "NULL" };
    let mut sql = format!(
        "SELECT id, kind, token, audience, peer, user_agent, request, count, line, first_by, note, {caller} \
         FROM events WHERE id >= ?"
    );
    let mut values = vec![Value::Blob(first_id_at(to_millis(query.since)).to_vec())];
    if let Some(after) = query.after {
        // An event's id begins with its moment. The cursor may be at the end of a token's life, whose id is the token's
        // and begins with another one; then all events of the cursor's moment come before it, or all after it.
        let at = to_millis(after.at);
        let bound = match after.id.made().cmp(&after.at) {
            Ordering::Equal => *after.id.as_bytes(),
            Ordering::Less => first_id_at(at),
            Ordering::Greater => first_id_at(at + 1),
        };
        sql.push_str(" AND id < ?");
        values.push(Value::Blob(bound.to_vec()));
    }
    if query.until < Timestamp::MAX {
        sql.push_str(" AND id < ?");
        values.push(Value::Blob(first_id_at(to_millis(query.until)).to_vec()));
    }
    match query.name {
        Some(EventName::Id(id)) => {
            sql.push_str(" AND (id = ? OR token = ?)");
            values.extend([Value::Blob(id.as_bytes().to_vec()), Value::Blob(id.as_bytes().to_vec())]);
        }
        Some(EventName::Request(RequestId(id))) => {
            sql.push_str(" AND request = ?");
            values.push(Value::Integer(id.cast_signed()));
        }
        None => {}
    }
    if let Some(peer) = query.peer {
        sql.push_str(" AND peer = ?");
        values.push(Value::Blob(match peer {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }));
    }
    if let Some(text) = &query.text {
        // SQLite's lower() knows ASCII alone. What is not there has nothing in it.
        let within =
            ["audience", "user_agent", "note", caller].map(|column| format!("instr(lower({column}), ?) > 0"));
        sql.extend([" AND (", &*within.join(" OR "), ")"]);
        values.extend(within.map(|_| Value::Text(text.to_ascii_lowercase())));
    }
    for (column, wanted) in [("audience", &query.tracker), (caller, &query.caller)] {
        match wanted {
            None => {}
            Some(NameFilter::Named(name)) => {
                sql.extend([" AND ", column, " = ?"]);
                values.push(Value::Text(name.clone()));
            }
            Some(NameFilter::Nameless) => sql.extend([" AND token IS NOT NULL AND ", column, " IS NULL"]),
        }
    }
    if !query.kinds.is_empty() {
        let wanted: Vec<Value> =
            codes().filter(|(kind, _)| query.wants(*kind)).map(|(_, code)| Value::Text(code)).collect();
        sql.push_str(" AND kind IN (");
        sql.push_str(&vec!["?"; wanted.len()].join(", "));
        sql.push(')');
        values.extend(wanted);
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::Integer(i64::try_from(query.limit).unwrap_or(i64::MAX)));
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), read)?;
    // A later version may know kinds that this one does not.
    rows.filter_map(Result::transpose).collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Event>> {
    let id = EventId::from_bytes(row.get(0)?);
    let code: String = row.get(1)?;
    let line: Option<i64> = row.get(8)?;
    let first_by = row.get::<_, Option<Address>>(9)?.map(|Address(by)| by);
    let note: Option<String> = row.get(10)?;
    let Some(kind) = kind_of(&code, line.map(from_millis), first_by, note.as_deref()) else {
        return Ok(None);
    };
    Ok(Some(Event {
        id,
        at: id.made(),
        kind,
        token: row.get::<_, Option<[u8; 16]>>(2)?.map(TokenId::from_bytes),
        audience: row.get(3)?,
        peer: row.get::<_, Option<Address>>(4)?.map(|Address(peer)| peer),
        user_agent: row.get::<_, Option<String>>(5)?.and_then(|text| Note::clean(text.as_bytes())),
        request: row.get::<_, Option<i64>>(6)?.map(|id| RequestId(id.cast_unsigned())),
        count: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(1),
        caller: row.get::<_, Option<String>>(11)?.and_then(|name| name.parse().ok()),
    }))
}

fn kind_of(
    code: &str,
    line: Option<Timestamp>,
    first_by: Option<IpAddr>,
    note: Option<&str>,
) -> Option<EventKind> {
    let (kind, reason) = match code.split_once('/') {
        Some((kind, reason)) => (kind, Some(reason)),
        None => (code, None),
    };
    Some(match KindFilter::of_label(kind)? {
        KindFilter::Issued => EventKind::Issued,
        KindFilter::Consumed => EventKind::Consumed,
        KindFilter::Refused => EventKind::Refused(Reason::of_label(reason?)?),
        KindFilter::Revoked => EventKind::Revoked,
        KindFilter::Replay => EventKind::Replay(line.map(|at| FirstUse { at, by: first_by })),
        KindFilter::Relay => EventKind::Relay { stated: note.and_then(|note| Note::clean(note.as_bytes())) },
        KindFilter::KeyRotated => EventKind::KeyRotated { key: note?.parse().ok()? },
        KindFilter::KeyRevoked => EventKind::KeyRevoked { key: note?.parse().ok()? },
        KindFilter::FenceMoved => EventKind::FenceMoved { fence: line? },
        KindFilter::CredentialRejected => EventKind::CredentialRejected,
    })
}

/// Removes some of what is too old, or too many. Returns how many; 0: there is nothing left to remove.
fn purge_slice(connection: &mut Connection, cutoff: Timestamp) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut removed = transaction
        .prepare_cached(
            "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id < ? ORDER BY id LIMIT ?)",
        )?
        .execute((first_id_at(to_millis(cutoff)), SLICE))?;
    for (kind, code) in codes() {
        // The newest one that is too many: it and everything before it goes.
        removed += transaction
            .prepare_cached(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE kind = ?1 AND id <= \
                 (SELECT id FROM events WHERE kind = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2) ORDER BY id LIMIT ?3)",
            )?
            .execute((&code, i64::try_from(kept_of(kind)).unwrap_or(i64::MAX), SLICE))?;
    }
    transaction.commit()?;
    if removed > 0 {
        connection.execute_batch("PRAGMA incremental_vacuum(1000)")?;
    }
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}
