//! The store of many servers: one PostgreSQL database.
//!
//! It relies on three things: a unique key on the token's id decides who redeems it, on any node; commits are on the
//! server's disk before they return; row locks last until the commit.
//!
//! Where to look first: `sql.rs` has every statement, `schema.rs` the tables. `batch_workers.rs` lets consumptions share a
//! commit, `batch.rs` recovers a commit whose answer was lost, and `purge.rs` empties the table of a day.
//!
//! # Tables
//!
//! The endings are in eight tables, by the day in the token's id. Both watermarks are in the table `lines`, in 64 equal rows.
//! A batch locks one row until it is committed, and moving a watermark locks them all. So a watermark never moves while a
//! batch is under way that has read it, and batches do not wait for each other.
//!
//! # When the database is away
//!
//! The first call that fails marks the database as away. Until it is back, calls fail at once, and one task tries to connect.

mod backend;
mod batch;
mod batch_workers;
mod calls;
mod connector;
mod environment;
mod examine;
mod fault;
mod health;
mod hosts;
mod identity;
mod moving;
mod node_registry;
mod passwords;
mod purge;
mod recent;
mod ring;
mod rows;
mod schema;
mod session;
mod settings;
mod sql;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, Entropy, StoreError, StoreStats, to_millis};
use tokio::time::{Instant, timeout, timeout_at};

pub use self::backend::PostgresDatabase;
pub use self::environment::LibpqEnvironment;
pub use self::examine::{DatabaseExamination, examine};
pub use self::moving::MovablePostgres;
pub use self::settings::{DEFAULT_SCHEMA, PostgresOptions, PostgresUrl, SchemaName};

/// What `docs/limits.md` says of this store.
pub mod limits {
    pub use super::batch::{BATCH_PATIENCE, STATEMENT_PATIENCE};
    pub use super::batch_workers::{BATCH, BATCH_WORKERS};
    pub use super::settings::{CONNECT, CONNECT_TO_ONE};
    pub use super::{PATIENCE, READERS};
}

use self::batch::BatchLimits;
use self::batch_workers::{BATCH_WORKERS, BatchWorkers, QUEUE};
use self::calls::stats;
use self::connector::{Connector, Pool, pool, take, take_at_length};
use self::fault::Failure;
use self::health::Health;
use self::identity::Identity;
use self::purge::PurgeState;
use self::rows::{BatchArguments, BatchColumns};
use self::schema::{MigrationTime, SchemaError};
use self::session::Session;
use self::sql::{Query, STRIPES, Table};
use crate::backend::IfMissing;
use crate::counts::Counts;
use crate::error::OpenError;

/// How many connections are for everything but consuming.
pub const READERS: usize = 3;

/// How long a look-up, or another call on behalf of an operator, is tried.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long looking after the tables may take. Nodes that come at the same moment wait for each other.
const MIGRATION: Duration = Duration::from_mins(1);

/// How often a node checks whether the database is back.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A store in a PostgreSQL database. See the [module](self).
///
/// Dropping it without [`close`](countersign_core::TokenStore::close) loses nothing that was answered.
pub struct PostgresStore {
    core: Arc<StoreInner>,
    batch_workers: BatchWorkers,
}

/// What the batch workers and the rest share.
struct StoreInner {
    /// Where the database is, for people.
    place: Arc<str>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    writers: Pool,
    readers: Pool,
    health: Health,
    identity: Arc<Identity>,
    limits: BatchLimits,
    purged: PurgeState,
    /// How much has been written, and when last.
    counts: Counts,
    /// Held by who counts the records.
    counting: tokio::sync::Mutex<()>,
    /// Takes a lost answer for a good one.
    #[cfg(test)]
    guesses: std::sync::atomic::AtomicBool,
    /// When a store is made that goes by a test's clock.
    #[cfg(test)]
    goes_by: Option<MigrationTime>,
    me: std::sync::Weak<Self>,
}

/// Work with a session.
type Job<'s, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 's>>;

/// What does it, again if need be.
type Work<T> = Box<dyn for<'s> Fn(&'s mut Session) -> Job<'s, T> + Send + Sync>;

fn work<T, F>(does: F) -> Work<T>
where
    F: for<'s> Fn(&'s mut Session) -> Job<'s, T> + Send + Sync + 'static,
{
    Box::new(does)
}

impl PostgresStore {
    /// Opens the store, and makes or upgrades its tables if that is needed and allowed.
    pub async fn open(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        Self::open_or(url, options, clock, entropy, IfMissing::Make).await
    }

    /// The same, with a choice about tables that are not there.
    pub async fn open_or(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        if_missing: IfMissing,
    ) -> Result<Self, OpenError> {
        let core = StoreInner::new(url, options, clock, entropy)?;
        core.bring_up(if_missing).await?;
        let batch_workers = BatchWorkers::start(&core, BATCH_WORKERS, QUEUE);
        Ok(Self { core, batch_workers })
    }

    fn usable(&self) -> Result<(), StoreError> {
        self.core.health.trouble().map_or(Ok(()), |reason| Err(StoreError::unavailable(reason)))
    }
}

/// Makes or upgrades the tables, and lets the role `grant_to` serve from them. Returns the versions before and after.
pub async fn migrate(
    url: &PostgresUrl,
    options: &PostgresOptions,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    grant_to: Option<&str>,
) -> Result<(u32, u32), OpenError> {
    let core = StoreInner::new(url, options, clock, entropy)?;
    let before = core.bring_up_without_writing(IfMissing::Make).await?;
    if let Some(role) = grant_to {
        let mut session = take_at_length(&core.readers, &core.place).await.map_err(SchemaError::from)?;
        schema::grant(&mut session, role).await.map_err(SchemaError::from)?;
    }
    Ok((before, schema::newest()))
}

/// What is in the store, also while servers use it; changes nothing.
pub async fn inspect(
    url: &PostgresUrl,
    options: &PostgresOptions,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<StoreStats, OpenError> {
    let core = StoreInner::new(url, options, clock, entropy)?;
    let mut session = take_at_length(&core.readers, &core.place).await.map_err(SchemaError::from)?;
    schema::recognize(&mut session).await?;
    Ok(stats(&mut session).await.map_err(SchemaError::from)?)
}

impl From<SchemaError> for OpenError {
    fn from(trouble: SchemaError) -> Self {
        match trouble {
            SchemaError::Database(failure) => Self::Unusable(failure.into_reason()),
            SchemaError::Schema(error) => error,
        }
    }
}

impl StoreInner {
    fn new(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, OpenError> {
        Self::with_limits(url, options, clock, entropy, BatchLimits::default())
    }

    fn with_limits(
        url: &PostgresUrl,
        options: &PostgresOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        limits: BatchLimits,
    ) -> Result<Arc<Self>, OpenError> {
        let place: Arc<str> = url.to_string().into();
        let identity = Arc::new(Identity::default());
        let connector = Connector::new(url, options, &entropy, Arc::clone(&identity))?;
        let writers = pool(&connector, BATCH_WORKERS + 1, false)?;
        let readers = pool(&connector, READERS, true)?;
        #[cfg(test)]
        let goes_by = (!options.made_by_the_database).then(|| {
            let now = to_millis(clock.now());
            MigrationTime { now, fence: now }
        });
        Ok(Arc::new_cyclic(|me| Self {
            place,
            clock,
            entropy,
            writers,
            readers,
            health: Health::default(),
            identity,
            limits,
            purged: PurgeState::default(),
            counts: Counts::default(),
            counting: tokio::sync::Mutex::default(),
            #[cfg(test)]
            guesses: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            goes_by,
            me: me.clone(),
        }))
    }

    /// Looks after the tables, then sees whether a server may use the store and whether a token could be consumed.
    async fn bring_up(&self, if_missing: IfMissing) -> Result<u32, SchemaError> {
        let before = self.bring_up_without_writing(if_missing).await?;
        let mut session = take_at_length(&self.writers, &self.place).await?;
        let tried = timeout(PATIENCE, async {
            moving::must_serve(&mut session).await?;
            self.recognize(&mut session).await?;
            self.try_out(&mut session).await?;
            Ok(before)
        });
        tried.await.unwrap_or_else(|_| Err(session.gave_no_answer().into()))
    }

    async fn bring_up_without_writing(&self, if_missing: IfMissing) -> Result<u32, SchemaError> {
        let mut session = take_at_length(&self.readers, &self.place).await?;
        let made = timeout(MIGRATION, async {
            let moment = MigrationTime::of(&mut session).await?;
            #[cfg(test)]
            let moment = self.goes_by.unwrap_or(moment);
            schema::bring_up(&mut session, if_missing, moment).await
        });
        made.await.unwrap_or_else(|_| Err(session.gave_no_answer().into()))
    }

    /// Sends an empty batch, which needs the same rights as a full one, and writes something.
    async fn try_out(&self, session: &mut Session) -> Result<(), Failure> {
        let table = Table::at(to_millis(self.clock.now()));
        let known = self.identity.known();
        let columns = BatchColumns::default();
        let arguments = BatchArguments { nonce: 0, group: 0, known: &known, ring: 0, columns: &columns };
        session.record(table, &arguments).await?;
        self.probe(session).await
    }

    async fn probe(&self, session: &mut Session) -> Result<(), Failure> {
        let now = to_millis(self.clock.now());
        let stripe = i16::try_from(now.rem_euclid(STRIPES.into())).unwrap_or(0);
        if session.execute(Query::Probe, &[&stripe, &now]).await? == 0 {
            return Err(no_watermarks(&self.place));
        }
        self.counts.has_written(now);
        Ok(())
    }

    /// Remembers what a failure says about the database.
    fn note(&self, failure: &Failure) {
        if failure.is_contention() || failure.is_locked() {
            return;
        }
        self.counts.forget_written();
        if matches!(failure, Failure::Lost { .. }) || self.health.is_closed() {
            // The connection broke. Whether the database is away is seen when the next one is made.
            return;
        }
        if self.health.went(failure.reason()) {
            // A server that became a standby keeps its connections: only new ones find the one that takes writes.
            self.writers.retain(|_, _| false);
            self.readers.retain(|_, _| false);
            tokio::spawn(look_for(self.me.clone()));
        }
    }

    /// Does something that may be done twice, on a connection that is not for consuming.
    async fn ask<T: Send + 'static>(&self, work: Work<T>) -> Result<T, Failure> {
        self.ask_until(work, purge::patience()).await
    }

    async fn ask_until<T: Send + 'static>(&self, work: Work<T>, deadline: Instant) -> Result<T, Failure> {
        let mut pause = Duration::from_millis(20);
        loop {
            let outcome = match take(&self.readers, deadline, &self.place).await {
                Ok(mut session) => match timeout_at(deadline, work(&mut session)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(session.gave_no_answer()),
                },
                Err(failure) => Err(failure),
            };
            let failure = match outcome {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Unreachable { .. }) {
                self.note(&failure);
            }
            let again = failure.is_contention() || matches!(failure, Failure::Lost { .. });
            if !again || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// Tries to reach the database until it is there and usable.
async fn look_for(core: std::sync::Weak<StoreInner>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let Some(core) = core.upgrade() else { return };
        if core.health.is_closed() {
            return;
        }
        match core.bring_up(IfMissing::Make).await {
            Ok(_) => return core.health.returned(),
            Err(trouble) => {
                core.health.went(&OpenError::from(trouble).to_string());
            }
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl fmt::Debug for StoreInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("place", &self.place).finish_non_exhaustive()
    }
}

fn no_watermarks(place: &str) -> Failure {
    Failure::Unreachable {
        reason: format!(
            "{place} ends no tokens' lives: it was handed over to another store, or has lost its table `lines`; \
              `countersign doctor` says which, and what to do"
        ),
    }
}
