//! Every statement that the store sends to the database.
//!
//! Nothing here is only PostgreSQL's: CockroachDB and YugabyteDB know these statements too. So there are no
//! declarative partitions, no advisory locks, no `LOCK TABLE` and no `FOR SHARE`. What is, is marked as such and may fail.

use std::fmt;

use countersign_core::{TokenId, to_millis};

use super::settings::SchemaName;

/// How many tables share the endings. Each holds the tokens of every eighth day, so that a day's table can be emptied as
/// a whole when its tokens have been dead for long enough and before its next day comes.
pub(super) const TABLES: u8 = 8;

/// How many rows hold the two lines, all the same. A batch locks one of them, whoever moves a line locks all.
pub(super) const STRIPES: i16 = 64;

/// The database's clock, in milliseconds since 1970.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT";

/// Milliseconds in a day.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1000;

/// One of the tables of endings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Table(u8);

impl Table {
    /// Where the ending of this token is, for ever: it follows from the day in its id, in UTC.
    pub(super) fn of(id: TokenId) -> Self {
        Self::at(to_millis(id.created()))
    }

    /// The table of tokens made at that time.
    pub(super) fn at(millis: i64) -> Self {
        let day = millis.div_euclid(DAY);
        Self(u8::try_from(day.rem_euclid(TABLES.into())).unwrap_or(0))
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..TABLES).map(Self)
    }

    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endings_{}", self.0)
    }
}

/// A statement that is prepared once for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Query {
    /// Records a batch of endings, as far as there are none yet and the lines allow it. Returns the ids of those that it
    /// recorded.
    ///
    /// Parameters: the batch's nonce; a stripe; then a column of each: ids, when they were made, when they expire, when
    /// they ended, kinds, addresses, retry keys.
    ///
    /// The lock on the stripe lasts until the commit. So the lines that are read here are still the lines when the rows
    /// become visible, on whatever node somebody moves them.
    End(Table),
    /// How tokens stand: the lines, and each token's ending if it is on record. Parameter: ids.
    Look(Table),
    /// Writes something that nobody reads. Parameters: a stripe, the time.
    Probe,
    /// The id that was made last.
    Newest(Table),
    /// How many rows there are.
    Count(Table),
    /// How many of the first so many rows, from an id on and before another, expired before a line; how many were looked
    /// at; and the last id among them. Parameters: from, until, line, how many.
    CountExpired(Table),
    /// Removes some rows that expired before a line, from an id on and up to another. Two nodes share the work.
    /// Parameters: from, to, line, how many at most.
    Delete(Table),
    /// The endings among the newest so many ids, newest first. Parameters: from and up to which id, how many ids; whether
    /// consumptions and whether revocations; ended not before, and before this time and id; how many endings.
    Recent,
    /// Writes down what a node says of itself. Parameters: its id, the schema that it knows, what it says.
    CheckIn,
    /// Forgets the nodes that have been silent. Parameter: for how many milliseconds.
    ForgetNodes,
    /// The database's clock; and the nodes, as far as they have not been silent for so long. Parameter: milliseconds.
    Roll,
    /// The lines, of a store that serves.
    Lines,
    /// What a copy needs.
    Copy(CopyQuery),
    /// How many endings there are of each kind.
    Stats,
    /// Bytes on disk. PostgreSQL's and YugabyteDB's; elsewhere it may fail.
    Bytes,
}

/// A statement that is for copies of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CopyQuery {
    /// Whether a server may use the store: state, copy, the other store; and the lines, if it may not.
    Copying,
    /// The same, and nobody else changes it until the transaction ends.
    LockCopying,
    /// Changes that. Parameters: state, copy, the other store.
    SetCopying,
    /// Puts the lines away until [`Restore`](Self::Restore): first these two, in one transaction. Each batch that has
    /// begun is committed before the second one returns, and none begins after the commit.
    LockFirstLine,
    KeepLines,
    Withdraw,
    /// Says where the lines are to be. Parameters: fence, horizon.
    SetLines,
    /// Puts the lines back. Parameter: the stripes.
    Restore,
    /// Whether a token's life has ended in the store, or a server has ever used it.
    IsUsed,
    /// The records whose ids come after one, in their order. Parameters: after which id, how many.
    Page,
    /// The records whose ids come after one and not after another. Parameters: the two.
    Range,
    /// The greatest id on record.
    Last,
    /// Removes records. Parameter: ids.
    Remove(Table),
    /// Inserts records. Parameters: a column of each: ids, when they expire, when they ended, kinds, addresses, retry keys.
    Insert(Table),
    /// Removes all records; and what nodes said of themselves.
    RemoveAll,
    ForgetEveryNode,
}

/// The statements, for a schema of this name.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    schema: SchemaName,
}

impl Sql {
    pub(super) fn new(schema: SchemaName) -> Self {
        Self { schema }
    }

    pub(super) fn schema(&self) -> &SchemaName {
        &self.schema
    }

    pub(super) fn text(&self, query: Query) -> String {
        let s = self.schema.quoted();
        match query {
            Query::End(table) => format!(
                "WITH line AS (SELECT fence, horizon FROM {s}.lines WHERE stripe = $2 FOR UPDATE) \
                 INSERT INTO {s}.{table} (id, expires, ended, kind, peer, retry_key, nonce) \
                 SELECT w.id, w.expires, w.ended, w.kind, w.peer, w.retry_key, $1 FROM line CROSS JOIN \
                 unnest($3::UUID[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::SMALLINT[], $8::INET[], $9::BYTEA[]) \
                 AS w (id, created, expires, ended, kind, peer, retry_key) \
                 WHERE w.created >= line.fence AND w.expires >= line.horizon ORDER BY w.id \
                 ON CONFLICT DO NOTHING RETURNING id"
            ),
            Query::Look(table) => format!(
                "SELECT line.fence, line.horizon, w.id, e.kind, e.ended, e.peer, e.retry_key, e.nonce \
                 FROM {s}.lines AS line CROSS JOIN unnest($1::UUID[]) AS w (id) \
                 LEFT JOIN {s}.{table} AS e ON e.id = w.id WHERE line.stripe = 0"
            ),
            Query::Probe => format!("UPDATE {s}.lines SET probed = $2 WHERE stripe = $1"),
            Query::Newest(table) => format!("SELECT id FROM {s}.{table} ORDER BY id DESC LIMIT 1"),
            Query::Count(table) => format!("SELECT count(*) FROM {s}.{table}"),
            Query::CountExpired(table) => format!(
                "WITH w AS (SELECT id, expires FROM {s}.{table} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $4) \
                 SELECT count(*) FILTER (WHERE expires < $3), count(*), \
                 (SELECT id FROM w ORDER BY id DESC LIMIT 1) FROM w"
            ),
            Query::Delete(table) => format!(
                "DELETE FROM {s}.{table} WHERE id IN (SELECT id FROM {s}.{table} \
                 WHERE id >= $1 AND id <= $2 AND expires < $3 ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED)"
            ),
            Query::Recent => format!(
                "SELECT kind, ended, peer, retry_key, id FROM \
                 (SELECT kind, ended, peer, retry_key, id FROM ({}) AS every \
                 WHERE id >= $1 AND id <= $2 ORDER BY id DESC LIMIT $3) AS recent \
                 WHERE ((kind = 0 AND $4) OR (kind = 1 AND $5)) AND ended >= $6 AND (ended, id) < ($7, $8) \
                 ORDER BY ended DESC, id DESC LIMIT $9",
                every_table(
                    |table| format!("SELECT kind, ended, peer, retry_key, id FROM {s}.{table}"),
                    " UNION ALL "
                )
            ),
            Query::CheckIn => format!(
                "INSERT INTO {s}.nodes (id, seen, schema, said) VALUES ($1, {NOW}, $2, $3) ON CONFLICT (id) DO UPDATE \
                 SET seen = excluded.seen, schema = excluded.schema, said = excluded.said"
            ),
            Query::ForgetNodes => format!("DELETE FROM {s}.nodes WHERE seen < {NOW} - $1"),
            Query::Roll => format!(
                "SELECT clock.now, n.seen, n.schema, n.said FROM (SELECT {NOW} AS now) AS clock \
                 LEFT JOIN {s}.nodes AS n ON n.seen >= clock.now - $1 ORDER BY n.id"
            ),
            Query::Lines => format!("SELECT fence, horizon FROM {s}.lines WHERE stripe = 0"),
            Query::Copy(query) => self.text_for_copy(query),
            Query::Stats => format!(
                "SELECT kind, count(*) FROM ({}) AS every GROUP BY kind",
                every_table(|table| format!("SELECT kind FROM {s}.{table}"), " UNION ALL ")
            ),
            Query::Bytes => format!(
                "SELECT ({})::BIGINT",
                every_table(|table| format!("pg_total_relation_size('{s}.{table}')"), " + ")
            ),
        }
    }

    fn text_for_copy(&self, query: CopyQuery) -> String {
        let s = self.schema.quoted();
        match query {
            CopyQuery::Copying => {
                format!("SELECT state, copy, peer, fence, horizon FROM {s}.copying WHERE one = 0")
            }
            CopyQuery::LockCopying => {
                format!("SELECT state, copy, peer, fence, horizon FROM {s}.copying WHERE one = 0 FOR UPDATE")
            }
            CopyQuery::SetCopying => {
                format!("UPDATE {s}.copying SET state = $1, copy = $2, peer = $3 WHERE one = 0")
            }
            CopyQuery::LockFirstLine => format!("SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE"),
            CopyQuery::KeepLines => format!(
                "UPDATE {s}.copying SET fence = line.fence, horizon = line.horizon FROM {s}.lines AS line \
                 WHERE one = 0 AND line.stripe = 0"
            ),
            CopyQuery::Withdraw => format!("DELETE FROM {s}.lines"),
            CopyQuery::SetLines => format!("UPDATE {s}.copying SET fence = $1, horizon = $2 WHERE one = 0"),
            CopyQuery::Restore => format!(
                "INSERT INTO {s}.lines (stripe, fence, horizon, probed) SELECT w.stripe, c.fence, c.horizon, c.fence \
                 FROM {s}.copying AS c CROSS JOIN unnest($1::SMALLINT[]) AS w (stripe) WHERE c.one = 0"
            ),
            CopyQuery::IsUsed => format!(
                "SELECT {} OR EXISTS (SELECT 1 FROM {s}.nodes)",
                every_table(|table| format!("EXISTS (SELECT 1 FROM {s}.{table})"), " OR ")
            ),
            CopyQuery::Page => format!(
                "SELECT kind, ended, peer, retry_key, id, expires FROM ({}) AS every ORDER BY id LIMIT $2",
                every_table(
                    |table| format!(
                        "(SELECT kind, ended, peer, retry_key, id, expires FROM {s}.{table} WHERE id > $1 \
                         ORDER BY id LIMIT $2)"
                    ),
                    " UNION ALL "
                )
            ),
            CopyQuery::Range => every_table(
                |table| {
                    format!(
                        "SELECT kind, ended, peer, retry_key, id, expires FROM {s}.{table} \
                         WHERE id > $1 AND id <= $2"
                    )
                },
                " UNION ALL ",
            ),
            CopyQuery::Last => format!(
                "SELECT id FROM ({}) AS every ORDER BY id DESC LIMIT 1",
                every_table(
                    |table| format!("(SELECT id FROM {s}.{table} ORDER BY id DESC LIMIT 1)"),
                    " UNION ALL "
                )
            ),
            CopyQuery::Remove(table) => format!("DELETE FROM {s}.{table} WHERE id = ANY($1::UUID[])"),
            CopyQuery::Insert(table) => format!(
                "INSERT INTO {s}.{table} (id, expires, ended, kind, peer, retry_key, nonce) \
                 SELECT w.id, w.expires, w.ended, w.kind, w.peer, w.retry_key, 0 FROM \
                 unnest($1::UUID[], $2::BIGINT[], $3::BIGINT[], $4::SMALLINT[], $5::INET[], $6::BYTEA[]) \
                 AS w (id, expires, ended, kind, peer, retry_key)"
            ),
            CopyQuery::RemoveAll => {
                format!("TRUNCATE {}", every_table(|table| format!("{s}.{table}"), ", "))
            }
            CopyQuery::ForgetEveryNode => format!("DELETE FROM {s}.nodes"),
        }
    }

    /// Moves a line forward, if it is not there yet, and says where it stands then: one request, one transaction. The
    /// first stripe's lock comes first, so that two who move lines do not meet half-way.
    pub(super) fn move_line(&self, line: Line, to: i64) -> String {
        let s = self.schema.quoted();
        format!(
            "BEGIN; SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             UPDATE {s}.lines SET {line} = {to} WHERE {line} < {to}; \
             SELECT {line} AS stands FROM {s}.lines WHERE stripe = 0; COMMIT"
        )
    }

    /// Begins to empty a table: holds all stripes, so that no batch is under way and none begins. Says whether there is a
    /// row from `first` on, and whether there is any. Gives up soon when something holds a lock: meanwhile no token is
    /// consumed.
    pub(super) fn begin_truncate(&self, table: Table, first: &uuid::Uuid) -> String {
        let s = self.schema.quoted();
        format!(
            "BEGIN; SET LOCAL lock_timeout = '200ms'; SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             SELECT stripe FROM {s}.lines ORDER BY stripe FOR UPDATE; \
             SELECT id AS newer FROM {s}.{table} WHERE id >= '{first}' LIMIT 1; \
             SELECT id AS some FROM {s}.{table} LIMIT 1"
        )
    }

    /// Empties the table and ends what [`begin_truncate`](Self::begin_truncate) began.
    pub(super) fn truncate(&self, table: Table) -> String {
        format!("TRUNCATE {}.{table}; COMMIT", self.schema.quoted())
    }

    /// The newest version of the schema that is there.
    pub(super) fn version(&self) -> String {
        format!("SELECT max(version) FROM {}.migrations", self.schema.quoted())
    }

    /// Whether the schema is there.
    pub(super) fn has_schema(&self) -> String {
        format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = '{}'", self.schema.name())
    }
}

fn every_table(one: impl Fn(Table) -> String, between: &str) -> String {
    Table::all().map(one).collect::<Vec<_>>().join(between)
}

/// Which line is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Fence,
    Horizon,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fence => "fence",
            Self::Horizon => "horizon",
        })
    }
}

/// Set for each connection. The first must succeed; the rest is best effort, since not every server knows them.
///
/// - `lock_timeout` and `statement_timeout`: a role's or a database's own must not end a batch in the middle. Above all, a
///   statement that is cancelled while it waits for a synchronous standby counts as committed.
/// - `idle_in_transaction_session_timeout`: a node that died must not keep its locks.
/// - `enable_seqscan`: everything is looked up by key, also before the database knows how many rows there are.
pub(super) const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
pub(super) const SESSION_IF_KNOWN: [&str; 2] =
    ["SET idle_in_transaction_session_timeout = '30s'", "SET enable_seqscan = off"];

/// What makes a commit durable, as the server, the database or the role have set it.
pub(super) const DURABILITY: &str =
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('fsync', 'synchronous_commit')";

/// Waits for the disk at each commit, and for a synchronous standby's disk if there is one.
pub(super) const SYNCHRONOUS: &str = "SET synchronous_commit = on";

/// What an operator may have set that makes commits forgettable. `reset_val` is what counts before a session sets anything.
pub(super) const WHAT_IS_SET: &str = "SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name IN \
    ('fsync', 'full_page_writes', 'synchronous_commit', 'default_transaction_read_only')";

/// PostgreSQL's own: whether this is a standby, and who follows. Without the role `pg_monitor`, `sync_state` is null.
pub(super) const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS standby";
pub(super) const STANDBYS: &str = "SELECT application_name, sync_state FROM pg_catalog.pg_stat_replication";
