//! The statements that tell which database this is, and whether its tables keep what they are given.

use super::{NOW, Sql, every_table, file, since};

impl Sql {
    /// Which database this is, and which one the watermarks were in last. Fails where the database does not tell.
    pub(in crate::postgres) fn identity(&self, tells: bool) -> String {
        let s = self.schema.quoted();
        format!(
            "SELECT {} AS now_in, l.identity AS was_in, {} AS since, l.tableoid::BIGINT AS in_table, \
             CASE WHEN l.files = {} THEN 'yes' END AS in_same_files FROM {s}.lines AS l WHERE l.stripe = 0",
            own_identity(tells),
            since(tells),
            files(&s)
        )
    }

    /// The tables that cannot keep what they are given, and what is wrong with them: the database empties one that is
    /// unlogged after a crash, and without a primary key nothing decides who redeems a token.
    pub(in crate::postgres) fn unsound_tables(&self) -> String {
        let endings = every_table(|table| format!("'{table}'"), ", ");
        format!(
            "SELECT c.relname, CASE WHEN c.relpersistence <> 'p' THEN 'unlogged' ELSE 'without a primary key' END \
             FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             WHERE n.nspname = '{}' AND c.relname IN ('lines', 'copying', 'ring', {endings}) \
             AND (c.relpersistence <> 'p' OR NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i \
             WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid)) ORDER BY 1",
            self.schema.name()
        )
    }

    /// Writes down which database the watermarks are in, and the files of the endings: a script for one transaction. If they
    /// were in another database, or an ending's table in another file, moves the fence to so many milliseconds after the present moment of the database's clock, and says so: of many who send
    /// this, one is told. The first stripe's lock comes first, as in [`move_fence`](Self::move_fence).
    pub(in crate::postgres) fn recognize(&self, tells: bool, skew: i64) -> String {
        let (s, identity) = (self.schema.quoted(), own_identity(tells));
        let files = files(&s);
        // One who could not tell has written down the table alone.
        let (is_another, is_new) = if tells {
            let alone = own_identity(false);
            (
                format!("l.identity NOT IN ({identity}, {alone})"),
                format!("l.identity IS NULL OR l.identity = {alone}"),
            )
        } else {
            (format!("NOT {IS_SAME_TABLE}"), "l.identity IS NULL".to_owned())
        };
        format!(
            "SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE; \
             WITH moved AS (UPDATE {s}.lines AS l SET identity = {identity}, files = {files}, \
             fence = GREATEST(l.fence + 1, at.fence) FROM (SELECT {NOW} + {skew} AS fence) AS at \
             WHERE {is_another} OR l.files <> {files} RETURNING l.stripe, l.fence) \
             SELECT fence AS moved FROM moved WHERE stripe = 0; \
             UPDATE {s}.lines AS l SET identity = {identity}, files = {files} WHERE {is_new} OR l.files IS NULL"
        )
    }
}

/// Whether the watermarks are in the table that they were in.
const IS_SAME_TABLE: &str = "split_part(l.identity, ':', 3) = l.tableoid::BIGINT::TEXT";

/// Which database this is, in a statement on `lines AS l`: the server's own identifier and its timeline, where they can be
/// asked for, and the table itself. The first two change when another server takes over, or a backup of the server is put
/// back; the table is another one when a dump is put back, in the same server too.
fn own_identity(tells: bool) -> &'static str {
    if tells {
        "(SELECT system_identifier::TEXT FROM pg_catalog.pg_control_system()) || ':' || \
         substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) || ':' || l.tableoid::BIGINT::TEXT"
    } else {
        "'::' || l.tableoid::BIGINT::TEXT"
    }
}

/// The files of the tables of endings, in their order.
fn files(s: &str) -> String {
    format!("ARRAY[{}]", every_table(|table| file(s, table), ", "))
}
