//! Every route there is, and the short way to the two that nearly all requests take.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tower::ServiceExt;
use tower::util::MapResponseLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::arrival::Arrival;
use crate::deadline::BodyDemand;
use crate::private::page::{self, Page};
use crate::private::{admin, events, guard, keys, openapi, server, tokens, xmlrpc};
use crate::problem::{not_found, with_common_headers};
use crate::{App, health, metrics, public};

/// The templates of the public paths, for whatever tells which one was asked for: a path itself may have a token in it.
pub(crate) const PUBLIC_PATHS: [&str; 4] =
    ["/token/{token}/{view}", "/tokens/{token}/{view}", "/healthz", "/readyz"];

/// The same of the private ones.
pub(crate) const PRIVATE_PATHS: [&str; 27] = [
    "/",
    "/bugs",
    "/bugs/",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/page/events.csv",
    "/page/events.jsonl",
    "/page/icon/{state}",
    "/page/live",
    "/page/script.js",
    "/page/style.css",
    "/page/token",
    "/readyz",
    "/v1/events",
    "/v1/events/stream",
    "/v1/keys",
    "/v1/keys/revoke",
    "/v1/keys/rewrap",
    "/v1/keys/rotate",
    "/v1/nodes",
    "/v1/server",
    "/v1/store",
    "/v1/store/fence",
    "/v1/store/purge",
    "/v1/tokens",
    "/v1/tokens/{token}",
];

/// What a listener answers its requests with: a router, and one route that need not be looked for.
///
/// Handshakes and XML-RPC calls are recognized by their paths as everybody spells them, and go straight to the handlers
/// that the router would find. Finding them, with its clones, boxes and extracted parameters, is a tenth of all that the
/// server computes for a handshake; `docs/performance.md` has the numbers.
#[derive(Clone, Debug)]
pub struct Routes {
    app: Arc<App>,
    shortcut: FastPath,
    router: Router,
}

#[derive(Clone, Copy, Debug)]
enum FastPath {
    /// `/token/{token}/+bugtracker-handshake`.
    Handshake,
    /// `/bugs`.
    Call,
}

impl Routes {
    /// Of the public listener.
    pub fn public(app: Arc<App>) -> Self {
        Self { router: public(Arc::clone(&app)), shortcut: FastPath::Handshake, app }
    }

    /// Of the private listener.
    pub fn private(app: Arc<App>) -> Self {
        Self { router: private(Arc::clone(&app)), shortcut: FastPath::Call, app }
    }

    /// Answers a request, whose extensions say where it comes from ([`Peer`](crate::Peer)).
    pub async fn answer(&self, request: Request<Body>) -> Response {
        let arrival = Arrival::of(request.extensions());
        self.answer_by(request, arrival, BodyDemand::default()).await
    }

    /// Answers a request by its deadline.
    pub(crate) async fn answer_by(
        &self,
        mut request: Request<Body>,
        arrival: Arrival,
        awaited: BodyDemand,
    ) -> Response {
        match self.shortcut {
            FastPath::Handshake => {
                if let Some(token) = token_of(request.uri().path()).map(str::to_owned) {
                    // It keeps its deadline by itself, so that there is no second timer.
                    return with_common_headers(public::answer(&self.app, token, &arrival, request).await);
                }
            }
            FastPath::Call if request.uri().path() == "/bugs" => {
                if let Err(refused) = guard::check(&self.app, &request, &arrival) {
                    return with_common_headers(refused);
                }
                let answering = xmlrpc::answer(&self.app, &arrival, request);
                return with_common_headers(arrival.deadline.keep(answering, awaited).await);
            }
            FastPath::Call => {}
        }
        request.extensions_mut().insert(arrival);
        arrival.deadline.keep(route(&self.router, request), awaited).await
    }
}

/// The token in the path of a handshake that is spelled as usual.
fn token_of(path: &str) -> Option<&str> {
    let token = path.strip_prefix("/token/")?.strip_suffix(public::VIEW)?.strip_suffix('/')?;
    // What is escaped or not a token is the router's business.
    (!token.is_empty() && !token.contains(['%', '/'])).then_some(token)
}

async fn route(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.into_response()
}

/// What bug trackers reach.
pub fn public(app: Arc<App>) -> Router {
    Router::new()
        .route("/token/{token}/{view}", any(public::handshake))
        // The spelling that the documentation of older tracker plugins has.
        .route("/tokens/{token}/{view}", any(public::handshake))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(not_found)
        .layer(MapResponseLayer::new(with_common_headers))
        .with_state(app)
}

/// The private API as JSON, which describes itself.
fn json() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::front_matter())
        .routes(routes!(tokens::issue))
        .routes(routes!(tokens::show, tokens::revoke))
        .routes(routes!(keys::list_keys))
        .routes(routes!(keys::rotate_keys))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(keys::rewrap_keys))
        .routes(routes!(server::show_server))
        .routes(routes!(admin::list_nodes))
        .routes(routes!(admin::store_stats))
        .routes(routes!(admin::purge_store))
        .routes(routes!(admin::fence_store))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
}

/// The `OpenAPI` document of the private API.
#[cfg(test)]
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    openapi::finish(json().split_for_parts().1)
}

/// What only the issuer's own processes reach.
pub fn private(app: Arc<App>) -> Router {
    let (json, document) = json().split_for_parts();
    let document = openapi::finish(document);
    Router::new()
        .route("/bugs", any(xmlrpc::call))
        .route("/bugs/", any(xmlrpc::call))
        .merge(json)
        .route("/openapi.json", get(async move || axum::Json(document)))
        .route("/metrics", get(metrics::metrics))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), guard::admit))
        .merge(operators_page(&app))
        // Probes need no credential: they tell nothing but whether the server lives.
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .layer(MapResponseLayer::new(with_common_headers))
        .with_state(app)
}

/// What an operator's browser reaches.
fn operators_page(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/", get(page::show))
        .route("/page/token", get(page::home).post(page::token))
        .route("/page/live", get(page::live))
        .route("/page/events.jsonl", get(page::json_lines))
        .route("/page/events.csv", get(page::csv))
        .route("/page/style.css", get(page::style))
        .route("/page/script.js", get(page::script))
        .route("/page/icon/{state}", get(page::icon))
        .layer(from_fn_with_state(Arc::clone(app), guard::admit_to_page))
        .layer(MapResponseLayer::new(page::with_page_headers))
        .with_state(Arc::new(Page::new(Arc::clone(app))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The paths in the text of a function of this file.
    fn paths_of(function: &str) -> BTreeSet<String> {
        // Not one of the methods that are called the same.
        let beginning = |visible: &str| format!("\n{visible}fn {function}(");
        let text = include_str!("routes.rs");
        let text = text.split_once(&beginning("pub ")).or_else(|| text.split_once(&beginning("")));
        let (_, text) = text.unwrap();
        let (text, _) = text.split_once("\n}\n").unwrap();
        text.split(".route(\"").skip(1).map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect()
    }

    #[test]
    fn every_route_has_its_template() {
        let known = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(known(&PUBLIC_PATHS), paths_of("public"));
        let mut private = paths_of("private");
        private.extend(paths_of("operators_page"));
        private.extend(json().split_for_parts().1.paths.paths.into_keys());
        assert_eq!(known(&PRIVATE_PATHS), private);
    }
}
