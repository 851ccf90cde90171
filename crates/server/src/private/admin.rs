//! Routes for operators: the store, and the nodes that use it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use countersign_core::{StoreError, StoreStats};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::caller::Caller;
use crate::private::body::{self, Nothing};
use crate::private::tokens::store_problem;
use crate::problem::Problem;
use crate::record_count::Count;

/// The servers that serve from the store, as they said of themselves.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodesDocument {
    /// The store's clock.
    #[schema(value_type = String, format = DateTime)]
    now: Timestamp,
    /// This server's id; absent before it has checked in.
    this: Option<String>,
    /// Everyone who checked in during the last day.
    nodes: Vec<NodeDocument>,
}

/// A server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeDocument {
    /// Its name, new at each start.
    id: String,
    /// Its machine.
    host: String,
    /// Where its private API listens.
    private_url: String,
    /// The program's version.
    version: String,
    /// The newest schema of the store that it knows.
    schema: u32,
    /// Whether it serves now, as far as the store can tell.
    live: bool,
    /// When it checked in last, by the store's clock.
    #[schema(value_type = String, format = DateTime)]
    seen: Timestamp,
    /// What its own clock showed then.
    #[schema(value_type = String, format = DateTime)]
    clock: Timestamp,
    /// The names of its keys, oldest first.
    keys: Vec<String>,
    /// The key that it seals with.
    sealing: Option<String>,
}

/// What is in the store.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoreDocument {
    /// Which kind of store.
    kind: &'static str,
    /// The version of its schema.
    schema: u32,
    /// Tokens consumed, as far as not purged.
    consumed: u64,
    /// Tokens revoked, as far as not purged.
    revoked: u64,
    /// Tokens created before this are rejected.
    #[schema(value_type = String, format = DateTime)]
    fence: Timestamp,
    /// The latest expiry of a token whose record was removed.
    #[schema(value_type = String, format = DateTime)]
    horizon: Timestamp,
    /// Bytes on disk, where that can be known.
    bytes: Option<u64>,
}

impl From<StoreStats> for StoreDocument {
    fn from(stats: StoreStats) -> Self {
        let StoreStats { kind, schema, consumed, revoked, fence, horizon, bytes } = stats;
        Self { kind, schema, consumed, revoked, fence, horizon, bytes }
    }
}

/// What a purge removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PurgeDocument {
    /// Records removed.
    purged: u64,
}

/// Where the fence stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FenceDocument {
    /// Tokens created before this are rejected.
    #[schema(value_type = String, format = DateTime)]
    fence: Timestamp,
}

/// Tells which servers serve from the store.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "store",
    responses((status = 200, body = NodesDocument))
)]
pub(crate) async fn list_nodes(State(app): State<Arc<App>>) -> Result<Json<NodesDocument>, Problem> {
    let node_list = app.tokens.store().node_list(app.tokens.clock().now()).await;
    let node_list = node_list.map_err(|error| store_problem(&error))?;
    let this = app.tokens.node_id();
    let nodes = node_list.nodes.into_iter().map(|seen| NodeDocument {
        id: seen.node.id.to_string(),
        host: seen.node.host,
        private_url: seen.node.private_url,
        version: seen.node.version,
        schema: seen.schema,
        live: seen.live || (!app.tokens.store().is_shared() && this == Some(seen.node.id)),
        seen: seen.at,
        clock: seen.node.clock,
        keys: seen.node.keys.iter().map(|key| key.id.to_string()).collect(),
        sealing: seen.node.sealing.map(|key| key.to_string()),
    });
    Ok(Json(NodesDocument {
        now: node_list.now,
        this: this.map(|id| id.to_string()),
        nodes: nodes.collect(),
    }))
}

/// Tells what is in the store.
#[utoipa::path(
    get, path = "/v1/store", tag = "store",
    responses((status = 200, body = StoreDocument))
)]
pub(crate) async fn store_stats(State(app): State<Arc<App>>) -> Result<Json<StoreDocument>, Problem> {
    let counted = app.record_count.now(&app).await.map_err(|error| store_problem(&error))?;
    let Some(Count { stats, .. }) = counted else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Busy.label(),
            "the records are so many that they are still being counted; ask again in a minute",
        ));
    };
    Ok(Json(stats.into()))
}

/// Removes the records of tokens that expired longer ago than the retention; the server does so by itself every
/// minute.
#[utoipa::path(
    post, path = "/v1/store/purge", tag = "store", request_body(content = Nothing, description = "may be empty"),
    responses((status = 200, body = PurgeDocument))
)]
pub(crate) async fn purge_store(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PurgeDocument>, Problem> {
    let Nothing {} = body::read_json(&headers, body).await?;
    let purged = app.purge().await.map_err(|error| store_problem(&error))?;
    Ok(Json(PurgeDocument { purged }))
}

/// Moves the fence half a minute ahead: every token issued so far is rejected from here on, also by a clock that is ahead.
#[utoipa::path(
    post, path = "/v1/store/fence", tag = "store", request_body(content = Nothing, description = "may be empty"),
    responses((status = 200, body = FenceDocument))
)]
pub(crate) async fn fence_store(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FenceDocument>, Problem> {
    let Nothing {} = body::read_json(&headers, body).await?;
    let fence = app.move_fence(caller).await.map_err(|error| store_problem(&error))?;
    Ok(Json(FenceDocument { fence }))
}
