//! What operators need: the keys and the store.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use countersign_core::{KeyId, KeyRing, after};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::health::STORE_TIMEOUT;
use crate::key_file::KeyFileError;
use crate::private::body;
use crate::private::tokens::store_problem;
use crate::problem::Problem;
use crate::{App, log_news};

/// The keys of the ring, without their secrets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeysDocument {
    /// Oldest first.
    keys: Vec<KeyDocument>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyDocument {
    /// Its name, which is in the clear in every token that it sealed.
    id: String,
    /// From when on it seals, unless a newer key does.
    #[schema(value_type = String, format = DateTime)]
    active_from: Timestamp,
    /// Whether it is the one that seals now. All keys open.
    sealing: bool,
    /// The servers on the same store that do not hold it yet. It seals only when there are none.
    waits_for: Vec<String>,
}

/// Which key to revoke.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeKeyRequest {
    /// Its name.
    id: String,
    /// Whether to add a new key in the same step, which seals at once. Needed if it is the one that seals.
    #[serde(default)]
    rotate: bool,
}

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

/// How to rotate.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateRequest {
    /// In how many seconds the new key begins to seal: 0 when left out. With several servers on one ring, time to hand
    /// the file to them all.
    #[schema(maximum = 31_536_000)]
    #[serde(default)]
    activate_in: u32,
}

/// What is in the store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoreDocument {
    /// Which kind of store.
    kind: &'static str,
    /// The version of its schema.
    schema: u32,
    /// Tokens consumed, as far as not purged.
    consumed: u64,
    /// Tokens revoked, as far as not purged.
    revoked: u64,
    /// Tokens created before this are refused.
    #[schema(value_type = String, format = DateTime)]
    fence: Timestamp,
    /// Tokens that expired before this have been forgotten.
    #[schema(value_type = String, format = DateTime)]
    horizon: Timestamp,
    /// Bytes on disk, where that can be known.
    bytes: Option<u64>,
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
    /// Tokens created before this are refused.
    #[schema(value_type = String, format = DateTime)]
    fence: Timestamp,
}

/// An empty object, for an operation without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Lists the keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = KeysDocument)))]
pub(crate) async fn list_keys(State(app): State<Arc<App>>) -> Json<KeysDocument> {
    Json(keys_document(&app))
}

/// Adds a key to the ring, on disk and in use.
#[utoipa::path(
    post, path = "/v1/keys/rotate", tag = "keys", request_body(content = RotateRequest, description = "may be empty"),
    responses((status = 200, body = KeysDocument), (status = 409, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn rotate_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeysDocument>, Problem> {
    let request: RotateRequest = body::read_json(&headers, body).await?;
    let now = app.tokens.clock().now();
    let active_from = after(now, Duration::from_secs(request.activate_in.into()));
    let keep = app.tokens.keys_in_use().await;
    let old = app.tokens.keys();
    change_keys(&app, move |app| app.key_file.rotate(now, active_from, &keep, &**app.tokens.entropy()))
        .await?;
    app.tell_of_keys(&old, &caller);
    let document = keys_document(&app);
    tracing::info!(
        keys = document.keys.len(),
        request = caller.request.map(display),
        "the key ring was rotated"
    );
    Ok(Json(document))
}

/// Takes a key that is not secret any more out of the ring, on disk and in use. Every token that it sealed is refused
/// from then on, by the other servers on the same store within seconds.
#[utoipa::path(
    post, path = "/v1/keys/revoke", tag = "keys", request_body = RevokeKeyRequest,
    responses(
        (status = 200, body = KeysDocument), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)
    )
)]
pub(crate) async fn revoke_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeysDocument>, Problem> {
    let request: RevokeKeyRequest = body::read_json(&headers, body).await?;
    let key: KeyId = request
        .id
        .parse()
        .map_err(|error: countersign_core::NotAKeyId| Problem::bad_request("key-id", error.to_string()))?;
    let now = app.tokens.clock().now();
    if !request.rotate && app.tokens.sealing_key(&app.tokens.keys(), now) == Some(key) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "key-seals",
            format!(
                "key {key} is the one that seals; to replace it in the same step, ask for that with `rotate`"
            ),
        ));
    }
    let old = app.tokens.keys();
    change_keys(&app, move |app| app.key_file.revoke(key, request.rotate, now, &**app.tokens.entropy()))
        .await?;
    app.tell_of_keys(&old, &caller);
    tracing::warn!(%key, request = caller.request.map(display), "the key was revoked: tokens that it sealed are refused");
    Ok(Json(keys_document(&app)))
}

/// Tells which servers serve from the store.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "store",
    responses((status = 200, body = NodesDocument), (status = 503, body = Problem))
)]
pub(crate) async fn list_nodes(State(app): State<Arc<App>>) -> Result<Json<NodesDocument>, Problem> {
    let roll = app.tokens.store().roll(app.tokens.clock().now()).await;
    let roll = roll.map_err(|error| store_problem(&error))?;
    let this = app.tokens.node_id();
    let nodes = roll.nodes.into_iter().map(|seen| NodeDocument {
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
    Ok(Json(NodesDocument { now: roll.now, this: this.map(|id| id.to_string()), nodes: nodes.collect() }))
}

/// Changes the ring on disk, puts it to use, and tells the other servers.
async fn change_keys(
    app: &Arc<App>,
    change: impl FnOnce(&App) -> Result<KeyRing, KeyFileError> + Send + 'static,
) -> Result<(), Problem> {
    let changed = {
        let app = Arc::clone(app);
        tokio::task::spawn_blocking(move || change(&app)).await
    };
    match changed {
        Ok(Ok(ring)) => take_up(app, ring).await,
        Ok(Err(error @ KeyFileError::Ring { .. })) => {
            Err(Problem::new(StatusCode::CONFLICT, "key-ring", error.to_string()))
        }
        Ok(Err(error)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "key-ring", error.to_string())),
        Err(_) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The change of the key ring broke off.",
        )),
    }
}

/// Puts a ring to use that is on disk already. Nobody waits for a store that hangs longer than for a handshake.
async fn take_up(app: &Arc<App>, ring: KeyRing) -> Result<(), Problem> {
    let replaced = tokio::time::timeout(STORE_TIMEOUT, app.tokens.replace_keys(ring.clone())).await;
    match replaced {
        Ok(Ok(news)) => news.iter().for_each(log_news),
        Ok(Err(error)) => return Err(Problem::new(StatusCode::CONFLICT, "key-ring", error.to_string())),
        Err(_) => app.tokens.set_keys(ring),
    }
    Ok(())
}

/// Tells what is in the store.
#[utoipa::path(
    get, path = "/v1/store", tag = "store",
    responses((status = 200, body = StoreDocument), (status = 503, body = Problem))
)]
pub(crate) async fn store_stats(State(app): State<Arc<App>>) -> Result<Json<StoreDocument>, Problem> {
    let stats = app.tokens.store().stats().await.map_err(|error| store_problem(&error))?;
    Ok(Json(StoreDocument {
        kind: stats.kind,
        schema: stats.schema,
        consumed: stats.consumed,
        revoked: stats.revoked,
        fence: stats.fence,
        horizon: stats.horizon,
        bytes: stats.bytes,
    }))
}

/// Removes the records of tokens that expired longer ago than the retention; the server does so by itself every
/// minute.
#[utoipa::path(
    post, path = "/v1/store/purge", tag = "store",
    responses((status = 200, body = PurgeDocument), (status = 503, body = Problem))
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

/// Moves the fence to now: every token issued so far is refused from here on.
#[utoipa::path(
    post, path = "/v1/store/fence", tag = "store",
    responses((status = 200, body = FenceDocument), (status = 503, body = Problem))
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

fn keys_document(app: &App) -> KeysDocument {
    let (ring, now) = (app.tokens.keys(), app.tokens.clock().now());
    let sealing = app.tokens.sealing_key(&ring, now);
    let document = |key: &countersign_core::Key| KeyDocument {
        id: key.id().to_string(),
        active_from: key.active_from(),
        sealing: Some(key.id()) == sealing,
        waits_for: app.tokens.waits_for(key.id()),
    };
    let keys = ring.keys().iter().map(document).collect();
    KeysDocument { keys }
}
