//! A database as one end of a copy.
//!
//! Whether the store serves is one row of the table `copying`. What stops the nodes is something else: a store that does
//! not serve has no rows in `lines`. Every batch locks one of them until it is committed, and inserts nothing without one.
//! So when the transaction that removes them commits, every batch is committed or will insert nothing, on whatever node,
//! and no node need be asked or stopped.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, Entropy, Horizon, StoreError, StoredRing, TokenId, from_millis, to_millis};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::calls::unavailable;
use super::connector::take_at_length;
use super::fault::Failure;
use super::ring::{self, as_number};
use super::rows::{Columns, Lines as Millis, Token, read_ending, unreadable, uuid};
use super::schema::{self, Change as SchemaChange, Trouble};
use super::session::Session;
use super::sql::{CopyQuery, Query, STRIPES, Table};
use super::{Core, PostgresOptions, PostgresUrl, no_lines, work};
use crate::OpenError;
use crate::copy::{CopyEnd, CopyError, CopyId, CopyState, Lines, Record};

/// A database as one end of a copy.
pub struct PostgresCopy {
    core: Arc<Core>,
}

impl fmt::Debug for PostgresCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresCopy").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl PostgresCopy {
    /// What the store is called in both ends of a copy, whatever role asks for it.
    pub fn name(url: &PostgresUrl, options: &PostgresOptions) -> String {
        format!("{} (schema {})", url.database(), options.schema.name())
    }

    /// The store in this database, to read from, also while servers use it.
    pub async fn reading(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let copy = Self::new(url, options, clock, entropy)?;
        let mut session =
            take_at_length(&copy.core.readers, &copy.core.place).await.map_err(Trouble::from)?;
        schema::recognize(&mut session).await?;
        drop(session);
        Ok(copy)
    }

    /// The same, to change it: makes its tables if `make` says so, and brings them up to date.
    pub async fn owning(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        make: bool,
    ) -> Result<Self, OpenError> {
        let copy = Self::new(url, options, clock, entropy)?;
        let change = if make { SchemaChange::Make } else { SchemaChange::Upgrade };
        copy.core.bring_up_without_writing(change).await?;
        Ok(copy)
    }

    fn new(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let core = Core::new(url, options, clock, entropy)?;
        // A copy serves nobody: if the database goes away the command fails, and nobody has to look for it.
        core.health.close();
        Ok(Self { core })
    }

    /// Makes a change in one transaction that is durable when this returns.
    async fn change(&self, copy: &CopyId, change: Change) -> Result<bool, CopyError> {
        let (copy, change) = (copy.clone(), Arc::new(change));
        let outcome = self.core.ask(work(move |session| {
            let (copy, change) = (copy.clone(), Arc::clone(&change));
            Box::pin(async move { in_transaction(session, &copy, &change).await })
        }));
        outcome.await.map_err(|failure| CopyError::from(unavailable(failure)))?
    }
}

const SERVING: i16 = 0;
const RECEIVING: i16 = 1;
const HANDED_OVER: i16 = 2;

/// The row of the table `copying`.
struct Standing {
    state: CopyState,
    /// Where the lines are while the store does not serve.
    lines: Option<Millis>,
}

impl Standing {
    async fn read(session: &mut Session, query: Query) -> Result<Self, Failure> {
        let rows = session.query(query, &[]).await?;
        let read = rows.first().map(Self::of_row).transpose();
        read.map_err(|error| unreadable(&error, session.place()))?.flatten().ok_or_else(|| {
            Failure::Unreachable {
                reason: format!(
                    "{} does not say whether it serves: its table `copying` is damaged; put a backup of the schema back, \
                     and move the fence",
                    session.place()
                ),
            }
        })
    }

    fn of_row(row: &Row) -> Result<Option<Self>, tokio_postgres::Error> {
        let copy = row.try_get::<_, Option<String>>(1)?.map(CopyId::from_text);
        let peer = row.try_get::<_, Option<String>>(2)?.unwrap_or_default();
        let state = match (row.try_get::<_, i16>(0)?, copy) {
            (SERVING, made_by) => CopyState::Serving { made_by },
            (RECEIVING, Some(copy)) => CopyState::Receiving { copy, from: peer },
            (HANDED_OVER, Some(copy)) => CopyState::HandedOver { copy, to: peer },
            _ => return Ok(None),
        };
        let lines = match row.try_get::<_, Option<i64>>(3)? {
            Some(_) => Some(Millis::read(row, 3)?),
            None => None,
        };
        Ok(Some(Self { state, lines }))
    }
}

/// Whether a server may use the store.
pub(super) async fn state(session: &mut Session) -> Result<CopyState, Failure> {
    match Standing::read(session, Query::Copy(CopyQuery::Copying)).await {
        Ok(standing) => Ok(standing.state),
        // Tables that a node of an older version uses know of no copies.
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE]) => Ok(CopyState::Serving { made_by: None }),
        Err(failure) => Err(failure),
    }
}

/// Refuses a store that a copy has a hand on.
pub(super) async fn must_serve(session: &mut Session) -> Result<(), Trouble> {
    let state = state(session).await?;
    let place = format!("{} (schema {})", session.place(), session.sql().schema().name());
    match state {
        CopyState::Serving { .. } => Ok(()),
        CopyState::Receiving { from, .. } => Err(Trouble::Schema(OpenError::Incomplete { place, from })),
        CopyState::HandedOver { to, .. } => Err(Trouble::Schema(OpenError::HandedOver { place, to })),
    }
}

/// The lines of a store that does not serve.
pub(super) async fn lines_put_away(session: &mut Session) -> Result<Millis, Failure> {
    match Standing::read(session, Query::Copy(CopyQuery::Copying)).await {
        Ok(Standing { lines: Some(lines), .. }) => Ok(lines),
        Ok(_) => Err(no_lines(session.place())),
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE]) => Err(no_lines(session.place())),
        Err(failure) => Err(failure),
    }
}

async fn lines(session: &mut Session) -> Result<Millis, Failure> {
    let rows = session.query(Query::Lines, &[]).await?;
    match rows.first() {
        Some(row) => {
            let read = || Millis::read(row, 0);
            read().map_err(|error: tokio_postgres::Error| unreadable(&error, session.place()))
        }
        None => lines_put_away(session).await,
    }
}

/// A step of a copy that changes the store.
enum Change {
    Receive { from: String },
    Replace { after: Uuid, until: Uuid, records: Vec<Record> },
    SetLines(Lines),
    SetRing(Option<StoredRing>),
    HandOver { to: String },
    Serve,
}

/// What a step came to, short of a failure of the database: whether it was made.
type Outcome = Result<bool, CopyError>;

async fn in_transaction(session: &mut Session, copy: &CopyId, change: &Change) -> Result<Outcome, Failure> {
    session.begin().await?;
    let outcome = carry_out(session, copy, change).await;
    // A failure leaves a session whose transaction is open, and which is not used again.
    let outcome = outcome?;
    if outcome == Ok(true) {
        session.commit().await?;
    } else {
        session.roll_back().await?;
    }
    Ok(outcome)
}

/// Each step may be made again, if the answer to its commit was lost.
async fn carry_out(session: &mut Session, copy: &CopyId, change: &Change) -> Result<Outcome, Failure> {
    // The first lock of each step, so that two copies do not meet half-way.
    let state = Standing::read(session, Query::Copy(CopyQuery::LockCopying)).await?.state;
    let is_mine = |other: &CopyId| other == copy;
    match (change, state) {
        (Change::Receive { .. }, CopyState::Receiving { copy: other, .. }) => Ok(Ok(is_mine(&other))),
        (Change::Receive { from }, CopyState::Serving { .. }) => {
            // Asked before any lock is taken too: to name a store that is in use must not hold it up.
            if is_used(session).await? {
                return Ok(Ok(false));
            }
            withdraw(session).await?;
            if is_used(session).await? {
                return Ok(Ok(false));
            }
            set_state(session, RECEIVING, copy, Some(from)).await
        }
        (Change::Receive { from }, CopyState::HandedOver { .. }) => {
            session.execute(Query::Copy(CopyQuery::RemoveAll), &[]).await?;
            session.execute(Query::Copy(CopyQuery::ForgetEveryNode), &[]).await?;
            set_state(session, RECEIVING, copy, Some(from)).await
        }
        (Change::HandOver { to }, CopyState::Serving { .. }) => {
            withdraw(session).await?;
            set_state(session, HANDED_OVER, copy, Some(to)).await
        }
        (Change::HandOver { .. }, CopyState::HandedOver { copy: other, .. }) if is_mine(&other) => {
            Ok(Ok(true))
        }
        (Change::Serve, CopyState::Serving { made_by: Some(other) }) if is_mine(&other) => Ok(Ok(true)),
        (Change::Serve, CopyState::Receiving { copy: other, .. }) if is_mine(&other) => {
            let stripes: Vec<i16> = (0..STRIPES).collect();
            session.execute(Query::Copy(CopyQuery::Restore), &[&stripes]).await?;
            set_state(session, SERVING, copy, None).await
        }
        (Change::SetLines(lines), CopyState::Receiving { copy: other, .. }) if is_mine(&other) => {
            let Horizon { created, expires } = lines.horizon;
            let (fence, created, expires) = (to_millis(lines.fence), to_millis(created), to_millis(expires));
            session.execute(Query::Copy(CopyQuery::SetLines), &[&fence, &created, &expires]).await?;
            Ok(Ok(true))
        }
        (Change::SetRing(ring), CopyState::Receiving { copy: other, .. }) if is_mine(&other) => {
            let version = ring.as_ref().map_or(0, |ring| as_number(ring.version));
            let by = ring.as_ref().map(|ring| ring.unlocked_by.to_string());
            let sealed = ring.as_ref().map(|ring| ring.sealed.as_slice());
            session.execute(Query::Copy(CopyQuery::SetRing), &[&version, &by.as_ref(), &sealed]).await?;
            Ok(Ok(true))
        }
        (Change::Replace { after, until, records }, CopyState::Receiving { copy: other, .. })
            if is_mine(&other) =>
        {
            replace(session, (*after, *until), records).await
        }
        _ => Ok(Err(CopyError::Changed)),
    }
}

async fn is_used(session: &mut Session) -> Result<bool, Failure> {
    let rows = session.query(Query::Copy(CopyQuery::IsUsed), &[]).await?;
    let used = rows.first().map_or(Ok(true), |row| row.try_get(0));
    used.map_err(|error| unreadable(&error, session.place()))
}

/// Waits for the batches that are under way, and lets none begin any more.
async fn withdraw(session: &mut Session) -> Result<(), Failure> {
    let first = session.query(Query::Copy(CopyQuery::LockFirstLine), &[]).await?;
    if first.is_empty() {
        return Err(no_lines(session.place()));
    }
    session.execute(Query::Copy(CopyQuery::KeepLines), &[]).await?;
    session.execute(Query::Copy(CopyQuery::Withdraw), &[]).await?;
    Ok(())
}

async fn set_state(
    session: &mut Session,
    state: i16,
    copy: &CopyId,
    peer: Option<&String>,
) -> Result<Outcome, Failure> {
    session.execute(Query::Copy(CopyQuery::SetCopying), &[&state, &copy.as_str(), &peer]).await?;
    Ok(Ok(true))
}

fn read_record(row: &Row) -> Result<Record, tokio_postgres::Error> {
    let id = TokenId::from_bytes(row.try_get::<_, Uuid>(4)?.into_bytes());
    Ok(Record { id, expires: from_millis(row.try_get(5)?), ending: read_ending(row, 0)? })
}

fn read_records(rows: &[Row], session: &Session) -> Result<Vec<Record>, Failure> {
    let records = rows.iter().map(read_record).collect::<Result<_, _>>();
    records.map_err(|error| unreadable(&error, session.place()))
}

async fn replace(
    session: &mut Session,
    (after, until): (Uuid, Uuid),
    records: &[Record],
) -> Result<Outcome, Failure> {
    let rows = session.query(Query::Copy(CopyQuery::Range), &[&after, &until]).await?;
    let there: HashMap<TokenId, Record> =
        read_records(&rows, session)?.into_iter().map(|record| (record.id, record)).collect();
    let wanted: HashSet<TokenId> = records.iter().map(|record| record.id).collect();
    let mut gone: HashMap<Table, Vec<Uuid>> = HashMap::new();
    for id in there.keys().filter(|id| !wanted.contains(id)) {
        gone.entry(Table::of(*id)).or_default().push(uuid(*id));
    }
    let mut new: HashMap<Table, Columns> = HashMap::new();
    for record in records {
        match there.get(&record.id) {
            Some(known) if known == record => {}
            Some(_) => return Ok(Err(CopyError::Conflict(record.id))),
            None => {
                let token = Token {
                    id: record.id,
                    created: to_millis(record.id.created()),
                    expires: to_millis(record.expires),
                    ring: 0,
                };
                new.entry(token.table()).or_default().push(token, &record.ending);
            }
        }
    }
    for (table, ids) in gone {
        session.execute(Query::Copy(CopyQuery::Remove(table)), &[&ids]).await?;
    }
    for (table, Columns { ids, expires, ended, kinds, peers, retry_keys, .. }) in new {
        session
            .execute(
                Query::Copy(CopyQuery::Insert(table)),
                &[&ids, &expires, &ended, &kinds, &peers, &retry_keys],
            )
            .await?;
    }
    Ok(Ok(true))
}

#[async_trait]
impl CopyEnd for PostgresCopy {
    async fn state(&self) -> Result<CopyState, StoreError> {
        self.core.ask(work(|session| Box::pin(state(session)))).await.map_err(unavailable)
    }

    async fn lines(&self) -> Result<Lines, StoreError> {
        let lines = self.core.ask(work(|session| Box::pin(lines(session)))).await.map_err(unavailable)?;
        Ok(Lines { fence: from_millis(lines.fence), horizon: lines.horizon() })
    }

    async fn records_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        let after = after.map_or(Uuid::nil(), uuid);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let page = self.core.ask(work(move |session| {
            Box::pin(async move {
                let rows = session.query(Query::Copy(CopyQuery::Page), &[&after, &limit]).await?;
                read_records(&rows, session)
            })
        }));
        page.await.map_err(unavailable)
    }

    async fn last_id(&self) -> Result<Option<TokenId>, StoreError> {
        let last = self.core.ask(work(|session| {
            Box::pin(async move {
                let rows = session.query(Query::Copy(CopyQuery::Last), &[]).await?;
                let id = rows.first().map(|row| row.try_get::<_, Uuid>(0)).transpose();
                id.map_err(|error| unreadable(&error, session.place()))
            })
        }));
        Ok(last.await.map_err(unavailable)?.map(|id| TokenId::from_bytes(id.into_bytes())))
    }

    async fn receive(&self, copy: &CopyId, from: &str) -> Result<bool, CopyError> {
        self.change(copy, Change::Receive { from: from.to_owned() }).await
    }

    async fn replace(
        &self,
        copy: &CopyId,
        after: Option<TokenId>,
        until: Option<TokenId>,
        records: &[Record],
    ) -> Result<(), CopyError> {
        let (after, until) = (after.map_or(Uuid::nil(), uuid), until.map_or(Uuid::max(), uuid));
        self.change(copy, Change::Replace { after, until, records: records.to_vec() }).await.map(drop)
    }

    async fn set_lines(&self, copy: &CopyId, lines: Lines) -> Result<(), CopyError> {
        self.change(copy, Change::SetLines(lines)).await.map(drop)
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.core.ask(work(|session| Box::pin(ring::read(session)))).await.map_err(unavailable)
    }

    async fn set_ring(&self, copy: &CopyId, ring: Option<&StoredRing>) -> Result<(), CopyError> {
        self.change(copy, Change::SetRing(ring.cloned())).await.map(drop)
    }

    async fn hand_over(&self, copy: &CopyId, to: &str) -> Result<(), CopyError> {
        self.change(copy, Change::HandOver { to: to.to_owned() }).await.map(drop)
    }

    async fn serve(&self, copy: &CopyId) -> Result<(), CopyError> {
        self.change(copy, Change::Serve).await.map(drop)
    }
}
