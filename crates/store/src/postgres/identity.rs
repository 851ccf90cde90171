//! Detects that the database is not the same one as before.
//!
//! A standby that takes over may lack the last commits of its primary, and so does a backup. It is unknown which tokens
//! were used in between. So the watermarks carry the identity of the database that they are in, and a batch records only
//! if that identity is the expected one. If it is not, the fence moves past every token issued so far, in the same
//! transaction that writes down the new identity. One node does it, and the others find it done.
//!
//! A single table can be emptied or replaced, too: by hand, by putting it back from a backup, or by a crash while it is
//! `UNLOGGED`. Each of these gives it another file, and so does `SET LOGGED` afterwards. The watermarks also carry the path of
//! each table's file, and a batch records only if that of its table is the expected one. A purge, which empties a table, writes
//! down the new path in its transaction. The path also tells a database from one that was made from it as its template.
//!
//! A node remembers the identity, too: a node that has seen the successor does not use the old primary again, in which
//! nobody has moved anything.

use std::sync::{Mutex, PoisonError};

use countersign_core::from_millis;
use countersign_core::handshake::CLOCK_SKEW;
use jiff::Timestamp;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::StoreInner;
use super::fault::Failure;
use super::session::Session;

/// What a node knows of the database's identity.
#[derive(Debug, Default)]
pub(super) struct Identity {
    known: Mutex<DatabaseIdentity>,
    /// The fence's new position after the database had changed, until it is reported.
    moved: Mutex<Vec<Timestamp>>,
}

/// The identity, and what tells in each batch that it is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DatabaseIdentity {
    /// `SYSTEM:TIMELINE:TABLE`, or `::TABLE` where the database does not tell the first two.
    name: String,
    /// Since when the server runs, in microseconds; 0 where it does not tell. A primary has one timeline for as long.
    pub(super) since: i64,
    /// The number of the table `lines`.
    pub(super) table: i64,
}

impl DatabaseIdentity {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the database tells which server it is of.
    pub(super) fn tells(&self) -> bool {
        !self.name.starts_with(':')
    }

    /// Whether nothing is known yet.
    fn is_unknown(&self) -> bool {
        self.name.is_empty()
    }

    /// The server's own identifier, and its timeline.
    fn server(&self) -> Option<(&str, u32)> {
        let mut parts = self.name.split(':');
        let (system, timeline) = (parts.next()?, parts.next()?);
        Some((system, u32::from_str_radix(timeline, 16).ok()?))
    }

    /// Whether this is the same server as it was before it, or another one in its place, took over.
    fn precedes(&self, other: &Self) -> bool {
        match (self.server(), other.server()) {
            (Some((system, timeline)), Some((other, later))) => system == other && timeline < later,
            _ => false,
        }
    }
}

impl Identity {
    pub(super) fn known(&self) -> DatabaseIdentity {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fences that were moved since this was asked last.
    pub(super) fn take_moved(&self) -> Vec<Timestamp> {
        std::mem::take(&mut self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses a server that another one has succeeded since, so that its successor is looked for at the other hosts.
    pub(super) async fn refuse_predecessor(&self, session: &mut Session) -> Result<(), Failure> {
        let known = self.known();
        if known.is_unknown() {
            return Ok(());
        }
        match look(session).await {
            Ok(Some(found)) if found.here.precedes(&known) => Err(succeeded(session)),
            // Tables that are not there are for others to notice.
            Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

fn succeeded(session: &Session) -> Failure {
    Failure::Unreachable {
        reason: format!(
            "{} has been succeeded by another server, which this one has used since: it may hold tokens for unused that are \
             not; stop it, or name its successor alone in the store's URL",
            session.place()
        ),
    }
}

impl StoreInner {
    /// Sees which database this is. If the watermarks were in another one, or a table in another file, moves the fence.
    pub(super) async fn recognize(&self, session: &mut Session) -> Result<(), Failure> {
        refuse_unlogged(session).await?;
        let Some(Found { tells, here, before, in_same_files }) = look(session).await? else {
            // A store that does not serve has no watermarks.
            return Ok(());
        };
        let known = self.identity.known();
        if here.precedes(&known) {
            session.is_not_the_one();
            return Err(succeeded(session));
        }
        if before.as_ref() != Some(&here.name) || !in_same_files {
            let skew = i64::try_from(CLOCK_SKEW.as_millis() + 1).unwrap_or(i64::MAX);
            let script = session.sql().recognize(tells, skew);
            let moved = session.script(&script, "moved").await?;
            if let Some(fence) = moved.into_iter().flatten().next().and_then(|fence| fence.parse().ok()) {
                let fence = from_millis(fence);
                tracing::error!(
                    database = session.place(), %fence, was = before, is = here.name(),
                    "the database or a table in it is another one than it was (a standby took over, a backup was put back, or a \
                     table was emptied, replaced, rewritten or unlogged), and may have forgotten which tokens were used last: \
                     every token issued so far is refused"
                );
                self.identity.moved.lock().unwrap_or_else(PoisonError::into_inner).push(fence);
            }
        }
        if here != known {
            tracing::debug!(identity = here.name(), "this is the database");
            *self.identity.known.lock().unwrap_or_else(PoisonError::into_inner) = here;
        }
        Ok(())
    }
}

/// Refuses tables that are unlogged (`ALTER TABLE … SET UNLOGGED`): after a crash the database empties them, and used tokens
/// would be good again. Batches record nothing in one, because its file is another one.
async fn refuse_unlogged(session: &mut Session) -> Result<(), Failure> {
    let unsound = unsound_tables(session).await?;
    let Some((table, what)) = unsound.into_iter().find(|(_, what)| what == "unlogged") else { return Ok(()) };
    let (place, schema) = (session.place(), session.sql().schema().name());
    Err(Failure::Unreachable {
        reason: format!(
            "the table {schema}.{table} in {place} is {what}: when the database crashes, it empties the table, and used tokens \
             would be good again; run `ALTER TABLE {schema}.{table} SET LOGGED`, and it goes on by itself"
        ),
    })
}

/// The tables that cannot keep what they are given, and what is wrong with them.
pub(super) async fn unsound_tables(session: &mut Session) -> Result<Vec<(String, String)>, Failure> {
    let text = session.sql().unsound_tables();
    let rows = session.rows(&text).await?;
    let column = |row: &SimpleQueryRow, at| row.try_get(at).ok().flatten().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (column(row, 0), column(row, 1))).collect())
}

/// Which database the watermarks are in.
struct Found {
    /// Whether it tells which server it is of.
    tells: bool,
    here: DatabaseIdentity,
    /// The name of the one in which they were.
    before: Option<String>,
    /// Whether each table of endings is in the file that it was in.
    in_same_files: bool,
}

/// Which database the watermarks are in; `None`: there are no watermarks, or it is a standby.
async fn look(session: &mut Session) -> Result<Option<Found>, Failure> {
    for tells in [true, false] {
        let text = session.sql().identity(tells);
        let rows = match session.rows(&text).await {
            Ok(rows) => rows,
            // Not every database has these functions, and not every role may ask.
            Err(failure)
                if tells
                    && failure.is(&[
                        &SqlState::UNDEFINED_FUNCTION,
                        &SqlState::INVALID_SCHEMA_NAME,
                        &SqlState::INSUFFICIENT_PRIVILEGE,
                        &SqlState::FEATURE_NOT_SUPPORTED,
                    ]) =>
            {
                continue;
            }
            // A standby, which has no present position of its own; a write is refused with that reason.
            Err(failure) if failure.is(&[&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE]) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let column =
            |name: &str| rows.first().and_then(|row| row.try_get(name).ok().flatten()).map(str::to_owned);
        let number = |name: &str| column(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let here = column("now_in").map(|name| DatabaseIdentity {
            name,
            since: number("since"),
            table: number("in_table"),
        });
        let (before, in_same_files) = (column("was_in"), column("in_same_files").is_some());
        return Ok(here.map(|here| Found { tells, here, before, in_same_files }));
    }
    Ok(None)
}

/// Whether the database tells which server it is of; `None`: there are no watermarks.
pub(super) async fn is_told(session: &mut Session) -> Result<Option<bool>, Failure> {
    Ok(look(session).await?.map(|found| found.tells))
}

#[cfg(test)]
mod tests {
    use super::DatabaseIdentity;

    #[test]
    fn earlier_timeline_precedes_a_later_one() {
        let known = |text: &str| DatabaseIdentity { name: text.to_owned(), ..DatabaseIdentity::default() };
        assert!(known("7:00000001:5").precedes(&known("7:0000000A:5")));
        assert!(!known("7:0000000A:5").precedes(&known("7:00000009:5")));
        assert!(!known("7:00000001:5").precedes(&known("7:00000001:6")));
        assert!(!known("7:00000001:5").precedes(&known("8:00000002:5")), "another cluster");
        assert!(!known("::5").precedes(&known("7:00000002:5")) && !known("::5").tells());
        assert!(!known("7:00000001:5").precedes(&known("")));
    }
}
