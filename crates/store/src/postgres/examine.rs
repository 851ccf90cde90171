//! Examines the database for an operator: its contents, and whether it could lose commits.

use std::sync::Arc;

use countersign_core::{Clock, Entropy, NodeList, StoreStats, StoreTimes, StoredRing};

use super::calls::{stats, times};
use super::connector::take_at_length;
use super::schema::SchemaError;
use super::session::Session;
use super::{PostgresOptions, PostgresUrl, StoreInner, identity, moving, node_registry, ring, schema, sql};
use crate::error::OpenError;

/// What a look into the database finds.
#[derive(Clone, Debug)]
pub struct DatabaseExamination {
    /// How much is in the store.
    pub stats: StoreStats,
    /// The store that it was handed over to; `None`: a server may use it.
    pub handed_over_to: Option<String>,
    /// Which servers use it.
    pub node_list: NodeList,
    /// The key ring that it keeps, locked.
    pub ring: Option<StoredRing>,
    /// What it knows about the time; `None` while no server may use it, or its schema is an older one.
    pub times: Option<StoreTimes>,
    /// `fsync`, `full_page_writes`, `synchronous_commit` and `default_transaction_read_only`, as far as the database has
    /// them, as they are before a session sets them.
    pub settings: Vec<(String, String)>,
    /// Whether it tells which server it is of, so that a node notices when another one takes over; `None`: not asked.
    pub is_told_apart: Option<bool>,
    /// Tables that cannot keep what they are given, and what is wrong with them: `unlogged`, or `without a primary key`.
    pub unsound_tables: Vec<(String, String)>,
    /// Whether it is a standby itself, which takes no writes.
    pub is_standby: bool,
    /// The standbys that follow it, and how: `sync`, `quorum`, `potential` or `async`; `None`: this role may not know.
    pub standbys: Vec<(String, Option<String>)>,
}

/// Looks at the store and its database; changes nothing.
pub async fn examine(
    url: &PostgresUrl,
    options: &PostgresOptions,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<DatabaseExamination, OpenError> {
    let core = StoreInner::new(url, options, clock, entropy)?;
    let mut session = take_at_length(&core.readers, &core.place).await.map_err(SchemaError::from)?;
    schema::recognize(&mut session).await?;
    let stats = stats(&mut session).await.map_err(SchemaError::from)?;
    let handed_over_to = moving::handed_over_to(&mut session).await.map_err(SchemaError::from)?;
    let node_list = node_registry::node_list(&mut session).await.map_err(SchemaError::from)?;
    let ring = ring::read(&mut session).await.map_err(SchemaError::from)?;
    let serves = handed_over_to.is_none() && stats.schema >= schema::PAIR;
    let times = if serves { Some(times(&mut session).await.map_err(SchemaError::from)?) } else { None };
    let settings = pairs(&mut session, sql::WHAT_IS_SET).await;
    let standby = pairs(&mut session, sql::IS_STANDBY).await;
    let is_told_apart = identity::is_told(&mut session).await.ok().flatten();
    let standbys = pairs(&mut session, sql::STANDBYS).await;
    let unsound_tables = identity::unsound_tables(&mut session).await.map_err(SchemaError::from)?;
    Ok(DatabaseExamination {
        stats,
        handed_over_to,
        node_list,
        ring,
        times,
        settings: settings.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect(),
        is_told_apart,
        unsound_tables,
        is_standby: standby.first().is_some_and(|(answer, _)| answer == "t"),
        standbys,
    })
}

/// The first two columns of what a statement returns. Not every database knows every statement; those that do not have
/// nothing to say.
async fn pairs(session: &mut Session, text: &str) -> Vec<(String, Option<String>)> {
    let Ok(rows) = session.rows(text).await else { return Vec::new() };
    let column = |row: &tokio_postgres::SimpleQueryRow, at| row.try_get(at).ok().flatten().map(str::to_owned);
    rows.iter().map(|row| (column(row, 0).unwrap_or_default(), column(row, 1))).collect()
}
