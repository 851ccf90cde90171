//! Tokens as JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::{
    Audience, Claims, GetError, IssueError, Issued, LoginToken, Lookup, NewToken, Status, StoreError,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};

use crate::App;
use crate::caller::Caller;
use crate::change::NotIssued;
use crate::private::body;
use crate::problem::Problem;
use crate::public::TOKEN_TYPE;

/// What a new token shall be like. Every member may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// The base URL of the bug tracker that alone may redeem it. Left out, any tracker may; neither an empty text nor
    /// `null` stands for that.
    #[schema(example = "https://bugs.example.org/", value_type = String, required = false)]
    #[serde(default, deserialize_with = "body::given")]
    audience: Option<String>,
    /// How long it shall live, in seconds, from 1 to 86400.
    #[schema(minimum = 1, maximum = 86400)]
    #[serde(default, deserialize_with = "body::whole_number")]
    ttl: Option<u64>,
    /// What the redeeming tracker shall know: at most 1024 bytes of compact JSON.
    #[schema(value_type = Option<Object>)]
    claims: Option<Map<String, Value>>,
}

/// A token, and how it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenDocument {
    /// The token itself.
    token_id: String,
    /// What it is called in records, events and logs. Not a secret.
    id: String,
    /// `BUGTRACKER`.
    token_type: &'static str,
    /// What it is, for people.
    title: String,
    /// Its URL.
    canonical_url: String,
    /// Where a tracker redeems it.
    handshake_url: String,
    /// The base URL of the tracker it is bound to; empty when unbound.
    audience: String,
    /// The named caller for which it was issued; empty when that has no name.
    caller: String,
    /// The claims for the redeeming tracker.
    #[schema(value_type = Object)]
    claims: Map<String, Value>,
    /// `live`, `consumed`, `revoked`, `expired`, or `fenced`.
    status: &'static str,
    /// When it was issued (RFC 3339).
    #[schema(value_type = String, format = DateTime)]
    date_created: Timestamp,
    /// When it expires, or expired.
    #[schema(value_type = String, format = DateTime)]
    date_expires: Timestamp,
    /// When it was consumed; `false` while it is not.
    #[schema(schema_with = date_or_false)]
    date_consumed: Consumed,
}

/// A date, or `false`, as in Launchpad's protocol.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Consumed {
    At(Timestamp),
    Not(bool),
}

fn date_or_false() -> Schema {
    let date = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let no = ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([false]));
    Schema::OneOf(OneOfBuilder::new().item(date).item(no).build())
}

/// Whether a revocation took effect.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revocation {
    /// True if the token was still live.
    revoked: bool,
}

/// Issues a token.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body(content = TokenRequest, description = "may be empty"),
    responses((status = 201, body = TokenDocument))
)]
pub(crate) async fn issue(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<TokenDocument>), Response> {
    let _timing = app.events.tally().json_call();
    let wanted = read_request(&headers, body).await.map_err(IntoResponse::into_response)?;
    let Issued { token, text } = app.issue(wanted, &caller).map_err(|error| match error {
        NotIssued::NotAllowed(reason) => reason.into_response(),
        NotIssued::Failed(error) => issue_problem(&error).into_response(),
    })?;
    Ok((StatusCode::CREATED, Json(document(&app, text.into_exposed(), &token, &Status::Live))))
}

async fn read_request(headers: &HeaderMap, body: Body) -> Result<NewToken, Problem> {
    let request: TokenRequest = body::read_json(headers, body).await?;
    Ok(NewToken {
        audience: read_audience(request.audience.as_deref())?,
        lifetime: request.ttl.map(Duration::from_secs),
        claims: Claims::new(request.claims.unwrap_or_default())
            .map_err(|error| Problem::bad_request("claims", format!("The {error}.")))?,
        issued_by: None,
    })
}

/// Shows a token. Looking never consumes.
#[utoipa::path(
    get, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path, description = "the token itself")),
    responses(
        (status = 200, body = TokenDocument),
        (status = 404, body = Problem), (status = 410, body = Problem)
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(text): Path<String>,
) -> Result<Json<TokenDocument>, Problem> {
    let _timing = app.events.tally().json_call();
    let Lookup { token, status } = app.tokens.get(&text).await.map_err(|error| get_problem(&error))?;
    Ok(Json(document(&app, text, &token, &status)))
}

/// Revokes a token.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path, description = "the token itself")),
    responses((status = 200, body = Revocation), (status = 404, body = Problem))
)]
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Revocation>, Problem> {
    let _timing = app.events.tally().json_call();
    let revoked = app.revoke(text.into(), caller).await.map_err(|error| get_problem(&error))?;
    Ok(Json(Revocation { revoked }))
}

/// Reads an audience. An empty one is a mistake: mostly a variable that was not set.
fn read_audience(text: Option<&str>) -> Result<Option<Audience>, Problem> {
    let Some(text) = text else { return Ok(None) };
    if text.trim().is_empty() {
        let detail = "The audience is empty; give the base URL of the bug tracker, or leave the member out for a token that \
                      any tracker can redeem.";
        return Err(Problem::bad_request("audience", detail));
    }
    let audience = Audience::parse(text);
    audience.map(Some).map_err(|error| Problem::bad_request("audience", format!("The audience {error}.")))
}

fn document(app: &App, text: String, token: &LoginToken, status: &Status) -> TokenDocument {
    TokenDocument {
        id: token.id().to_string(),
        token_type: TOKEN_TYPE,
        title: app.names.title(),
        canonical_url: app.names.canonical_url(&text),
        handshake_url: app.names.handshake_url(&text),
        token_id: text,
        audience: token.audience().map_or(String::new(), ToString::to_string),
        caller: token.issued_by().map_or(String::new(), ToString::to_string),
        claims: token.claims().members().clone(),
        status: match status {
            Status::Live => "live",
            Status::Consumed(_) => "consumed",
            Status::Revoked { .. } => "revoked",
            Status::Expired => "expired",
            Status::Fenced => "fenced",
        },
        date_created: token.created(),
        date_expires: token.expires(),
        date_consumed: match status {
            Status::Consumed(consumption) => Consumed::At(consumption.at),
            Status::Live | Status::Revoked { .. } | Status::Expired | Status::Fenced => Consumed::Not(false),
        },
    }
}

fn issue_problem(error: &IssueError) -> Problem {
    let (status, reason) = match error {
        IssueError::AudienceRequired => (StatusCode::BAD_REQUEST, "audience-required"),
        IssueError::Lifetime => (StatusCode::BAD_REQUEST, "ttl"),
        IssueError::Seal(_) => (StatusCode::BAD_REQUEST, "too-long"),
        IssueError::Clock(_) => (StatusCode::SERVICE_UNAVAILABLE, "clock"),
        IssueError::Entropy(_) | IssueError::NoKey => (StatusCode::SERVICE_UNAVAILABLE, "cannot-issue"),
    };
    Problem::new(status, reason, error.to_string())
}

fn get_problem(error: &GetError) -> Problem {
    match error {
        GetError::NotOurs(_) => Problem::new(StatusCode::NOT_FOUND, "unknown", error.to_string()),
        GetError::Forgotten { .. } => Problem::new(StatusCode::GONE, "forgotten", error.to_string()),
        GetError::Store(error) => store_problem(error),
    }
}

/// The store's reason goes to the operator's log, and also to this caller: the private API is the operator's own.
pub(crate) fn store_problem(error: &StoreError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.label(), error.to_string())
}
