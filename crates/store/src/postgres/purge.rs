//! Purges records, a day at a time where that is possible.
//!
//! Rows that are deleted one by one leave holes for the database to clean up. So on a busy store nothing is deleted at
//! first: the rows of a day stay until all their tokens have expired long enough, and then their table is truncated,
//! which costs nothing. On a quiet store, where it does not matter, rows are deleted as soon as they may be.
//!
//! None of this decides who redeems a token. Before rows go, or in the same transaction, the horizon moves over them, and
//! only over them. A token behind it is rejected, whether or not its row is still there.

use std::sync::Mutex;
use std::sync::PoisonError;

use countersign_core::to_millis;
use tokio::time::Instant;
use uuid::Uuid;

use super::fault::Failure;
use super::rows::{created_at, first_id_at, longest_life, unreadable};
use super::session::Session;
use super::sql::{DAY, Query, TABLES, Table};
use super::{StoreInner, work};

/// Up to so many rows that are found dead in one look are deleted one by one; more are left to the emptying of the table.
pub(super) const FEW: i64 = 10_000;

/// How many rows one look goes through.
const WINDOW: i64 = 20_000;

/// How many rows one statement deletes.
const SLICE: i64 = 1000;

/// After a table could not be emptied, because something had it locked, so many purges leave it alone.
const RESPITE: u32 = 10;

/// What one purge remembers for the next.
#[derive(Debug, Default)]
pub(super) struct PurgeState {
    tables: Mutex<[TablePurgeState; TABLES as usize]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TablePurgeState {
    /// Where the next look begins.
    from: Option<Uuid>,
    /// For how many purges the table is not emptied.
    respite: u32,
}

impl PurgeState {
    fn with<T>(&self, table: Table, change: impl FnOnce(&mut TablePurgeState) -> T) -> Option<T> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.get_mut(table.index()).map(change)
    }
}

impl StoreInner {
    /// Removes what expired before the cutoff. Returns how many rows.
    pub(super) async fn remove_expired(&self, cutoff: i64) -> Result<u64, Failure> {
        let mut removed = 0;
        for table in Table::all() {
            removed += self.remove_from(table, cutoff).await?;
        }
        Ok(removed)
    }

    async fn remove_from(&self, table: Table, cutoff: i64) -> Result<u64, Failure> {
        let newest =
            self.ask(work(move |session| Box::pin(async move { newest(session, table).await }))).await?;
        let Some(newest) = newest else { return Ok(0) };
        // A token dies no later than the longest life after it was made. So if no row is younger than that, seen from the
        // cutoff, every row expired before it.
        let first_live = first_id_at(cutoff.saturating_sub(longest_life()));
        if newest < first_live {
            return self.empty(table, first_live).await;
        }
        self.delete_from(table, cutoff).await
    }

    /// Empties a table all of whose rows are older than `first_live`.
    async fn empty(&self, table: Table, first_live: Uuid) -> Result<u64, Failure> {
        let is_left_alone = self.purged.with(table, |memory| {
            memory.respite = memory.respite.saturating_sub(1);
            memory.respite > 0
        });
        if is_left_alone == Some(true) {
            return Ok(0);
        }
        let emptied = self
            .ask(work(move |session| Box::pin(async move { empty(session, table, first_live).await })))
            .await;
        match emptied {
            Ok(rows) => {
                self.purged.with(table, |memory| *memory = TablePurgeState::default());
                Ok(rows)
            }
            Err(failure) if failure.is_contention() || failure.is_locked() => {
                tracing::info!(
                    %table,
                    reason = failure.reason(),
                    "a table whose tokens are all dead could not be emptied; retrying later"
                );
                self.purged.with(table, |memory| memory.respite = RESPITE);
                Ok(0)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Deletes dead rows one by one, if they are few or have to go because the ring of tables is shorter than they are
    /// kept.
    async fn delete_from(&self, table: Table, cutoff: i64) -> Result<u64, Failure> {
        let kept_for = to_millis(self.clock.now()).saturating_sub(cutoff);
        // A day's last token dies a day later, and one more day is to spare.
        let is_emptied_in_time = kept_for + longest_life() + 2 * DAY <= i64::from(TABLES) * DAY;
        let until = first_id_at(cutoff);
        let mut removed = 0;
        loop {
            let from = self.purged.with(table, |memory| memory.from).flatten().unwrap_or(Uuid::nil());
            let look = self
                .ask(work(move |session| {
                    Box::pin(async move { look(session, table, (from, until), cutoff).await })
                }))
                .await?;
            if look.dead > FEW && is_emptied_in_time {
                return Ok(removed);
            }
            if let Some((last, expires)) = look.last_dead {
                removed += self.delete_slices(table, from, last, expires).await?;
            }
            let is_whole = look.looked_at < WINDOW;
            self.purged.with(table, |memory| memory.from = look.last.filter(|_| !is_whole));
            if is_whole || is_emptied_in_time {
                return Ok(removed);
            }
        }
    }

    /// Moves the horizon over what was found dead up to an id, and deletes it.
    async fn delete_slices(&self, table: Table, from: Uuid, to: Uuid, expires: i64) -> Result<u64, Failure> {
        let created = created_at(to);
        self.ask(work(move |session| {
            Box::pin(async move {
                let script = session.sql().move_horizon(created, expires);
                session.script(&script, "stripe").await.map(drop)
            })
        }))
        .await?;
        let mut removed = 0;
        loop {
            let slice = self
                .ask(work(move |session| {
                    Box::pin(async move {
                        session.execute(Query::Delete(table), &[&from, &to, &expires, &SLICE, &created]).await
                    })
                }))
                .await?;
            removed += slice;
            if slice < SLICE.unsigned_abs() {
                return Ok(removed);
            }
        }
    }
}

async fn newest(session: &mut Session, table: Table) -> Result<Option<Uuid>, Failure> {
    let rows = session.query(Query::Newest(table), &[]).await?;
    let id = rows.first().map(|row| row.try_get(0)).transpose();
    id.map_err(|error| unreadable(&error, session.place()))
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
struct PurgeScan {
    dead: i64,
    looked_at: i64,
    last: Option<Uuid>,
    /// The last one that is dead, and the latest expiry of those that are.
    last_dead: Option<(Uuid, i64)>,
}

async fn look(
    session: &mut Session,
    table: Table,
    (from, until): (Uuid, Uuid),
    cutoff: i64,
) -> Result<PurgeScan, Failure> {
    let rows = session.query(Query::CountExpired(table), &[&from, &until, &cutoff, &WINDOW]).await?;
    let found = rows.first().map(|row| {
        let (dead, expires): (Option<Uuid>, Option<i64>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(PurgeScan {
            dead: row.try_get(0)?,
            looked_at: row.try_get(1)?,
            last: row.try_get(2)?,
            last_dead: dead.zip(expires),
        })
    });
    found
        .transpose()
        .map_err(|error: tokio_postgres::Error| unreadable(&error, session.place()))
        .map(|look| look.unwrap_or(PurgeScan { dead: 0, looked_at: 0, last: None, last_dead: None }))
}

/// Empties the table, unless another node has put a newer row there meanwhile. Returns how many rows were in it, which is an
/// estimate for a large table.
async fn empty(session: &mut Session, table: Table, first_live: Uuid) -> Result<u64, Failure> {
    // Nothing comes or goes any more, but for another node that does the same. Counting takes its time, so it comes before
    // the locks.
    let rows = session.query(Query::Count(table), &[]).await?;
    let count: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    session.begin().await?;
    let begin = session.sql().begin_truncate(table);
    let found = session.rows(&begin).await?;
    let value = |name: &str| {
        found.iter().find_map(|row| {
            let index = row.columns().iter().position(|column| column.name() == name)?;
            row.try_get(index).ok().flatten()
        })
    };
    let newest = value("newest").and_then(|id| id.parse::<Uuid>().ok());
    let clock = value("clock").and_then(|clock| clock.parse::<i64>().ok()).unwrap_or(0);
    // Only the database's clock decides that a token has expired.
    let first_live = first_live.min(first_id_at(clock.saturating_sub(longest_life())));
    let dead = newest.filter(|newest| *newest < first_live);
    // Without stripes to hold, the store does not serve.
    let has_watermarks = value("stripe").is_some();
    let Some(newest) = dead.filter(|_| has_watermarks) else {
        session.roll_back().await?;
        return Ok(0);
    };
    let truncate = session.sql().truncate(table, created_at(newest));
    session.rows(&truncate).await?;
    session.commit().await?;
    Ok(count.unwrap_or(0).unsigned_abs())
}

/// When a purge's requests are given up.
pub(super) fn patience() -> Instant {
    Instant::now() + std::time::Duration::from_mins(1)
}
