//! What happened, for operators: in the file of the sessions, where it outlives a restart.
//!
//! A login is recorded in the transaction that makes it, and so is a session that ends for it. A session that an operator ends is
//! recorded after that: it must end also when nothing can be recorded. Nothing waits for the record of a refusal; of each reason
//! there are only so many a minute, and the next one says how many were left out.

use std::time::Duration;

use countersign_core::{before, from_millis, to_millis};
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use crate::sessions::Session;

/// For how long events are kept.
const RETENTION: Duration = Duration::from_hours(30 * 24);

/// After how many further events a refusal is forgotten: strangers cause as many as they like. They cause no logins, so these are
/// kept.
pub(crate) const MOST_EVENTS: i64 = 100_000;

/// The most events that another one makes forgotten for their age, so that a clock that jumps ahead does not empty the record.
const MOST_FORGOTTEN: i64 = 10;

pub(crate) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT,
        issuer TEXT,
        user TEXT,
        session TEXT,
        address TEXT,
        left_out INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS events_at ON events (at);
";

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A token became a session.
    Login,
    /// A login was refused.
    LoginRefused,
    /// A request to the tracker was refused; one that brings no session is none of these.
    RequestRefused,
    /// A session was ended before its time.
    SessionEnded,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Login, Self::LoginRefused, Self::RequestRefused, Self::SessionEnded];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginRefused => "login-refused",
            Self::RequestRefused => "request-refused",
            Self::SessionEnded => "session-ended",
        }
    }
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyEnded {
    Operator,
    /// A newer one needed its place.
    MaxSessions,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    #[serde(rename = "date")]
    pub at: Timestamp,
    /// What.
    pub kind: String,
    /// Why: by the names of the metrics; for a request that was forbidden, in words.
    pub reason: Option<String>,
    /// The issuer, by its name in the configuration.
    pub issuer: Option<String>,
    /// The user of the session.
    pub user: Option<String>,
    /// The session's id. It does not open the session.
    pub session: Option<String>,
    /// The client's address, as far as the proxy says it.
    pub address: Option<String>,
    /// How many of the same kind and reason came before this one and were not recorded.
    pub left_out: u64,
}

impl Event {
    pub(crate) fn refused(
        kind: EventKind,
        reason: &str,
        issuer: Option<&str>,
        address: Option<String>,
        at: Timestamp,
        left_out: u64,
    ) -> Self {
        Self {
            at,
            kind: kind.label().to_owned(),
            reason: Some(reason.to_owned()),
            issuer: issuer.map(str::to_owned),
            user: None,
            session: None,
            address,
            left_out,
        }
    }

    fn of(kind: EventKind, reason: Option<&str>, session: &Session, at: Timestamp) -> Self {
        Self {
            at,
            kind: kind.label().to_owned(),
            reason: reason.map(str::to_owned),
            issuer: Some(session.issuer.clone()),
            user: Some(session.user.clone()),
            session: Some(session.id.clone()),
            address: session.peer.clone(),
            left_out: 0,
        }
    }

    pub(crate) fn login(session: &Session) -> Self {
        Self::of(EventKind::Login, None, session, session.began)
    }

    pub(crate) fn ended(session: &Session, why: WhyEnded, at: Timestamp) -> Self {
        let reason = match why {
            WhyEnded::Operator => "operator",
            WhyEnded::MaxSessions => "max_sessions",
        };
        Self::of(EventKind::SessionEnded, Some(reason), session, at)
    }

    /// Records it, and forgets what is old.
    pub(crate) fn record(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare(
                "INSERT INTO events (at, kind, reason, issuer, user, session, address, left_out) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                to_millis(self.at),
                self.kind,
                self.reason,
                self.issuer,
                self.user,
                self.session,
                self.address,
                i64::try_from(self.left_out).unwrap_or(i64::MAX)
            ])?;
        // Numbers rise by one, so each refusal has its turn.
        let turn = connection.last_insert_rowid().saturating_sub(MOST_EVENTS);
        let [login, request] = [EventKind::LoginRefused, EventKind::RequestRefused].map(EventKind::label);
        connection
            .prepare("DELETE FROM events WHERE number = ?1 AND kind IN (?2, ?3)")?
            .execute(params![turn, login, request])?;
        connection
            .prepare(
                "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE at < ?1 ORDER BY at LIMIT ?2)",
            )?
            .execute(params![to_millis(before(self.at, RETENTION)), MOST_FORGOTTEN])?;
        Ok(())
    }
}

/// Which events to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only those since then.
    pub since: Option<Timestamp>,
    /// Only those of these kinds; of all kinds if this is empty.
    pub kinds: Vec<EventKind>,
    /// At most so many, the newest; `None` for all.
    pub limit: Option<u32>,
}

/// The events, the oldest first.
pub(crate) fn list(connection: &Connection, query: &EventQuery) -> rusqlite::Result<Vec<Event>> {
    let kinds: Vec<&str> = if query.kinds.is_empty() { &EventKind::ALL[..] } else { &query.kinds }
        .iter()
        .map(|kind| kind.label())
        .collect();
    let mut events: Vec<Event> = connection
        .prepare(
            "SELECT at, kind, reason, issuer, user, session, address, left_out FROM events \
             WHERE at >= ?1 AND kind IN (SELECT value FROM json_each(?2)) ORDER BY number DESC LIMIT ?3",
        )?
        .query_map(
            params![
                query.since.map_or(i64::MIN, to_millis),
                serde_json::to_string(&kinds).unwrap_or_default(),
                query.limit.map_or(-1, i64::from)
            ],
            read,
        )?
        .collect::<Result<_, _>>()?;
    events.reverse();
    Ok(events)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        at: from_millis(row.get(0)?),
        kind: row.get(1)?,
        reason: row.get(2)?,
        issuer: row.get(3)?,
        user: row.get(4)?,
        session: row.get(5)?,
        address: row.get(6)?,
        left_out: u64::try_from(row.get::<_, i64>(7)?).unwrap_or_default(),
    })
}
