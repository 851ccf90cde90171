//! A server without sockets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use countersign_core::{Audience, EventStore, ManualClock, NewToken, OsEntropy, Policy, TokenStore};
use countersign_server::routes::Routes;
use countersign_server::{
    App, Callers, EventPolicy, Events, Peer, RefusalLimiter, SpentStatus, TrustedProxies, Webhook,
};
use countersign_store::events::MemoryEvents;
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreHook, app};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TRAC: &str = "https://trac.example.org/";
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const JSON: &str = "application/json";

pub(crate) struct Fixture {
    pub(crate) app: Arc<App>,
    pub(crate) clock: Arc<ManualClock>,
    public: Routes,
    private: Routes,
    directory: TempDir,
}

/// What a test may want otherwise; by default, refusals are not limited.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) policy: Policy,
    pub(crate) spent_status: SpentStatus,
    pub(crate) refusals_per_minute: u32,
    pub(crate) proxies: TrustedProxies,
    pub(crate) bearer: Option<&'static str>,
    /// The text of a callers file.
    pub(crate) callers: Option<String>,
    pub(crate) store: Option<Arc<dyn TokenStore>>,
    pub(crate) events: Option<Arc<dyn EventStore>>,
    pub(crate) event_policy: EventPolicy,
    pub(crate) alarms: Option<(Webhook, Duration)>,
}

/// A request's answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        let directory = TempDir::new().unwrap();
        let events = Events::new(
            options.event_policy,
            options.events.unwrap_or_else(|| Arc::new(MemoryEvents::default())),
            clock.clone(),
            Arc::new(OsEntropy),
        );
        let events = match options.alarms {
            Some((webhook, pause)) => events.with_alarms(webhook, pause),
            None => events,
        };
        let app = app(clock.clone()).key_file(directory.path().join("key-ring.toml")).policy(options.policy);
        let app = match options.store {
            Some(store) => app.store(store),
            None => app,
        };
        let app = Arc::new(App {
            events: Arc::new(events),
            spent_status: options.spent_status,
            limiter: RefusalLimiter::new(options.refusals_per_minute, clock.clone()),
            proxies: options.proxies,
            bearer: options
                .bearer
                .map(|secret| countersign_server::Bearer::new(secret.to_owned().into()).unwrap()),
            callers: options.callers.map(|text| {
                let path = directory.path().join("callers.toml");
                std::fs::write(&path, text).unwrap();
                Callers::load(&path, clock.clone()).unwrap()
            }),
            ..app.build()
        });
        let public = Routes::public(Arc::clone(&app));
        let private = Routes::private(Arc::clone(&app));
        Self { app, clock, public, private, directory }
    }

    /// Replaces the callers file, and has it taken up.
    pub(crate) fn change_callers(&self, text: &str) {
        std::fs::write(self.directory.path().join("callers.toml"), text).unwrap();
        self.app.callers.as_ref().unwrap().reload_if_changed(true).unwrap();
    }

    /// An unbound token.
    pub(crate) fn token(&self) -> String {
        self.app.tokens.issue(NewToken::default()).unwrap().text.into_exposed()
    }

    /// A token bound to a tracker.
    pub(crate) fn token_for(&self, tracker: &str) -> String {
        let audience = Some(Audience::parse(tracker).unwrap());
        self.app.tokens.issue(NewToken { audience, ..NewToken::default() }).unwrap().text.into_exposed()
    }

    /// Sends a request to the public listener, from an address of its own.
    pub(crate) async fn public(&self, request: Request<Body>) -> Answer {
        send(&self.public, request, "192.0.2.7".parse().unwrap()).await
    }

    /// Sends a request to the private listener.
    pub(crate) async fn private(&self, request: Request<Body>) -> Answer {
        send(&self.private, request, "127.0.0.1".parse().unwrap()).await
    }

    /// The same, for an answer that has no end.
    pub(crate) async fn private_response(&self, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(Peer(None));
        self.private.answer(request).await
    }

    /// The plainest handshake there is.
    pub(crate) async fn handshake(&self, token: &str) -> Answer {
        self.public(post(&handshake_path(token)).body(Body::empty()).unwrap()).await
    }

    /// Looks a token up over the private API.
    pub(crate) async fn look(&self, token: &str) -> Value {
        let answer =
            self.private(Request::get(format!("/v1/tokens/{token}")).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }
}

/// A store in memory behind a hook.
pub(crate) fn hooked<H: StoreHook>(hook: H) -> Arc<Hooked<H>> {
    let clock = ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap());
    Hooked::new(Arc::new(MemoryStore::new(&clock)), hook)
}

pub(crate) fn handshake_path(token: &str) -> String {
    format!("/token/{token}/+bugtracker-handshake")
}

pub(crate) fn post(path: &str) -> axum::http::request::Builder {
    Request::post(path)
}

async fn send(routes: &Routes, mut request: Request<Body>, peer: IpAddr) -> Answer {
    request.extensions_mut().insert(Peer(Some(peer)));
    read(routes.answer(request).await).await
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    // But for the page's icons, which tell nothing.
    if head.headers.get("content-type").is_none_or(|kind| kind != "image/svg+xml") {
        assert_eq!(head.headers["cache-control"], "no-store", "every answer says so");
    }
    Answer { status: head.status, headers: head.headers, text }
}
