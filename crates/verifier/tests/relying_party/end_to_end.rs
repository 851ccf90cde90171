//! The example tracker and a real token server, over TCP.

#[expect(dead_code, reason = "its settings and its listener are the test's")]
#[path = "../../examples/tracker.rs"]
mod example;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, Response, StatusCode};
use countersign_core::{Audience, NewToken, SystemClock};
use countersign_server::App;
use countersign_server::routes::Routes;
use countersign_testkit::app;
use countersign_verifier::{LoginLayer, Verifier, VerifyError};
use tokio::net::TcpListener;
use tower::ServiceExt;

const TRACKER: &str = "https://bugs.example.org";

/// A token server on a free port.
struct TokenServer {
    app: Arc<App>,
    url: String,
}

impl TokenServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Arc::new(app(Arc::new(SystemClock)).public_url(&url).build());
        let public = Routes::public(Arc::clone(&app));
        let public = Router::new().fallback(async move |request: Request<Body>| public.answer(request).await);
        tokio::spawn(async move { axum::serve(listener, public).await });
        Self { app, url }
    }

    fn issue(&self, audience: Option<&str>) -> String {
        let audience = audience.map(|audience| Audience::parse(audience).unwrap());
        let issued = self.app.tokens.issue(NewToken { audience, ..NewToken::default() }).unwrap();
        issued.text.expose().to_owned()
    }

    fn tracker(&self, base_url: &str) -> Router {
        example::tracker(LoginLayer::builder(self.verifier(base_url)).build().unwrap())
    }

    fn verifier(&self, base_url: &str) -> Verifier {
        Verifier::builder(&self.url).audience(base_url).build().unwrap()
    }
}

async fn fetch(tracker: &Router, path: &str, cookie: &str) -> Response<Body> {
    let request = Request::get(path).header(COOKIE, cookie).body(Body::empty()).unwrap();
    tracker.clone().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn token_opens_the_private_page_once() {
    let server = TokenServer::start().await;
    let tracker = server.tracker(TRACKER);
    for audience in [None, Some(TRACKER)] {
        assert_eq!(fetch(&tracker, "/", "").await.status(), StatusCode::OK);
        assert_eq!(fetch(&tracker, "/private", "").await.status(), StatusCode::FORBIDDEN);

        let login = format!("/launchpad-auth/{}", server.issue(audience));
        let response = fetch(&tracker, &login, "").await;
        assert_eq!(response.status(), StatusCode::OK);
        let cookie = response.headers().get(SET_COOKIE).unwrap().to_str().unwrap();
        let response = fetch(&tracker, "/private", cookie.split_once(';').unwrap().0).await;
        assert_eq!(response.status(), StatusCode::OK);
        let page = to_bytes(response.into_body(), 65536).await.unwrap();
        assert_eq!(page, "Bug 2, which only launchpad may see.\n");

        let replay = fetch(&tracker, &login, "").await;
        assert_eq!(replay.status(), StatusCode::UNAUTHORIZED);
        assert!(!replay.headers().contains_key(SET_COOKIE));
    }
}

#[tokio::test]
async fn relayed_token_is_refused_and_not_consumed() {
    let server = TokenServer::start().await;
    let token = server.issue(Some(TRACKER));
    for thief in ["https://evil.example.org", "http://bugs.example.org", "https://bugs.example.org/other"] {
        let refused = server.verifier(thief).verify(&token).await;
        assert_eq!(refused, Err(VerifyError::Refused { status: 403 }), "{thief}");
    }
    let without = Verifier::builder(&server.url).build().unwrap();
    assert_eq!(without.verify(&token).await, Err(VerifyError::Refused { status: 403 }));
    // Any spelling of the tracker's own URL is its name.
    let verified = server.verifier("HTTPS://Bugs.Example.org:443/").verify(&token).await.unwrap();
    assert_eq!(verified.issuer.as_deref(), Some("Launchpad"));
    assert_eq!(verified.audience.as_deref(), Some("https://bugs.example.org/"));
    assert!(verified.date_created.unwrap() <= verified.date_consumed.unwrap());
}

#[tokio::test]
async fn foreign_tokens_are_recognized() {
    let server = TokenServer::start().await;
    for token in ["check", "cs1aaaaaaaaaaaaaaaa", "Z"] {
        let refused = server.verifier(TRACKER).verify(token).await;
        assert_eq!(refused, Err(VerifyError::Refused { status: 404 }), "{token}");
    }
}
