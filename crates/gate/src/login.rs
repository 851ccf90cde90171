//! How a token becomes a session.
//!
//! | request | answer |
//! |---|---|
//! | `GET {base path}{login path}/{token}` | 200 and the session's cookie if the issuer says yes, 401 otherwise |
//! | `POST {base path}{login path}` with `{"token": …}` | the same, with JSON |
//! | `GET {base path}{login path}/check` | 401: by this Launchpad detects a tracker that it can log in to |
//! | the same GET to load a page in advance, or by a link of another site | 401; no token is used up |
//! | another method | 405; no token is used up |
//! | too many logins from one address | 429 |
//! | a body that does not arrive in time | 408 |
//! | more logins at once than the gate has places for | 503 |
//!
//! No answer redirects, so there is no place that a request could name. Each login opens a new session, whatever cookies
//! come along.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::after;
use countersign_verifier::{VerifyError, is_prefetch};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::auth::comes_from_another_site;
use crate::events::{Event, EventKind};
use crate::gate::{Gate, Issuer};
use crate::health::DETECTED;
use crate::routes::{Peer, text};
use crate::sessions::{Session, id_of};

/// RFC 9110 section 11.6.1 wants a challenge with every 401. There is no credential to offer but a token.
pub(crate) const CHALLENGE: HeaderValue = HeaderValue::from_static("LoginToken realm=\"launchpad-auth\"");

/// How long the body of a login may take.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginOutcome {
    Accepted,
    /// Used already, expired or revoked.
    Spent,
    /// For another tracker.
    Relay,
    /// Not a token of the issuer.
    Unknown,
    Malformed,
    /// The issuer has refused too many lately.
    Limited,
    /// This address has tried too often lately.
    TooMany,
    /// More logins are under way than there are places.
    Full,
    /// Its body did not come in time.
    Late,
    /// A browser was sent here by another site.
    CrossSite,
    Unreachable,
    Unexpected,
    /// The token was good, and the session could not be kept.
    NotKept,
}

impl LoginOutcome {
    pub(crate) const ALL: [Self; 13] = [
        Self::Accepted,
        Self::Spent,
        Self::Relay,
        Self::Unknown,
        Self::Malformed,
        Self::Limited,
        Self::TooMany,
        Self::Full,
        Self::Late,
        Self::CrossSite,
        Self::Unreachable,
        Self::Unexpected,
        Self::NotKept,
    ];

    /// The label of the metric.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Spent => "spent",
            Self::Relay => "relay",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
            Self::Limited => "limited",
            Self::TooMany => "too_many",
            Self::Full => "full",
            Self::Late => "late",
            Self::CrossSite => "cross_site",
            Self::Unreachable => "unreachable",
            Self::Unexpected => "unexpected",
            Self::NotKept => "not_kept",
        }
    }

    fn of(error: &VerifyError) -> Self {
        match error {
            VerifyError::MalformedToken => Self::Malformed,
            VerifyError::Refused { status: 403 } => Self::Relay,
            VerifyError::Refused { status: 404 } => Self::Unknown,
            VerifyError::Refused { status: 429 } => Self::Limited,
            VerifyError::Refused { .. } => Self::Spent,
            VerifyError::Unreachable { .. } => Self::Unreachable,
            VerifyError::UnexpectedAnswer { .. } => Self::Unexpected,
            VerifyError::NoRandomness => Self::NotKept,
        }
    }
}

/// A session that has begun.
struct LoggedIn {
    id: String,
    ends: Timestamp,
    cookie: HeaderValue,
}

/// Why a login did not succeed, for the caller.
struct Rejected {
    status: StatusCode,
    sentence: &'static str,
    retry_after: Option<u64>,
}

impl Rejected {
    fn unauthorized(sentence: &'static str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, sentence, retry_after: None }
    }
}

#[derive(Deserialize)]
struct LoginDocument {
    token: String,
}

/// Whether the answer is for a program that reads JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

pub(crate) async fn answer(
    State(gate): State<Arc<Gate>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    let Some((place, token)) = gate.issuer_at(path) else {
        return text(StatusCode::NOT_FOUND, "There is nothing here.");
    };
    let token = token.to_owned();
    let headers = request.headers().clone();
    let refused = |outcome: LoginOutcome, error: &dyn Display| {
        if let Some(issuer) = gate.issuers.get(place) {
            gate.refused(issuer, outcome, gate.client(peer, &headers), error);
        }
    };
    match (request.method(), token.is_empty()) {
        (&Method::GET, _) if is_prefetch(&headers) => {
            let sentence = "This request only loads a page in advance, so it did not use the token up.";
            reject(&Rejected::unauthorized(sentence), Form::Text)
        }
        (&Method::GET, _) => gate.finish(place, token, peer, &headers, Form::Text).await,
        (&Method::POST, true) => {
            let document = Json::<LoginDocument>::from_request(request, &());
            match tokio::time::timeout(BODY_TIMEOUT, document).await {
                Ok(Ok(Json(document))) => {
                    gate.finish(place, document.token, peer, &headers, Form::Json).await
                }
                Ok(Err(rejection)) => {
                    let rejected = not_a_document(&rejection);
                    refused(LoginOutcome::Malformed, &rejected.sentence);
                    reject(&rejected, Form::Json)
                }
                Err(_) => {
                    refused(LoginOutcome::Late, &"its body did not come in time");
                    let sentence = "The token took too long to arrive. Send the request again.";
                    let status = StatusCode::REQUEST_TIMEOUT;
                    reject(&Rejected { status, sentence, retry_after: None }, Form::Json)
                }
            }
        }
        // HEAD too: looking must not use a token up.
        (_, is_collection) => {
            let (allow, sentence) = if is_collection {
                ("GET, POST", "Send the token as JSON with POST, or in the path with GET.")
            } else {
                ("GET", "Only GET requests are accepted here.")
            };
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, sentence);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            response
        }
    }
}

/// Answers a login for which there is no place.
pub(crate) fn full(gate: &Gate, peer: Option<IpAddr>, request: &Request) -> Response {
    let issuer = gate.issuer_at(request.uri().path()).and_then(|(place, _)| gate.issuers.get(place));
    let Some(issuer) = issuer else { return text(StatusCode::NOT_FOUND, "There is nothing here.") };
    let client = gate.client(peer, request.headers());
    gate.refused(issuer, LoginOutcome::Full, client, &"too many logins are under way");
    let sentence = "Too many logins are under way. Try again.";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    reject(&Rejected { status, sentence, retry_after: Some(1) }, Form::Text)
}

fn not_a_document(rejection: &JsonRejection) -> Rejected {
    let sentence = match rejection {
        // A form can be sent by any site; JSON takes the consent of this one.
        JsonRejection::MissingJsonContentType(_) => "Send JSON, with Content-Type: application/json.",
        _ => "Send a JSON object with the token: {\"token\": \"…\"}.",
    };
    Rejected { status: rejection.status(), sentence, retry_after: None }
}

impl Gate {
    /// Runs a login to its end, also if the caller goes away meanwhile, and answers.
    async fn finish(
        self: Arc<Self>,
        place: usize,
        token: String,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        form: Form,
    ) -> Response {
        let client = self.client(peer, headers);
        let is_cross_site = comes_from_another_site(headers, &self.config.base_url);
        let gate = Arc::clone(&self);
        let login = self.tasks.spawn(async move {
            let issuer = gate.issuers.get(place)?;
            Some(match gate.log_in(issuer, &token, client, is_cross_site).await {
                Ok(session) => accept(&session, issuer, form),
                Err(rejected) => reject(&rejected, form),
            })
        });
        let failed =
            || text(StatusCode::INTERNAL_SERVER_ERROR, "The login failed. Try again with a new token.");
        login.await.ok().flatten().unwrap_or_else(failed)
    }

    /// Counts, records and logs that a login was refused.
    fn refused(&self, issuer: &Issuer, outcome: LoginOutcome, client: Option<IpAddr>, error: &dyn Display) {
        let name = &*issuer.config.name;
        self.metrics.login(name, outcome);
        let now = self.clock.now();
        let Some(left_out) = self.log_limit.admit(outcome.name(), now) else { return };
        let address = client.map(|client| client.to_string());
        self.note(Event::refused(
            EventKind::LoginRefused,
            outcome.name(),
            Some(name),
            address,
            now,
            left_out,
        ));
        let client = client.map(tracing::field::display);
        tracing::warn!(issuer = name, client, outcome = outcome.name(), %error, left_out, "refused a login by token");
    }

    async fn log_in(
        &self,
        issuer: &Issuer,
        token: &str,
        client: Option<IpAddr>,
        is_cross_site: bool,
    ) -> Result<LoggedIn, Rejected> {
        if token == "check" {
            return Err(Rejected::unauthorized(DETECTED));
        }
        let name = &*issuer.config.name;
        let tell = |outcome, error: &dyn Display| self.refused(issuer, outcome, client, error);
        if is_cross_site {
            tell(LoginOutcome::CrossSite, &"another site sent a browser here");
            return Err(Rejected::unauthorized("Another site sent your browser here, so no token was used."));
        }
        // Clients whose addresses the proxy does not say count as one.
        if let Err(wait) = self.limiter.count(Some(client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))) {
            tell(LoginOutcome::TooMany, &"this address tries too often");
            return Err(Rejected {
                status: StatusCode::TOO_MANY_REQUESTS,
                sentence: "Too many logins from your address. Try again later.",
                retry_after: Some(wait.as_secs() + 1),
            });
        }
        if let Err(error) = issuer.verifier.verify(token).await {
            tell(LoginOutcome::of(&error), &error);
            return Err(Rejected::unauthorized(error.sentence_for_caller()));
        }
        let session = match self.begin(issuer, client).await {
            Ok(session) => session,
            Err(error) => {
                tell(LoginOutcome::NotKept, &error);
                return Err(Rejected::unauthorized(
                    "The token was good, but no session could be opened. Try again with a new one.",
                ));
            }
        };
        self.metrics.login(name, LoginOutcome::Accepted);
        let client = client.map(tracing::field::display);
        let user = issuer.config.user.to_str().unwrap_or_default();
        tracing::info!(issuer = name, user, session = session.id, client, "logged in by token");
        Ok(session)
    }

    async fn begin(&self, issuer: &Issuer, client: Option<IpAddr>) -> Result<LoggedIn, String> {
        let lifetime = issuer.config.session_lifetime;
        let (digest, cookie) =
            self.cookies.new_session(&*self.entropy, lifetime).map_err(|error| error.to_string())?;
        let cookie = HeaderValue::try_from(cookie).map_err(|error| error.to_string())?;
        let began = self.clock.now();
        let ends = after(began, lifetime.unsigned_abs());
        let new = Session {
            id: id_of(&digest),
            tracker: self.tracker.clone(),
            issuer: issuer.config.name.clone(),
            user: issuer.config.user.to_str().unwrap_or_default().to_owned(),
            peer: client.map(|client| client.to_string()),
            began,
            ends,
        };
        let id = new.id.clone();
        self.sessions
            .begin(digest, new, issuer.config.max_sessions)
            .await
            .map_err(|error| error.to_string())?;
        Ok(LoggedIn { id, ends, cookie })
    }
}

fn accept(session: &LoggedIn, issuer: &Issuer, form: Form) -> Response {
    let user = issuer.config.user.to_str().unwrap_or_default();
    let mut response = match form {
        Form::Text => text(StatusCode::OK, &format!("Logged in as {user}.")),
        Form::Json => {
            Json(json!({ "user": user, "session": session.id, "date_expires": session.ends })).into_response()
        }
    };
    response.headers_mut().insert(SET_COOKIE, session.cookie.clone());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn reject(rejected: &Rejected, form: Form) -> Response {
    let mut response = match form {
        Form::Text => text(rejected.status, rejected.sentence),
        Form::Json => {
            let problem = json!({
                "type": "about:blank",
                "title": rejected.status.canonical_reason().unwrap_or_default(),
                "status": rejected.status.as_u16(),
                "detail": rejected.sentence,
            });
            let mut response = (rejected.status, Json(problem)).into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if rejected.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, CHALLENGE);
    }
    if let Some(wait) = rejected.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}
