//! The database's schema and its upgrades, which the first node to start performs.

use std::time::Duration;

use countersign_core::handshake::CLOCK_SKEW;
use tokio_postgres::error::SqlState;

use super::fault::Failure;
use super::session::Session;
use super::sql::{NOW, STRIPES, Table};
use crate::backend::IfMissing;
use crate::error::OpenError;

/// The steps from an empty schema to the present one; `{s}` is the schema. Step n leads to version n; a step that was
/// released is never changed. Nodes of the version before go on serving while a step is taken, and afterwards: it may
/// add, and must not take away what they use.
const STEPS: &[&str] = &[
    // 1: the watermarks, in as many rows as there are stripes, and the endings. Times are milliseconds since 1970. `id` is the
    // token's UUIDv7: as UUID it takes 16 bytes, and distributed databases split a table by it. `kind` is 0 for consumed
    // and 1 for revoked. `nonce` is the same for all rows that one batch wrote, and for no others.
    "{lines}; {endings}",
    // 2: who serves from the store, as it said of itself: JSON. `seen` is by the database's clock.
    "CREATE TABLE {s}.nodes (id TEXT PRIMARY KEY, seen BIGINT NOT NULL, schema INT NOT NULL, said TEXT NOT NULL)",
    // 3: whether a server may use the store, in one row. `state` is 0 for serving and 2 for handed over to the store `peer`;
    // only in the first are there rows in `lines`, which every batch needs, and in the other the watermarks are here.
    "CREATE TABLE {s}.copying (one SMALLINT PRIMARY KEY, state SMALLINT NOT NULL, copy TEXT, peer TEXT, fence BIGINT, \
     horizon BIGINT); INSERT INTO {s}.copying (one, state) VALUES (0, 0)",
    // 4: the key ring that the servers share, locked, in one row; version 0 and nothing else before there is one. A row of
    // `lines` has the same version.
    "CREATE TABLE {s}.ring (one SMALLINT PRIMARY KEY, version BIGINT NOT NULL, unlocked_by TEXT, sealed BYTEA); \
     INSERT INTO {s}.ring (one, version) VALUES (0, 0); ALTER TABLE {s}.lines ADD COLUMN ring BIGINT NOT NULL DEFAULT 0",
    // 5: which database the watermarks are in, so that they notice when it is another one.
    "ALTER TABLE {s}.lines ADD COLUMN identity TEXT",
    // 6 and 7: the horizon as a pair: `cleared` is when the youngest token was created whose record was removed, `horizon`
    // the latest expiry of one. Before, `horizon` alone was a watermark: tokens that expired before it were rejected. Those
    // stay rejected, but not the ones that are yet to be issued: a wrong clock may have moved the old horizon far ahead of the
    // present. In two steps, because some databases cannot use a column in the transaction that adds it.
    "ALTER TABLE {s}.lines ADD COLUMN IF NOT EXISTS cleared BIGINT NOT NULL DEFAULT 0; \
     ALTER TABLE {s}.copying ADD COLUMN IF NOT EXISTS cleared BIGINT",
    "SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
     UPDATE {s}.lines SET cleared = least(horizon - 1, {fence}), horizon = horizon - 1 WHERE horizon > 0; \
     UPDATE {s}.copying SET cleared = least(horizon - 1, {fence}), horizon = horizon - 1 WHERE horizon > 0; \
     UPDATE {s}.copying SET cleared = 0 WHERE horizon = 0",
    // 8: which file of the database each table of endings is in, so that a batch notices when its table was replaced or
    // emptied. The next server to start writes it down.
    "ALTER TABLE {s}.lines ADD COLUMN IF NOT EXISTS files TEXT[]",
];

/// The version from which on the horizon is a pair.
pub(super) const PAIR: u32 = 7;

/// How often a migration that met another one is tried again.
const ATTEMPTS: u32 = 200;

/// How long the first of them waits; the others up to so many times as long.
const PAUSE: Duration = Duration::from_millis(20);

/// The newest schema version that this build knows.
pub(super) fn newest() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// Why the schema cannot be used.
#[derive(Debug)]
pub(super) enum SchemaError {
    /// The database did not do as asked.
    Database(Failure),
    /// What is there cannot be used.
    Schema(OpenError),
}

impl From<Failure> for SchemaError {
    fn from(failure: Failure) -> Self {
        Self::Database(failure)
    }
}

/// The schema's version; 0: there is none.
pub(super) async fn version(session: &mut Session) -> Result<u32, Failure> {
    let text = session.sql().version();
    match session.script(&text, "max").await {
        Ok(values) => {
            let version = values.first().and_then(Option::as_deref).and_then(|version| version.parse().ok());
            Ok(version.unwrap_or(0))
        }
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE, &SqlState::INVALID_SCHEMA_NAME]) => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// When a schema is made or upgraded.
#[derive(Clone, Copy, Debug)]
pub(super) struct MigrationTime {
    /// The present.
    pub(super) now: i64,
    /// Where the fence rejects every token that was issued until now.
    pub(super) fence: i64,
}

impl MigrationTime {
    /// The present, by the database's clock: a server's own may be wrong, and the fence is for all of them.
    pub(super) async fn of(session: &mut Session) -> Result<Self, Failure> {
        let values = session.script(&format!("SELECT {NOW} AS now"), "now").await?;
        let now = values.first().and_then(Option::as_deref).and_then(|now| now.parse().ok()).unwrap_or(0);
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
        Ok(Self { now, fence: now + skew + 1 })
    }
}

/// Brings the schema to the newest version, as far as `change` allows. Returns the version that was there before.
pub(super) async fn bring_up(
    session: &mut Session,
    if_missing: IfMissing,
    moment: MigrationTime,
) -> Result<u32, SchemaError> {
    let before = version(session).await?;
    let mut found = before;
    let mut attempts = 0;
    while found != newest() {
        check(session, found, if_missing)?;
        attempts += 1;
        match step(session, found, moment).await {
            Ok(()) => {}
            Err(failure) if failure.is(&[&SqlState::INSUFFICIENT_PRIVILEGE]) => {
                return Err(SchemaError::Schema(OpenError::MayNotMigrate {
                    place: session.place().to_owned(),
                    found,
                    known: newest(),
                    reason: failure.into_reason(),
                }));
            }
            Err(failure) if met_another(&failure) && attempts < ATTEMPTS => {
                tokio::time::sleep(PAUSE * (attempts % 10)).await;
            }
            Err(failure) => return Err(failure.into()),
        }
        found = version(session).await?;
    }
    Ok(before)
}

/// Refuses a schema that is not there or not of this version or an older one. Changes nothing.
pub(super) async fn recognize(session: &mut Session) -> Result<u32, SchemaError> {
    let found = version(session).await?;
    check(session, found, IfMissing::Fail)?;
    Ok(found)
}

fn check(session: &Session, found: u32, if_missing: IfMissing) -> Result<(), SchemaError> {
    let place = session.place().to_owned();
    if found > newest() {
        return Err(SchemaError::Schema(OpenError::NewerSchema { place, found, known: newest() }));
    }
    if found == 0 && if_missing == IfMissing::Fail {
        return Err(SchemaError::Schema(OpenError::NoSchema { place }));
    }
    Ok(())
}

/// Takes the next step in one transaction. The row of its version comes first: the key lets one node at a time pass.
async fn step(session: &mut Session, found: u32, moment: MigrationTime) -> Result<(), Failure> {
    let s = session.sql().schema().quoted();
    if found == 0 {
        let text = session.sql().has_schema();
        // Even for a schema that is there, this asks for the right to make one.
        let is_there = !session.rows(&text).await?.is_empty();
        let make = if is_there { String::new() } else { format!("CREATE SCHEMA IF NOT EXISTS {s};") };
        let script = format!(
            "{make} CREATE TABLE IF NOT EXISTS {s}.migrations (version INT PRIMARY KEY, applied BIGINT NOT NULL)"
        );
        session.script(&script, "").await?;
    }
    let index = usize::try_from(found).unwrap_or(usize::MAX);
    let step = STEPS.get(index).map(|step| fill_in(step, &s, moment)).unwrap_or_default();
    let script = format!(
        "INSERT INTO {s}.migrations (version, applied) VALUES ({}, {}); {step}",
        found + 1,
        moment.now
    );
    session.script(&script, "").await?;
    Ok(())
}

fn fill_in(step: &str, s: &str, MigrationTime { now, fence }: MigrationTime) -> String {
    let rows =
        (0..STRIPES).map(|stripe| format!("({stripe}, {fence}, 0, {now})")).collect::<Vec<_>>().join(", ");
    let lines = format!(
        "CREATE TABLE {s}.lines (stripe SMALLINT PRIMARY KEY, fence BIGINT NOT NULL, horizon BIGINT NOT NULL, \
         probed BIGINT NOT NULL); INSERT INTO {s}.lines (stripe, fence, horizon, probed) VALUES {rows}"
    );
    let endings = Table::all().map(|table| {
        format!(
            "CREATE TABLE {s}.{table} (id UUID PRIMARY KEY, expires BIGINT NOT NULL, ended BIGINT NOT NULL, \
             nonce BIGINT NOT NULL, kind SMALLINT NOT NULL, peer INET, retry_key BYTEA)"
        )
    });
    step.replace("{lines}", &lines)
        .replace("{endings}", &endings.collect::<Vec<_>>().join("; "))
        .replace("{fence}", &fence.to_string())
        .replace("{s}", s)
}

/// Whether another node was at the same step: it took the number, or made the same thing in the catalogue.
fn met_another(failure: &Failure) -> bool {
    failure.is_contention()
        || failure.is(&[
            &SqlState::UNIQUE_VIOLATION,
            &SqlState::DUPLICATE_TABLE,
            &SqlState::DUPLICATE_SCHEMA,
            &SqlState::DUPLICATE_OBJECT,
        ])
        // "tuple concurrently updated", which has no code of its own.
        || failure.is(&[&SqlState::INTERNAL_ERROR])
}

/// Lets `role` serve: read and write the records, and no more.
pub(super) async fn grant(session: &mut Session, role: &str) -> Result<(), Failure> {
    let s = session.sql().schema().quoted();
    let role = role.replace('"', "\"\"");
    let script = format!(
        "GRANT USAGE ON SCHEMA {s} TO \"{role}\"; \
         GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {s} TO \"{role}\"; \
         REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {s}.migrations FROM \"{role}\""
    );
    session.script(&script, "").await.map(drop)
}
