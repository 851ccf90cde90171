//! The log of one login that succeeds and others that fail, at the most detailed level. A test program of its own, because the
//! log belongs to the whole process.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "relying_party/support.rs"]
mod support;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::SET_COOKIE;
use countersign_verifier::LoginLayer;
use support::{Reply, Stub, text};
use tower::ServiceExt;

#[tokio::test]
async fn no_log_has_a_token_or_a_session_in_it() {
    let log = tempfile::NamedTempFile::new().unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(Arc::new(log.reopen().unwrap()))
        .init();
    let replies = [text("200 OK", ""), text("401 No", ""), text("302 Elsewhere", "")];
    let replies = replies.into_iter().map(Reply::Send).chain([Reply::Cut, Reply::Cut]);
    let stub = Stub::start(replies).await;
    let _no_audience = stub.builder().build().unwrap();
    let tracker: Router = Router::new().layer(LoginLayer::builder(stub.verifier()).build().unwrap());
    let mut session = None;
    for token in ["cs1abc", "cs1abc", "cs1abc", "cs1abc", "cs1abc..", "check"] {
        let request = Request::get(format!("/trac/launchpad-auth/{token}")).body(Body::empty()).unwrap();
        let response = tracker.clone().oneshot(request).await.unwrap();
        session = session.or(response.headers().get(SET_COOKIE).cloned());
    }
    let log = std::fs::read_to_string(log.path()).unwrap();
    for line in [
        "no audience is configured",
        "logged in by token",
        "HTTP 401",
        "redirects are not followed",
        "could not be asked",
        "that is not a login token",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let session = session.unwrap().to_str().unwrap()[.."launchpad_session=".len() + 44].to_owned();
    assert!(!log.contains("cs1abc") && !log.contains(session.split_once('=').unwrap().1), "{log}");
}
