//! What operators need: the keys and the store.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use countersign_core::{KeyRing, after};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::key_file::KeyFileError;
use crate::private::body;
use crate::private::tokens::store_problem;
use crate::problem::Problem;

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
    Json(keys_document(&app.tokens.keys(), app.tokens.clock().now()))
}

/// Adds a key to the ring, on disk and in use.
#[utoipa::path(
    post, path = "/v1/keys/rotate", tag = "keys", request_body(content = RotateRequest, description = "may be empty"),
    responses((status = 200, body = KeysDocument), (status = 409, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn rotate_keys(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeysDocument>, Problem> {
    let request: RotateRequest = body::read_json(&headers, body).await?;
    let now = app.tokens.clock().now();
    let active_from = after(now, Duration::from_secs(request.activate_in.into()));
    let rotated = {
        let app = Arc::clone(&app);
        tokio::task::spawn_blocking(move || app.key_file.rotate(now, active_from, &**app.tokens.entropy()))
            .await
    };
    let ring = match rotated {
        Ok(Ok(ring)) => ring,
        Ok(Err(error @ KeyFileError::Ring { .. })) => {
            return Err(Problem::new(StatusCode::CONFLICT, "key-ring", error.to_string()));
        }
        Ok(Err(error)) => {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "key-ring", error.to_string()));
        }
        Err(_) => {
            return Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The rotation broke off.",
            ));
        }
    };
    let document = keys_document(&ring, now);
    app.tokens.set_keys(ring);
    tracing::info!(keys = document.keys.len(), "the key ring was rotated");
    Ok(Json(document))
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
    let purged = app.tokens.purge().await.map_err(|error| store_problem(&error))?;
    Ok(Json(PurgeDocument { purged }))
}

/// Moves the fence to now: every token issued so far is refused from here on.
#[utoipa::path(
    post, path = "/v1/store/fence", tag = "store",
    responses((status = 200, body = FenceDocument), (status = 503, body = Problem))
)]
pub(crate) async fn fence_store(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FenceDocument>, Problem> {
    let Nothing {} = body::read_json(&headers, body).await?;
    let fence = app.tokens.fence().await.map_err(|error| store_problem(&error))?;
    tracing::info!(%fence, "the fence was moved");
    Ok(Json(FenceDocument { fence }))
}

fn keys_document(ring: &KeyRing, now: Timestamp) -> KeysDocument {
    let sealing = ring.sealing_key(now).map(countersign_core::Key::id);
    let keys = ring
        .keys()
        .iter()
        .map(|key| KeyDocument {
            id: key.id().to_string(),
            active_from: key.active_from(),
            sealing: Some(key.id()) == sealing,
        })
        .collect();
    KeysDocument { keys }
}
