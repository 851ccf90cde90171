//! Every route there is, with what it asks of its caller, and the way from a request to the one that answers it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower::util::MapResponseLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::arrival::Arrival;
use crate::caller::Caller;
use crate::callers::{Grant, NotAllowed, Scope};
use crate::deadline::BodyDemand;
use crate::private::page::{self, Page};
use crate::private::{admin, events, guard, keys, openapi, server, summary, tokens, xmlrpc};
use crate::problem::{not_found, with_allow, with_common_headers};
use crate::{App, health, metrics, public};

/// What a listener answers its requests with.
#[derive(Clone, Debug)]
pub struct Routes {
    app: Arc<App>,
    /// Of the private listener; the public one has so few routes that it needs none.
    router: Option<Router>,
}

impl Routes {
    /// Of the public listener.
    pub fn public(app: Arc<App>) -> Self {
        Self { app, router: None }
    }

    /// Of the private listener.
    pub fn private(app: Arc<App>) -> Self {
        Self { router: Some(private(Arc::clone(&app))), app }
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
        match &self.router {
            None => with_common_headers(answer_public(&self.app, request, &arrival, awaited).await),
            Some(_) if is_call(request.uri().path()) => {
                if let Some(fetch) = guard::keys_for_call(&self.app, request.headers(), &arrival) {
                    fetch.await;
                }
                let grant = match guard::check(&self.app, &request, &arrival, Needs::Caller) {
                    Ok(grant) => grant,
                    Err(refused) => return with_common_headers(refused),
                };
                let answering = xmlrpc::answer(&self.app, &arrival, grant, request);
                with_common_headers(arrival.deadline.keep(answering, awaited).await)
            }
            Some(router) => {
                request.extensions_mut().insert(arrival);
                arrival.deadline.keep(route(router, request), awaited).await
            }
        }
    }
}

async fn answer_public(
    app: &Arc<App>,
    request: Request<Body>,
    arrival: &Arrival,
    awaited: BodyDemand,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/healthz" | "/readyz" if !reads => {
            with_allow(StatusCode::METHOD_NOT_ALLOWED.into_response(), "GET,HEAD")
        }
        "/healthz" => health::alive().await.into_response(),
        "/readyz" => {
            let answering = health::ready(State(Arc::clone(app)), Caller::of(arrival, request.headers()));
            arrival.deadline.keep(answering, awaited).await
        }
        path => match token_of(path) {
            // A handshake keeps its deadline by itself.
            Some(token) => public::answer(app, token, arrival, request).await,
            None => not_found().await,
        },
    }
}

/// The token in the path of a handshake. Both parts are percent-decoded, so the plus sign of the view may come as `%2B`.
fn token_of(path: &str) -> Option<String> {
    // `tokens` is the spelling that the documentation of older tracker plugins has.
    let parts = path.strip_prefix("/token/").or_else(|| path.strip_prefix("/tokens/"))?;
    let (token, view) = parts.split_once('/')?;
    let decode = |part| percent_decode_str(part).decode_utf8().ok();
    if decode(view)? == public::VIEW { decode(token).map(Cow::into_owned) } else { None }
}

/// Whether a path is the one of XML-RPC.
fn is_call(path: &str) -> bool {
    matches!(path, "/bugs" | "/bugs/")
}

async fn route(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.into_response()
}

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Not even a credential.
    Nothing,
    /// Any caller, with or without scopes.
    Caller,
    /// A caller that may do this.
    Scope(Scope),
}

impl Needs {
    /// Fails unless this grant has the route's scope.
    pub(crate) fn check(self, grant: &Grant) -> Result<(), NotAllowed> {
        match self {
            Self::Nothing | Self::Caller => Ok(()),
            Self::Scope(scope) => grant.check(scope),
        }
    }
}

/// A route of a listener.
pub struct Route {
    /// The method, or `*` where the handler answers every one.
    pub method: &'static str,
    /// The template of its path: a path itself may have a token in it.
    pub path: String,
    /// What it asks of its caller.
    pub needs: Needs,
    handler: Handler,
}

enum Handler {
    /// [`Routes`] goes there without a router.
    Direct,
    Plain(MethodRouter<Arc<App>>),
    /// It describes itself.
    Api(UtoipaMethodRouter<Arc<App>>),
    /// It belongs to the operators' page.
    Page(MethodRouter<Arc<Page>>),
}

fn plain(method: &'static str, path: &str, needs: Needs, handler: MethodRouter<Arc<App>>) -> Route {
    Route { method, path: path.to_owned(), needs, handler: Handler::Plain(handler) }
}

/// A route that [`Routes`] finds without a router.
fn direct(method: &'static str, path: &str, needs: Needs) -> Route {
    Route { method, path: path.to_owned(), needs, handler: Handler::Direct }
}

/// A route of the JSON API, whose description says method and path. It has one of each.
fn api(scope: Scope, described: UtoipaMethodRouter<Arc<App>>) -> Route {
    let (path, item) = described
        .1
        .paths
        .iter()
        .next()
        .map_or_else(Default::default, |(path, item)| (path.clone(), item.clone()));
    let method = if item.get.is_some() {
        "GET"
    } else if item.post.is_some() {
        "POST"
    } else {
        "DELETE"
    };
    Route { method, path, needs: Needs::Scope(scope), handler: Handler::Api(described) }
}

/// A route of the page. It shows and changes what only an administrator may.
fn page(method: &'static str, path: &str, handler: MethodRouter<Arc<Page>>) -> Route {
    Route {
        method,
        path: path.to_owned(),
        needs: Needs::Scope(Scope::Admin),
        handler: Handler::Page(handler),
    }
}

/// What bug trackers reach.
pub fn public_routes() -> Vec<Route> {
    vec![
        direct("*", "/token/{token}/{view}", Needs::Nothing),
        direct("*", "/tokens/{token}/{view}", Needs::Nothing),
        direct("GET", "/healthz", Needs::Nothing),
        direct("GET", "/readyz", Needs::Nothing),
    ]
}

/// The routes of the private listener. The router with its guard, the description of the API, the templates of the traces and
/// the reference are all made of this table. Each route states its scope.
pub fn private_routes() -> Vec<Route> {
    use Scope::{Admin, Events, Issue, Look, Revoke};
    vec![
        // Each method has a scope of its own (`xmlrpc`).
        direct("*", "/bugs", Needs::Caller),
        direct("*", "/bugs/", Needs::Caller),
        api(Issue, routes!(tokens::issue)),
        api(Look, routes!(tokens::show)),
        api(Revoke, routes!(tokens::revoke)),
        api(Admin, routes!(keys::list_keys)),
        api(Admin, routes!(keys::rotate_keys)),
        api(Admin, routes!(keys::revoke_key)),
        api(Admin, routes!(keys::rewrap_keys)),
        api(Admin, routes!(server::show_server)),
        api(Admin, routes!(admin::list_nodes)),
        api(Admin, routes!(admin::store_stats)),
        api(Admin, routes!(admin::purge_store)),
        api(Admin, routes!(admin::fence_store)),
        api(Events, routes!(events::list)),
        api(Events, routes!(events::stream)),
        api(Events, routes!(summary::summary)),
        plain("GET", "/openapi.json", Needs::Caller, get(openapi::show)),
        plain("GET", "/metrics", Needs::Scope(Events), get(metrics::metrics)),
        page("GET", "/", get(page::show)),
        page("GET", "/page/token", get(page::home)),
        page("POST", "/page/token", post(page::token)),
        page("GET", "/page/live", get(page::live)),
        page("GET", "/page/events.jsonl", get(page::json_lines)),
        page("GET", "/page/events.csv", get(page::csv)),
        page("GET", "/page/style.css", get(page::style)),
        page("GET", "/page/script.js", get(page::script)),
        page("GET", "/page/icon/{state}", get(page::icon)),
        // Probes need no credential: they tell nothing but whether the server lives.
        plain("GET", "/healthz", Needs::Nothing, get(health::alive)),
        plain("GET", "/readyz", Needs::Nothing, get(health::ready)),
    ]
}

/// The templates of the public paths.
pub(crate) fn public_paths() -> Vec<String> {
    paths(public_routes())
}

/// The templates of the private paths.
pub(crate) fn private_paths() -> Vec<String> {
    paths(private_routes())
}

fn paths(routes: Vec<Route>) -> Vec<String> {
    let mut paths: Vec<String> = routes.into_iter().map(|route| route.path).collect();
    paths.dedup();
    paths
}

/// The `OpenAPI` document of the private API.
pub(crate) fn document() -> OpenApi {
    let mut described = OpenApiRouter::<Arc<App>>::with_openapi(openapi::front_matter());
    for route in private_routes() {
        if let Handler::Api(handler) = route.handler {
            described = described.routes(handler);
        }
    }
    openapi::finish(described.split_for_parts().1)
}

/// A router for what only the issuer's own processes reach.
fn private(app: Arc<App>) -> Router {
    let guarded = |needs| from_fn_with_state((Arc::clone(&app), needs), guard::admit);
    let (mut router, mut page) = (Router::new(), Router::new());
    for Route { path, needs, handler, .. } in private_routes() {
        match handler {
            Handler::Direct => {}
            Handler::Plain(handler) if needs == Needs::Nothing => router = router.route(&path, handler),
            Handler::Plain(handler) | Handler::Api((_, _, handler)) => {
                router = router.route(&path, handler.layer(guarded(needs)));
            }
            Handler::Page(handler) => {
                let admitted = from_fn_with_state((Arc::clone(&app), needs), guard::admit_to_page);
                page = page.route(&path, handler.layer(admitted));
            }
        }
    }
    let page = page
        .layer(MapResponseLayer::new(page::with_page_headers))
        .with_state(Arc::new(Page::new(Arc::clone(&app))));
    let nowhere = any(not_found).layer(guarded(Needs::Caller));
    router
        .merge(page)
        .fallback_service(nowhere.with_state(Arc::clone(&app)))
        .layer(MapResponseLayer::new(with_common_headers))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_of_the_api_has_one_method_and_one_path() {
        for route in private_routes() {
            if let Handler::Api((_, paths, _)) = &route.handler {
                let document = serde_json::to_value(paths).unwrap();
                let found: Vec<_> = document
                    .as_object()
                    .unwrap()
                    .iter()
                    .flat_map(|(path, item)| {
                        item.as_object().unwrap().keys().map(move |method| (path, method))
                    })
                    .map(|(path, method)| (path.clone(), method.to_uppercase()))
                    .collect();
                assert_eq!(found, [(route.path.clone(), route.method.to_owned())]);
            }
        }
    }
}
