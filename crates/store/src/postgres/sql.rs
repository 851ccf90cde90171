//! Every statement that the store sends to the database.
//!
//! They are for PostgreSQL, and for no other database that speaks its protocol.
//!
//! Nothing here relies on settings of a session: the defaults of a role, a database and a server change while a node
//! serves, and a pooler gives each transaction another session. So each transaction sets its own isolation, what its
//! commit waits for, and what may cut it short ([`BEGIN`], [`RULES_ALONE`]).

mod identity;
mod moves;

use std::fmt;

use countersign_core::{KeyId, TokenId, to_millis};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::rows::longest_life;
use super::settings::SchemaName;

pub(in crate::postgres) use self::moves::MoveQuery;

/// How many tables share the endings. Each holds the tokens of every eighth day, so that a day's table can be emptied as
/// a whole when its tokens have been dead for long enough and before its next day comes.
pub(super) const TABLES: u8 = 8;

/// How many equal rows hold the two watermarks. A batch locks one that is free. Moving a
/// watermark locks all.
pub(super) const STRIPES: i16 = 64;

/// Into how many groups they are divided, by the remainder of their number. A batch takes its row from one of them. If all
/// had the same rows to choose from, all would try the first one first.
pub(super) const GROUPS: i16 = 4;

/// Up to how many rows a purge counts before it empties their table.
pub(super) const COUNTED: u32 = 100_000;

/// The database's clock, in milliseconds since 1970.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT";

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

/// What holds for a transaction, until it ends.
///
/// - `synchronous_commit`: waits for the disk at the commit, and for a synchronous standby's disk if there is one.
///   `remote_apply` waits for more than `on` does, and stays.
/// - `lock_timeout`: shorter than a node waits for an answer, so the database itself gives up abandoned statements.
///   It does not cut short the wait for a synchronous standby.
/// - `transaction_timeout`, where the server knows it (PostgreSQL 17): a role's own must not end a batch in the middle.
macro_rules! rules {
    () => {
        "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' \
         THEN 'remote_apply' ELSE 'on' END, true), set_config('lock_timeout', '5s', true), \
         CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL \
         THEN set_config('transaction_timeout', '0', true) END"
    };
}

/// The same for a statement that is a transaction by itself. It is a condition of the row that the statement locks, so it
/// holds before the lock is taken and before anything is written. A statement cannot set isolation and time limits for
/// itself, because they count from its beginning: where they are not as needed, the division fails, and with it the
/// statement. What its commit waits for, it sets.
///
/// It has no `lock_timeout`: setting that took a quarter of a batch's time in the database. The statement passes over rows of
/// `lines` that are locked. It can still wait for a commit for the same token, which a `lock_timeout` could cut short, and
/// for a lock on the whole table, which is taken before any setting of the statement counts. `session.rs` bounds how many such
/// waits a node leaves behind.
const RULES_ALONE: &str = "1 / CASE WHEN current_setting('transaction_isolation') = 'read committed' \
     AND current_setting('statement_timeout') = '0' \
     AND coalesce(current_setting('transaction_timeout', true), '0') = '0' THEN 1 ELSE 0 END = 1 \
     AND CASE WHEN current_setting('synchronous_commit') IN ('on', 'remote_apply') THEN true \
     ELSE set_config('synchronous_commit', 'on', true) = 'on' END";

/// Begins a transaction. Where it changes something the access mode is not named: `default_transaction_read_only` is how
/// administrators keep everybody from writing, and stays.
///
/// `statement_timeout` counts from the beginning of each statement, so it is set by one of its own: a statement that is
/// cancelled while its commit waits for a synchronous standby counts as committed.
macro_rules! begin {
    () => {
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0"
    };
}

/// Begins a transaction by these rules, and by these:
///
/// - `idle_in_transaction_session_timeout`: a node that died must not keep its locks.
/// - `enable_seqscan`: everything is looked up by key, also before the database knows how many rows there are. A query without
///   a key then seems so expensive that it would be compiled first, for a second, under locks: hence `jit`.
pub(super) const BEGIN: &str = concat!(
    begin!(),
    "; SELECT ",
    rules!(),
    ", set_config('idle_in_transaction_session_timeout', '30s', true), set_config('enable_seqscan', 'off', true), \
     CASE WHEN current_setting('jit', true) IS NOT NULL THEN set_config('jit', 'off', true) END"
);

/// A statement, but for the batch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// How tokens stand: the watermarks, and each token's ending if it is on record. Parameter: ids.
    Look(Table),
    /// A write that proves that writing works. Parameters: a stripe, the time.
    Probe,
    /// The id that was made last.
    Newest(Table),
    /// How many rows there are; of more than [`COUNTED`], as the database last estimated. To count a hundred million takes
    /// longer than a statement has.
    Count(Table),
    /// How many of the first so many rows, from an id on and before another, expired before a moment, and not later than the
    /// database's clock shows; how many were looked at; the last id among them; the last id and the latest expiry of those
    /// that expired. Parameters: from, until, cutoff, how many.
    CountExpired(Table),
    /// Removes some rows that are behind the horizon, from an id on and up to another. Two nodes share the work. Removes
    /// nothing unless the horizon stands as far as the caller thinks. Parameters: from, to, latest expiry, how many at
    /// most, latest creation.
    Delete(Table),
    /// The endings among the newest so many ids, newest first. Parameters: from and up to which id, how many ids; whether
    /// consumptions and whether revocations; ended not before, and before; by which address, if it matters; before this time
    /// and id; how many endings.
    Recent,
    /// The last one of so many ids. Parameters: from and up to which id, how many come before it.
    RecentEnd,
    /// Writes down what a node says of itself. Parameters: its id, the schema that it knows, what it says.
    CheckIn,
    /// Forgets the nodes that have been silent. Parameter: for how many milliseconds.
    ForgetNodes,
    /// The database's clock; and the nodes, as far as they have not been silent for so long. Parameter: milliseconds.
    NodeList,
    /// The key ring: its version, what unlocks it, and itself.
    Ring,
    /// The lines, of a store that serves, and the database's clock.
    Watermarks,
    /// The same, of a store whose schema has no pair for the horizon yet.
    WatermarksBefore,
    /// What a move needs.
    Move(MoveQuery),
    /// How many endings there are of each kind.
    Stats,
    /// Bytes on disk.
    Bytes,
}

/// The statement that records a batch, for one table.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// It follows from the text, so that no two statements share a name, even when others use the session.
    pub(super) name: String,
    /// It names itself, and records nothing unless it is called by that name.
    text: String,
    /// The same as a transaction by itself. Where the session's settings do not allow that, it fails.
    pub(super) alone: String,
}

/// The statements, for a schema of this name.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    schema: SchemaName,
    batches: Vec<Batch>,
    /// The same for a database that does not tell which server it is of.
    batches_untold: Vec<Batch>,
}

impl Sql {
    pub(super) fn new(schema: SchemaName) -> Self {
        let s = schema.quoted();
        let batches = |tells| {
            let batches = Table::all().map(|table| {
                let [text, alone] = [false, true].map(|alone| batch_text(&s, table, tells, alone));
                let hash = Sha256::digest(format!("{text};{alone}"));
                let name = format!("countersign_{}", HEXLOWER.encode(hash.get(..16).unwrap_or_default()));
                let [text, alone] = [text, alone].map(|text| text.replace(OWN_NAME, &name));
                Batch { name, text, alone }
            });
            batches.collect()
        };
        Self { batches: batches(true), batches_untold: batches(false), schema }
    }

    /// The request that records a batch of endings, as far as there are none yet and the watermarks allow it. Returns the ids
    /// of those that it recorded. It is refused, and changes nothing, where its statement has not been prepared.
    ///
    /// Arguments: the batch's nonce; a group of stripes; the identity of the database as the node knows it; then a column of each:
    /// ids, when they were made, when they expire, when they ended, kinds, addresses, retry keys as hexadecimal digits,
    /// versions of the key ring.
    ///
    /// Nothing is recorded unless this is the database that the watermarks are known to be in, and the table is in the file
    /// that it was in, see `identity.rs`.
    ///
    /// The lock on one stripe lasts until the commit. So the watermarks that are read here are still the watermarks when the rows
    /// become visible, on whatever node somebody moves them. Stripes that others hold are passed over; if all of a group are
    /// held, because a watermark is being moved or many batches are under way, nothing is recorded.
    ///
    /// The statement names the key that decides, `ON CONFLICT (id)`: it fails where a table has lost its primary key, such as
    /// one of a dump whose keys have not been put back yet. Without the name it would record a token any number of times.
    pub(super) fn batch(&self, table: Table, arguments: &str, tells: bool) -> String {
        format!(concat!(begin!(), "; EXECUTE {}({}); COMMIT"), self.batch_of(table, tells).name, arguments)
    }

    /// Prepares the statement of [`batch`](Self::batch) after it was refused, in a transaction that goes on: so a pooler
    /// lets the same session have the next request. The prepared statement stays, also if the transaction fails.
    pub(super) fn prepare(&self, table: Table, tells: bool) -> String {
        let Batch { name, text, .. } = self.batch_of(table, tells);
        let types = "BIGINT, SMALLINT, TEXT, UUID[], BIGINT[], BIGINT[], BIGINT[], SMALLINT[], INET[], TEXT[], BIGINT, TEXT, \
             BIGINT, BIGINT";
        format!(concat!("ROLLBACK; ", begin!(), "; PREPARE {} ({}) AS {}"), name, types, text)
    }

    /// The rest of [`batch`](Self::batch), after [`prepare`](Self::prepare).
    pub(super) fn prepared(&self, table: Table, arguments: &str, tells: bool) -> String {
        format!("EXECUTE {}({arguments}); COMMIT", self.batch_of(table, tells).name)
    }

    /// The statement of [`batch`](Self::batch).
    pub(super) fn batch_of(&self, table: Table, tells: bool) -> &Batch {
        static NONE: Batch = Batch { name: String::new(), text: String::new(), alone: String::new() };
        let batches = if tells { &self.batches } else { &self.batches_untold };
        batches.get(table.index()).unwrap_or(&NONE)
    }

    pub(super) fn schema(&self) -> &SchemaName {
        &self.schema
    }

    pub(super) fn text(&self, query: Query) -> String {
        let s = self.schema.quoted();
        match query {
            Query::Look(table) => format!(
                "SELECT line.fence, line.horizon, w.id, e.kind, e.ended, e.peer, e.retry_key, e.nonce, line.ring, \
                 line.cleared \
                 FROM {s}.lines AS line CROSS JOIN unnest($1::UUID[]) AS w (id) \
                 LEFT JOIN {s}.{table} AS e ON e.id = w.id WHERE line.stripe = 0"
            ),
            Query::Probe => format!("UPDATE {s}.lines SET probed = $2 WHERE stripe = $1"),
            Query::Newest(table) => format!("SELECT id FROM {s}.{table} ORDER BY id DESC LIMIT 1"),
            Query::Count(table) => format!(
                "SELECT CASE WHEN n <= {COUNTED} THEN n ELSE greatest(n, \
                 (SELECT reltuples::BIGINT FROM pg_class WHERE oid = '{s}.{table}'::REGCLASS)) END \
                 FROM (SELECT count(*) AS n FROM (SELECT FROM {s}.{table} LIMIT {COUNTED} + 1) AS first) AS counted"
            ),
            Query::CountExpired(table) => format!(
                "WITH w AS (SELECT id, expires, expires < $3 AND expires < {NOW} AS dead FROM {s}.{table} \
                 WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $4) \
                 SELECT count(*) FILTER (WHERE dead), count(*), (SELECT id FROM w ORDER BY id DESC LIMIT 1), \
                 (SELECT id FROM w WHERE dead ORDER BY id DESC LIMIT 1), max(expires) FILTER (WHERE dead) FROM w"
            ),
            Query::Delete(table) => format!(
                "DELETE FROM {s}.{table} WHERE id IN (SELECT id FROM {s}.{table} \
                 WHERE id >= $1 AND id <= $2 AND expires <= $3 AND EXISTS (SELECT 1 FROM {s}.lines \
                 WHERE stripe = 0 AND cleared >= $5 AND horizon >= $3) ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED)"
            ),
            Query::Recent => format!(
                "SELECT kind, ended, peer, retry_key, id FROM \
                 (SELECT kind, ended, peer, retry_key, id FROM ({}) AS every \
                 WHERE id >= $1 AND id <= $2 ORDER BY id DESC LIMIT $3) AS recent \
                 WHERE ((kind = 0 AND $4) OR (kind = 1 AND $5)) AND ended >= $6 AND ended < $7 \
                 AND ($8::inet IS NULL OR peer = $8) AND (ended, id) < ($9, $10) \
                 ORDER BY ended DESC, id DESC LIMIT $11",
                every_table(
                    |table| format!("SELECT kind, ended, peer, retry_key, id FROM {s}.{table}"),
                    " UNION ALL "
                )
            ),
            Query::RecentEnd => format!(
                "SELECT id FROM ({}) AS every WHERE id >= $1 AND id <= $2 ORDER BY id DESC OFFSET $3 LIMIT 1",
                every_table(|table| format!("SELECT id FROM {s}.{table}"), " UNION ALL ")
            ),
            Query::CheckIn => format!(
                "INSERT INTO {s}.nodes (id, seen, schema, said) VALUES ($1, {NOW}, $2, $3) ON CONFLICT (id) DO UPDATE \
                 SET seen = excluded.seen, schema = excluded.schema, said = excluded.said"
            ),
            Query::ForgetNodes => format!("DELETE FROM {s}.nodes WHERE seen < {NOW} - $1"),
            Query::NodeList => format!(
                "SELECT clock.now, n.seen, n.schema, n.said FROM (SELECT {NOW} AS now) AS clock \
                 LEFT JOIN {s}.nodes AS n ON n.seen >= clock.now - $1 ORDER BY n.id"
            ),
            Query::Ring => format!("SELECT version, unlocked_by, sealed FROM {s}.ring WHERE one = 0"),
            Query::Watermarks => {
                format!("SELECT fence, cleared, horizon, {NOW} FROM {s}.lines WHERE stripe = 0")
            }
            Query::WatermarksBefore => {
                format!("SELECT fence, horizon - 1, horizon - 1, {NOW} FROM {s}.lines WHERE stripe = 0")
            }
            Query::Move(query) => self.text_for_move(query),
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

    /// Moves the fence, and says where it stands then: a script for one transaction. The first stripe's lock comes first,
    /// so that two who move watermarks do not meet half-way.
    pub(super) fn move_fence(&self, to: i64) -> String {
        let s = self.schema.quoted();
        format!(
            "SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             UPDATE {s}.lines SET fence = greatest(fence + 1, {to}); \
             SELECT fence AS stands FROM {s}.lines WHERE stripe = 0"
        )
    }

    /// Puts a key ring in the place of the one of version `from`, if the store serves: a script for one transaction. Says
    /// which version is there then.
    pub(super) fn replace_ring(&self, from: i64, version: i64, unlocked_by: KeyId, sealed: &str) -> String {
        let s = self.schema.quoted();
        format!(
            "SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             UPDATE {s}.ring SET version = {version}, unlocked_by = '{unlocked_by}', sealed = decode('{sealed}', 'hex') \
             WHERE one = 0 AND version = {from} AND EXISTS (SELECT 1 FROM {s}.lines WHERE stripe = 0); \
             UPDATE {s}.lines AS l SET ring = r.version FROM {s}.ring AS r WHERE r.one = 0 AND l.ring <> r.version; \
             SELECT ring AS there FROM {s}.lines WHERE stripe = 0"
        )
    }

    /// Moves the horizon over tokens that were created and expire no later, in the same way. Their records may go then.
    pub(super) fn move_horizon(&self, created: i64, expires: i64) -> String {
        let s = self.schema.quoted();
        format!(
            "SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; {}",
            self.set_horizon(created, expires)
        )
    }

    fn set_horizon(&self, created: i64, expires: i64) -> String {
        let s = self.schema.quoted();
        format!(
            "UPDATE {s}.lines SET cleared = greatest(cleared, {created}), horizon = greatest(horizon, {expires}) \
             WHERE cleared < {created} OR horizon < {expires}"
        )
    }

    /// Begins to empty a table, in a transaction: holds all stripes, so that no batch is under way and none begins. Says which
    /// row is the youngest, and what the database's clock shows. Gives up soon when something holds a lock: meanwhile no token
    /// is consumed. The queries see the rows that were there when the stripes were locked, because the isolation level gives
    /// each statement its own snapshot. Names no row of a table that was replaced: the fence has to move first.
    pub(super) fn begin_truncate(&self, table: Table) -> String {
        let s = self.schema.quoted();
        format!(
            "SET LOCAL lock_timeout = '200ms'; SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             SELECT stripe FROM {s}.lines ORDER BY stripe FOR UPDATE; \
             SELECT id AS newest FROM {s}.{table} WHERE EXISTS (SELECT FROM {s}.lines AS l WHERE l.stripe = 0 AND {}) \
             ORDER BY id DESC LIMIT 1; SELECT {NOW} AS clock",
            is_same_file(&s, table)
        )
    }

    /// Moves the horizon over the table's rows, the youngest of which was created then, and empties it, after
    /// [`begin_truncate`](Self::begin_truncate).
    pub(super) fn truncate(&self, table: Table, created: i64) -> String {
        let expires = created.saturating_add(longest_life());
        let s = self.schema.quoted();
        // PostgreSQL counts the elements of an array from 1.
        format!(
            "{}; TRUNCATE {s}.{table}; UPDATE {s}.lines SET files[{}] = {}",
            self.set_horizon(created, expires),
            table.index() + 1,
            file(&s, table)
        )
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

fn batch_text(s: &str, table: Table, tells: bool, alone: bool) -> String {
    let identity = if tells { "l.identity = $3" } else { "$3 IS NOT NULL" };
    let since = since(tells);
    let line = format!(
        "{s}.lines AS l WHERE l.stripe % {GROUPS} = $2 AND l.ring = $11 AND {identity} AND $12 = '{OWN_NAME}' AND $13 = {since} \
         AND $14 = l.tableoid::BIGINT AND {}",
        is_same_file(s, table)
    );
    let columns = "l.fence, l.cleared, l.horizon";
    let (line, retry_key) = if alone {
        (format!("line AS (SELECT {columns} FROM {line} AND {RULES_ALONE} {LOCK})"), "w.retry_key")
    } else {
        let rules = concat!("rules AS MATERIALIZED (SELECT ", rules!(), ")");
        let line = format!("{rules}, line AS (SELECT {columns} FROM rules CROSS JOIN {line} {LOCK})");
        (line, "decode(w.retry_key, 'hex')")
    };
    format!(
        "WITH {line} INSERT INTO {s}.{table} (id, expires, ended, kind, peer, retry_key, nonce) \
         SELECT w.id, w.expires, w.ended, w.kind, w.peer, {retry_key}, $1 FROM line CROSS JOIN \
         unnest($4, $5, $6, $7, $8, $9, $10) AS w (id, created, expires, ended, kind, peer, retry_key) \
         WHERE w.created >= line.fence AND (w.created > line.cleared OR w.expires > line.horizon) ORDER BY w.id \
         ON CONFLICT (id) DO NOTHING RETURNING id"
    )
}

/// How a batch locks its stripe.
const LOCK: &str = "LIMIT 1 FOR UPDATE OF l SKIP LOCKED";

/// Stands for a batch's name in its text.
const OWN_NAME: &str = "{name}";

/// Since when this server runs, in microseconds. While it does, its identity stays as it is: asking for that in each batch
/// would read a file.
fn since(tells: bool) -> &'static str {
    if tells { "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::BIGINT" } else { "0" }
}

/// The path of the file that a table is in. A table gets another one when it is emptied, rewritten, or made anew; and in a
/// database that was made from this one as its template, all tables have others.
fn file(s: &str, table: Table) -> String {
    format!("pg_catalog.pg_relation_filepath('{s}.{table}'::REGCLASS)")
}

/// Whether a table is in the file that the watermarks know, in a statement on `lines AS l`.
fn is_same_file(s: &str, table: Table) -> String {
    format!("l.files[{}] = {}", table.index() + 1, file(s, table))
}

fn every_table(one: impl Fn(Table) -> String, between: &str) -> String {
    Table::all().map(one).collect::<Vec<_>>().join(between)
}

/// Whether transactions are read-only unless they say otherwise, as a standby's are.
pub(super) const IS_READ_ONLY: &str = "SHOW transaction_read_only";

/// Whether commits reach the disk at all, which only the server's configuration can say.
pub(super) const FSYNC: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'fsync'";

/// Settings with which commits can be lost. `reset_val` is the value before a session sets anything.
pub(super) const WHAT_IS_SET: &str = "SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name IN \
    ('fsync', 'full_page_writes', 'synchronous_commit', 'default_transaction_read_only')";

/// PostgreSQL's own: whether this is a standby, and who follows. Without the role `pg_monitor`, `sync_state` is null.
pub(super) const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS standby";
pub(super) const STANDBYS: &str = "SELECT application_name, sync_state FROM pg_catalog.pg_stat_replication";
