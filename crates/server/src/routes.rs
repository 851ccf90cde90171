//! Every route there is.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get};
use tower::util::MapResponseLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::private::page::{self, Page};
use crate::private::{admin, events, guard, openapi, tokens, xmlrpc};
use crate::problem::{not_found, with_common_headers};
use crate::{App, health, metrics, public};

/// The templates of the public paths, for whatever tells which one was asked for: a path itself may have a token in it.
pub(crate) const PUBLIC_PATHS: [&str; 4] =
    ["/token/{token}/{view}", "/tokens/{token}/{view}", "/healthz", "/readyz"];

/// The same of the private ones.
pub(crate) const PRIVATE_PATHS: [&str; 23] = [
    "/",
    "/bugs",
    "/bugs/",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/page/icon.svg",
    "/page/live",
    "/page/script.js",
    "/page/style.css",
    "/page/token",
    "/readyz",
    "/v1/events",
    "/v1/events/stream",
    "/v1/keys",
    "/v1/keys/revoke",
    "/v1/keys/rotate",
    "/v1/nodes",
    "/v1/store",
    "/v1/store/fence",
    "/v1/store/purge",
    "/v1/tokens",
    "/v1/tokens/{token}",
];

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
        .routes(routes!(admin::list_keys))
        .routes(routes!(admin::rotate_keys))
        .routes(routes!(admin::revoke_key))
        .routes(routes!(admin::list_nodes))
        .routes(routes!(admin::store_stats))
        .routes(routes!(admin::purge_store))
        .routes(routes!(admin::fence_store))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
}

/// What only the issuer's own processes reach.
pub fn private(app: Arc<App>) -> Router {
    let (json, document) = json().split_for_parts();
    Router::new()
        .route("/bugs", any(xmlrpc::answer))
        .route("/bugs/", any(xmlrpc::answer))
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
        .route("/page/style.css", get(page::style))
        .route("/page/script.js", get(page::script))
        .route("/page/icon.svg", get(page::icon))
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
        let (_, text) = include_str!("routes.rs").split_once(&format!("fn {function}(")).unwrap();
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
