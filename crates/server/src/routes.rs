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

/// What only the issuer's own processes reach.
pub fn private(app: Arc<App>) -> Router {
    let (json, document) = OpenApiRouter::with_openapi(openapi::front_matter())
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
        .split_for_parts();
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
