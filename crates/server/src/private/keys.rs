//! Routes for the keys: list, rotate, revoke, rewrap.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use countersign_core::{InvalidKeyId, Key, KeyChange, KeyId, KeyRing, KeyRingError, RingChange, RingError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::app::KeyChangeError;
use crate::caller::Caller;
use crate::private::body::{self, Nothing};
use crate::problem::Problem;

/// The keys of the ring, without their secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeysDocument {
    /// Oldest first.
    keys: Vec<KeyDocument>,
}

impl KeysDocument {
    /// The keys of this ring, of which one seals now.
    pub fn of(ring: &KeyRing, now: Timestamp) -> Self {
        let sealing = ring.sealing_key(now).map(Key::id);
        let document = |key: &Key| KeyDocument {
            id: key.id().to_string(),
            active_from: key.active_from(),
            sealing: Some(key.id()) == sealing,
            waits_for: Vec::new(),
        };
        Self { keys: ring.keys().iter().map(document).collect() }
    }
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
    /// Always empty: no key waits for a server any more.
    waits_for: Vec<String>,
}

/// Which key to revoke.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeKeyRequest {
    /// Its name.
    id: String,
    /// Whether to add a new key in the same step, which seals at once. Needed if it is the one that seals and there is no
    /// newer one.
    #[serde(default)]
    rotate: bool,
}

/// How to rotate.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateRequest {
    /// In how many seconds the new key begins to seal: 0 when left out. With several servers on one store it is 10 at
    /// least.
    #[schema(maximum = 31_536_000, value_type = Option<u32>, required = false)]
    #[serde(default, deserialize_with = "body::whole_number")]
    activate_in: Option<u32>,
}

/// Lists the keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = KeysDocument)))]
pub(crate) async fn list_keys(State(app): State<Arc<App>>) -> Json<KeysDocument> {
    Json(KeysDocument::of(&app.tokens.keys(), app.tokens.clock().now()))
}

/// Adds a key to the ring, on disk and in use, on every server of the store.
#[utoipa::path(
    post, path = "/v1/keys/rotate", tag = "keys", request_body(content = RotateRequest, description = "may be empty"),
    responses((status = 200, body = KeysDocument), (status = 409, body = Problem))
)]
pub(crate) async fn rotate_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeysDocument>, Problem> {
    let request: RotateRequest = body::read_json(&headers, body).await?;
    let activate_in = Duration::from_secs(request.activate_in.unwrap_or_default().into());
    change(&app, RingChange::Keys(KeyChange::Rotate { activate_in }), caller).await
}

/// Takes a key that is not secret any more out of the ring, on disk and in use. Every token that it sealed is rejected
/// from then on, by every server of the store.
#[utoipa::path(
    post, path = "/v1/keys/revoke", tag = "keys", request_body = RevokeKeyRequest,
    responses((status = 200, body = KeysDocument), (status = 409, body = Problem))
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
        .map_err(|error: InvalidKeyId| Problem::bad_request("key-id", error.to_string()))?;
    change(&app, RingChange::Keys(KeyChange::Revoke { key, rotate: request.rotate }), caller).await
}

/// Locks the ring that a shared store keeps with the newest key of this server's key file, and with no other one.
#[utoipa::path(
    post, path = "/v1/keys/rewrap", tag = "keys", request_body(content = Nothing, description = "may be empty"),
    responses((status = 200, body = KeysDocument), (status = 409, body = Problem))
)]
pub(crate) async fn rewrap_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeysDocument>, Problem> {
    let Nothing {} = body::read_json(&headers, body).await?;
    change(&app, RingChange::Rewrap, caller).await
}

async fn change(app: &Arc<App>, change: RingChange, caller: Caller) -> Result<Json<KeysDocument>, Problem> {
    let request = caller.request.map(tracing::field::display);
    app.change_keys(change, caller).await.map_err(|error| key_problem(&error))?;
    match change {
        RingChange::Keys(KeyChange::Rotate { .. } | KeyChange::Add) => {
            tracing::info!(request, "the key ring was rotated");
        }
        RingChange::Keys(KeyChange::Revoke { key, .. }) => {
            tracing::warn!(%key, request, "the key was revoked: tokens that it sealed are refused");
        }
        RingChange::Rewrap => tracing::info!(request, "the key ring in the store was locked anew"),
    }
    Ok(Json(KeysDocument::of(&app.tokens.keys(), app.tokens.clock().now())))
}

fn key_problem(error: &KeyChangeError) -> Problem {
    let (status, reason) = match error {
        _ if matches!(error.objection(), Some(KeyRingError::Seals(_))) => (StatusCode::CONFLICT, "key-seals"),
        _ if error.objection().is_some() => (StatusCode::CONFLICT, "key-ring"),
        KeyChangeError::NotShared | KeyChangeError::Ring(RingError::NotEverywhere { .. }) => {
            (StatusCode::CONFLICT, "key-ring")
        }
        KeyChangeError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"),
        KeyChangeError::BrokeOff => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        KeyChangeError::File(_) | KeyChangeError::Ring(_) | KeyChangeError::UnderWay => {
            (StatusCode::SERVICE_UNAVAILABLE, "key-ring")
        }
    };
    Problem::new(status, reason, error.to_string())
}
