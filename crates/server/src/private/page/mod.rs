//! The page that operators look at.
//!
//! ```text
//! App ──state──▶ how things stand ──parts──▶ pieces of HTML ──▶ the page, and then each piece that changes (live)
//! ```
//!
//! It is rendered here, works without a script, and loads nothing from elsewhere. Handshakes do not know of it: it reads
//! the counters of `/metrics` and the list of `/v1/events`, and how long it rests depends on how long that takes.

mod chart;
mod export;
mod live;
mod parties;
mod parts;
mod state;
mod store_status;
mod token;
mod verdict;
mod wish;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use tokio::sync::Semaphore;

use crate::App;
use crate::problem::not_found;

use self::parts::{Label, Parts};
use self::store_status::StoreWatch;
use self::token::TokenReport;
use self::wish::Wish;

pub use self::export::{MAX_EXPORTED, MAX_EXPORTS};
pub(crate) use self::export::{csv, json_lines};
pub use self::live::MAX_VIEWERS;
pub(crate) use self::live::live;
pub(crate) use self::token::token;

/// How many events the page has unless asked for more.
const EVENTS: usize = 50;

/// How long the page waits for a store before it says that it is away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Nothing runs and nothing is shown but what comes from here; and no page of others has it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the page's routes share.
#[derive(Debug)]
pub(crate) struct Page {
    app: Arc<App>,
    store_watch: StoreWatch,
    /// Room for those who have the page open.
    viewers: Arc<Semaphore>,
    /// Room for the files of events that are being sent.
    exports: Arc<Semaphore>,
}

impl Page {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let room = |places| Arc::new(Semaphore::new(places));
        Self {
            app,
            store_watch: StoreWatch::default(),
            viewers: room(MAX_VIEWERS),
            exports: room(MAX_EXPORTS),
        }
    }

    /// The whole page; `answer` is what was asked about a token.
    async fn render(&self, wish: &Wish, answer: Option<TokenReport>) -> Response {
        let state = self.state(wish).await;
        let (parts, label) = Parts::of(&state, wish);
        let whole = Whole {
            // A form's answer stands at `/page/token`, everything else at `/`.
            root: if answer.is_some() { "../" } else { "./" },
            issuer: &self.app.names.issuer,
            node: state.node.clone(),
            shared: state.shared,
            answer,
            wish,
            most: MAX_EXPORTED,
            label,
            parts,
        };
        match whole.render() {
            Ok(html) => html_response(html),
            // Writing to memory does not fail.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// The page.
#[derive(Template)]
#[template(path = "page.html")]
struct Whole<'a> {
    /// Where the page is, seen from the address that shows it: a proxy may have it below a path of its own.
    root: &'static str,
    issuer: &'a str,
    node: String,
    shared: bool,
    answer: Option<TokenReport>,
    wish: &'a Wish,
    /// How many events a file has at most.
    most: usize,
    label: Label,
    parts: Parts,
}

/// `GET /`: the page. It also says which field of a submitted form is wrong.
pub(crate) async fn show(State(page): State<Arc<Page>>, RawQuery(query): RawQuery) -> Response {
    let wish = Wish::read(query.as_deref().unwrap_or_default());
    let is_understood = wish.asked(page.app.tokens.clock().now()).is_ok();
    let mut response = page.render(&wish, None).await;
    if !is_understood {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// A form's address without the form: links on the page with its answer lead here.
pub(crate) async fn home(RawQuery(query): RawQuery) -> Redirect {
    match query {
        Some(query) => Redirect::to(&format!("../?{query}")),
        None => Redirect::to("../"),
    }
}

/// `GET /page/style.css`.
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../../../templates/page.css"))
}

/// `GET /page/script.js`.
pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../../templates/page.js"))
}

/// `GET /page/icon/{state}`: a shape for each state, since not everybody tells colours apart. The browser may keep it: when
/// the server is gone, it is too late to ask for the icon that says so.
pub(crate) async fn icon(Path(state): Path<String>) -> Response {
    let (ground, mark) = match &*state {
        "good" => ("#166534", "M4 8.5l3 3 5-7"),
        "worth-a-look" => ("#854d0e", "M8 3v6.5M8 11.2v1.9"),
        "bad" => ("#b91c1c", "M4.5 4.5l7 7M11.5 4.5l-7 7"),
        "lost" => ("#5a5a55", "M5.5 6a2.5 2.5 0 1 1 3.7 2.2Q8 8.8 8 10M8 11.6v1.6"),
        _ => return not_found().await,
    };
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><rect width=\"16\" height=\"16\" rx=\"3\" \
         fill=\"{ground}\"/><path d=\"{mark}\" fill=\"none\" stroke=\"#fff\" stroke-width=\"2\"/></svg>"
    );
    ([(CONTENT_TYPE, "image/svg+xml"), (CACHE_CONTROL, "private, max-age=86400")], svg).into_response()
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type)], text).into_response()
}

fn html_response(html: String) -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// The headers of everything that belongs to the page. The origin is what the form is recognized by, so that it is told
/// to this server, and to no other.
pub(crate) fn with_page_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "same-origin"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
