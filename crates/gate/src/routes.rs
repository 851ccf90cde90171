//! Every route of the gate.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{any, get};
use countersign_server::metrics_answer;

use crate::config::ReverseProxy;
use crate::gate::Gate;
use crate::health::{HEALTH, Health};
use crate::{auth, login};

/// Asked by the proxy about each request to the tracker.
pub(crate) const AUTH: &str = "/auth";
/// Counts, for a scraper.
const METRICS: &str = "/metrics";

/// The paths that no issuer's tokens can arrive at. A proxy passes on none of them.
pub(crate) const OWN_PATHS: [&str; 3] = [AUTH, METRICS, HEALTH];

/// The longest body of a login.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// The address at the other end of the connection; `None` for a Unix socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

pub(crate) fn routes(gate: Arc<Gate>) -> Router {
    let mut router = Router::new().route(AUTH, any(auth::answer));
    if gate.config.proxy == ReverseProxy::Envoy {
        for below in ["/", "/{*path}"] {
            router = router.route(&format!("{AUTH}{below}"), any(auth::answer));
        }
    }
    router
        .route(METRICS, get(metrics))
        .route(HEALTH, get(health))
        // The paths of the issuers are settings.
        .fallback(login)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(gate)
}

/// The page's address has the token in it, and must not be sent on as the `Referer` of another page.
async fn login(State(gate): State<Arc<Gate>>, peer: Extension<Peer>, request: Request) -> Response {
    let mut response = if let Ok(_place) = gate.login_places.try_acquire() {
        login::answer(State(Arc::clone(&gate)), peer, request).await
    } else {
        let Extension(Peer(peer)) = peer;
        login::full(&gate, peer, &request)
    };
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn metrics(State(gate): State<Arc<Gate>>, headers: HeaderMap) -> Response {
    let open = gate.sessions.counts(gate.clock.now()).await.ok();
    metrics_answer(&headers, gate.metrics.text(open.as_ref()))
}

async fn health(State(gate): State<Arc<Gate>>) -> Response {
    if let Err(error) = gate.sessions.counts(gate.clock.now()).await {
        gate.log_limit.warn("unhealthy", gate.clock.now(), &error);
        return text(StatusCode::SERVICE_UNAVAILABLE, Health::Unreadable.sentence());
    }
    // The sessions that there are go on, so no proxy may take the gate for dead.
    let health = match gate.sessions.probe_write().await {
        Ok(()) => Health::Works,
        Err(error) => {
            gate.log_limit.warn("unwritable", gate.clock.now(), &error);
            Health::Unwritable
        }
    };
    text(StatusCode::OK, health.sentence())
}

pub(crate) fn text(status: StatusCode, sentence: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{sentence}\n")));
    *response.status_mut() = status;
    response.headers_mut().extend([
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]);
    response
}
