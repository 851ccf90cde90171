//! A database that is moved from or to, while servers may use it.
//!
//! One row of the table `copying` says whether the store serves. Something else stops the servers: a store that was
//! handed over has no rows in `lines`. Every batch locks one of them until it is committed, and inserts nothing without
//! one. So when the transaction that removes them commits, every batch is committed or will insert nothing, on any
//! server, and no server need be asked or stopped.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, Entropy, StoreError, StoredRing, from_millis, to_millis};
use jiff::Timestamp;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::calls::unavailable;
use super::fault::Failure;
use super::ring::{self, as_number};
use super::rows::{Watermarks, created_at, unreadable};
use super::schema::SchemaError;
use super::session::Session;
use super::sql::{MoveQuery, Query, STRIPES};
use super::{Job, PostgresOptions, PostgresUrl, StoreInner, no_watermarks, work};
use crate::backend::IfMissing;
use crate::error::OpenError;
use crate::moving::{Movable, MoveError, MoveId, fence_of_target};

/// A database that is moved from or to.
#[derive(Debug)]
pub struct MovablePostgres {
    core: Arc<StoreInner>,
}

impl MovablePostgres {
    /// The name of this store for both stores of a move, the same for every role.
    pub fn name(url: &PostgresUrl, options: &PostgresOptions) -> String {
        format!("{} (schema {})", url.database(), options.schema.name())
    }

    /// The store in this database. Brings its tables up to date.
    pub async fn open(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        if_missing: IfMissing,
    ) -> Result<Self, OpenError> {
        let core = StoreInner::new(url, options, clock, entropy)?;
        // A move serves no requests: if the database goes away the command fails, and no task has to wait for it.
        core.health.close();
        core.bring_up_without_writing(if_missing).await?;
        Ok(Self { core })
    }

    /// Makes a change in one transaction that is durable when this returns. The change is made again if the answer to
    /// its commit was lost.
    async fn change<T, F>(&self, change: F) -> Result<T, MoveError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> Job<'s, Result<T, MoveError>> + Send + Sync + 'static,
    {
        let change = Arc::new(change);
        let outcome = self.core.ask(work(move |session| {
            let change = Arc::clone(&change);
            Box::pin(async move {
                // A failure leaves a session whose transaction is open, and which is not used again.
                session.begin().await?;
                let outcome = change(session).await?;
                if outcome.is_ok() {
                    session.commit().await?;
                } else {
                    session.roll_back().await?;
                }
                Ok(outcome)
            })
        }));
        outcome.await.map_err(|failure| MoveError::from(unavailable(failure)))?
    }
}

const SERVES: i16 = 0;
const HANDED_OVER: i16 = 2;

/// The row of the table `copying`.
struct MoveRow {
    /// The store that this one was handed over to.
    handed_over_to: Option<String>,
    /// The move that changed the store last, and that may make it serve; empty after a move by an older version.
    id: String,
    /// Where the watermarks are while the store does not serve.
    watermarks: Option<Watermarks>,
}

impl MoveRow {
    /// Version 0.1 had a third state, 1, for the target of a copy that was not complete: its source is the store to serve
    /// from, as that of a target is now.
    async fn read(session: &mut Session, query: MoveQuery) -> Result<Self, Failure> {
        let rows = session.query(Query::Move(query), &[]).await?;
        let Some(row) = rows.first() else {
            return Err(Failure::Unreachable {
                reason: format!(
                    "{} does not say whether it serves: its table `copying` is empty; put a backup of the schema back, and \
                     move the fence",
                    session.place()
                ),
            });
        };
        let read = || -> Result<_, tokio_postgres::Error> {
            let peer = row.try_get::<_, Option<String>>(1)?.unwrap_or_default();
            let handed_over_to = (row.try_get::<_, i16>(0)? != SERVES).then_some(peer);
            let has_watermarks = row.try_get::<_, Option<i64>>(2)?.is_some();
            let watermarks = if has_watermarks { Some(Watermarks::read(row, 2)?) } else { None };
            let id = row.try_get::<_, Option<String>>(5)?.unwrap_or_default();
            Ok(Self { handed_over_to, id, watermarks })
        };
        read().map_err(|error| unreadable(&error, session.place()))
    }

    fn watermarks_put_away(&self, session: &Session) -> Result<Watermarks, Failure> {
        self.watermarks.ok_or_else(|| no_watermarks(session.place()))
    }
}

/// The store that this one was handed over to; `None`: a server may use it.
pub(super) async fn handed_over_to(session: &mut Session) -> Result<Option<String>, Failure> {
    match MoveRow::read(session, MoveQuery::Standing).await {
        Ok(standing) => Ok(standing.handed_over_to),
        // Tables of an older version, in which no store was ever handed over.
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE]) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Refuses a store that was handed over.
pub(super) async fn must_serve(session: &mut Session) -> Result<(), SchemaError> {
    let Some(to) = handed_over_to(session).await? else { return Ok(()) };
    let place = format!("{} (schema {})", session.place(), session.sql().schema().name());
    Err(SchemaError::Schema(OpenError::HandedOver { place, to }))
}

/// The lines of a store that does not serve.
pub(super) async fn watermarks_put_away(session: &mut Session) -> Result<Watermarks, Failure> {
    match MoveRow::read(session, MoveQuery::Standing).await {
        Ok(standing) => standing.watermarks_put_away(session),
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE]) => Err(no_watermarks(session.place())),
        Err(failure) => Err(failure),
    }
}

/// Locks the row, which is the first lock of each change, so that two moves do not meet half-way.
async fn lock(session: &mut Session) -> Result<MoveRow, Failure> {
    MoveRow::read(session, MoveQuery::LockStanding).await
}

async fn reserve(session: &mut Session, id: MoveId, from: &str) -> Result<Result<(), MoveError>, Failure> {
    match lock(session).await?.handed_over_to {
        Some(other) if other != from => return Ok(Err(MoveError::TargetHandedOver(other))),
        Some(_) => {}
        None => {
            // Asked before any lock is taken, too: to name a store that is in use must not hold it up.
            if is_used(session).await? {
                return Ok(Err(MoveError::TargetInUse));
            }
            withdraw(session).await?;
            if is_used(session).await? {
                return Ok(Err(MoveError::TargetInUse));
            }
        }
    }
    set_handed_over(session, id, from).await.map(Ok)
}

async fn hand_over(
    session: &mut Session,
    id: MoveId,
    to: &str,
    latest: Timestamp,
) -> Result<Result<Timestamp, MoveError>, Failure> {
    match lock(session).await?.handed_over_to {
        Some(other) if other != to => return Ok(Err(MoveError::Changed)),
        Some(_) => {}
        None => withdraw(session).await?,
    }
    set_handed_over(session, id, to).await?;
    let watermarks = lock(session).await?.watermarks_put_away(session)?;
    let rows = session.query(Query::Move(MoveQuery::Newest), &[]).await?;
    let newest = rows.first().map(|row| row.try_get::<_, Uuid>(0)).transpose();
    let newest = newest.map_err(|error| unreadable(&error, session.place()))?;
    let newest = newest.map(|id| from_millis(created_at(id)));
    Ok(fence_of_target(from_millis(watermarks.fence), watermarks.horizon(), newest, latest))
}

async fn take_over(
    session: &mut Session,
    id: MoveId,
    from: &str,
    fence: i64,
    ring: Option<&StoredRing>,
) -> Result<Result<(), MoveError>, Failure> {
    let row = lock(session).await?;
    match row.handed_over_to {
        Some(other) if other == from && row.id == id.to_string() => {}
        Some(_) => return Ok(Err(MoveError::Changed)),
        None => {
            let rows = session.query(Query::Watermarks, &[]).await?;
            let stands = rows.first().map(|row| row.try_get::<_, i64>(0)).transpose();
            let stands = stands.map_err(|error| unreadable(&error, session.place()))?;
            let is_done = stands.is_some_and(|stands| stands >= fence);
            return Ok(if is_done { Ok(()) } else { Err(MoveError::Changed) });
        }
    }
    let version = ring.map_or(0, |ring| as_number(ring.version));
    let by = ring.map(|ring| ring.unlocked_by.to_string());
    let sealed = ring.map(|ring| ring.sealed.as_slice());
    session.execute(Query::Move(MoveQuery::SetRing), &[&version, &by.as_deref(), &sealed]).await?;
    let stripes: Vec<i16> = (0..STRIPES).collect();
    session.execute(Query::Move(MoveQuery::Restore), &[&stripes, &fence]).await?;
    set_standing(session, SERVES, "", None).await.map(Ok)
}

async fn is_used(session: &mut Session) -> Result<bool, Failure> {
    let rows = session.query(Query::Move(MoveQuery::IsUsed), &[]).await?;
    let used = rows.first().map_or(Ok(true), |row| row.try_get(0));
    used.map_err(|error| unreadable(&error, session.place()))
}

/// Waits for the batches that are under way, and lets none begin any more.
async fn withdraw(session: &mut Session) -> Result<(), Failure> {
    let first = session.query(Query::Move(MoveQuery::LockFirstStripe), &[]).await?;
    if first.is_empty() {
        return Err(no_watermarks(session.place()));
    }
    session.execute(Query::Move(MoveQuery::KeepWatermarks), &[]).await?;
    session.execute(Query::Move(MoveQuery::Withdraw), &[]).await?;
    Ok(())
}

async fn set_handed_over(session: &mut Session, id: MoveId, to: &str) -> Result<(), Failure> {
    set_standing(session, HANDED_OVER, &id.to_string(), Some(to)).await
}

async fn set_standing(
    session: &mut Session,
    state: i16,
    id: &str,
    peer: Option<&str>,
) -> Result<(), Failure> {
    session.execute(Query::Move(MoveQuery::SetStanding), &[&state, &id, &peer]).await.map(drop)
}

#[async_trait]
impl Movable for MovablePostgres {
    async fn handed_over_to(&self) -> Result<Option<String>, StoreError> {
        self.core.ask(work(|session| Box::pin(handed_over_to(session)))).await.map_err(unavailable)
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.core.ask(work(|session| Box::pin(ring::read(session)))).await.map_err(unavailable)
    }

    async fn reserve(&self, id: MoveId, from: &str) -> Result<(), MoveError> {
        let from = from.to_owned();
        self.change(move |session| {
            let from = from.clone();
            Box::pin(async move { reserve(session, id, &from).await })
        })
        .await
    }

    async fn hand_over(&self, id: MoveId, to: &str, latest: Timestamp) -> Result<Timestamp, MoveError> {
        let to = to.to_owned();
        self.change(move |session| {
            let to = to.clone();
            Box::pin(async move { hand_over(session, id, &to, latest).await })
        })
        .await
    }

    async fn take_over(
        &self,
        id: MoveId,
        from: &str,
        fence: Timestamp,
        ring: Option<&StoredRing>,
    ) -> Result<(), MoveError> {
        let (from, fence, ring) = (from.to_owned(), to_millis(fence), ring.cloned());
        self.change(move |session| {
            let (from, ring) = (from.clone(), ring.clone());
            Box::pin(async move { take_over(session, id, &from, fence, ring.as_ref()).await })
        })
        .await
    }
}
