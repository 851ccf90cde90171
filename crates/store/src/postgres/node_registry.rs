//! The nodes that use the store, by the database's clock.

use countersign_core::{LIVE, Node, NodeList, REMEMBERED, SeenNode, from_millis};
use tokio_postgres::Row;

use super::fault::Failure;
use super::rows::unreadable;
use super::schema;
use super::session::Session;
use super::sql::Query;

/// [`REMEMBERED`] in milliseconds.
fn remembered() -> i64 {
    i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX)
}

/// Writes down what a node says of itself, and forgets those of long ago. Each statement is durable before the next.
pub(super) async fn check_in(session: &mut Session, node: &Node) -> Result<NodeList, Failure> {
    let known = i32::try_from(schema::newest()).unwrap_or(i32::MAX);
    session.execute(Query::ForgetNodes, &[&remembered()]).await?;
    session.execute(Query::CheckIn, &[&node.id.to_string(), &known, &node.to_text()]).await?;
    node_list(session).await
}

/// Who has checked in.
pub(super) async fn node_list(session: &mut Session) -> Result<NodeList, Failure> {
    let rows = session.query(Query::NodeList, &[&remembered()]).await?;
    read(&rows).map_err(|error| unreadable(&error, session.place()))
}

fn read(rows: &[Row]) -> Result<NodeList, tokio_postgres::Error> {
    let now: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    let live = i64::try_from(LIVE.as_millis()).unwrap_or(i64::MAX);
    let mut nodes = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(seen) = row.try_get::<_, Option<i64>>(1)? else { continue };
        let (schema, said): (i32, &str) = (row.try_get(2)?, row.try_get(3)?);
        // A version to come may say what this one cannot read.
        let Some(node) = Node::from_text(said) else { continue };
        let live = node.serving && now.saturating_sub(seen) < live;
        nodes.push(SeenNode { node, at: from_millis(seen), live, schema: schema.unsigned_abs() });
    }
    Ok(NodeList { now: from_millis(now), nodes })
}
