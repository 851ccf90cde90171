//! The statements about the servers that use the store: this one, and those before it.

use countersign_core::{Node, NodeId, NodeList, REMEMBERED, SeenNode, before, from_millis, to_millis};
use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::Type;

use super::schema;

/// Writes down what a node says of itself, and forgets those of long ago.
pub(super) fn check_in(connection: &Connection, node: &Node) -> rusqlite::Result<()> {
    let now = to_millis(node.clock);
    connection
        .prepare_cached("DELETE FROM nodes WHERE seen < ?")?
        .execute((to_millis(before(node.clock, REMEMBERED)),))?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO nodes (id, seen, said) VALUES (?, ?, ?)")?
        .execute((node.id.to_string(), now, node.to_text()))
        .map(drop)
}

/// Who has checked in. One server at a time has the store, so only `me` can be live.
pub(super) fn node_list(
    connection: &Connection,
    now: Timestamp,
    me: Option<NodeId>,
) -> rusqlite::Result<NodeList> {
    let mut statement =
        connection.prepare_cached("SELECT seen, said FROM nodes WHERE seen >= ? ORDER BY id")?;
    let rows = statement.query_map((to_millis(before(now, REMEMBERED)),), |row| {
        let (seen, said): (i64, String) = (row.get(0)?, row.get(1)?);
        let unreadable = || {
            let error = "what a server said of itself cannot be read".into();
            rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error)
        };
        let node = Node::from_text(&said).ok_or_else(unreadable)?;
        let live = node.serving && Some(node.id) == me;
        Ok(SeenNode { node, at: from_millis(seen), live, schema: schema::newest() })
    })?;
    Ok(NodeList { now, nodes: rows.collect::<Result<_, _>>()? })
}
