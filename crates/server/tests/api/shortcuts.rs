//! The short way to a route, against the router.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Request, StatusCode};
use countersign_server::routes::{self, Routes};
use countersign_server::{App, Peer};
use tower::ServiceExt;

use crate::fixture::{Answer, FORM, Fixture, Options, TRAC, read};

const CALL: &str = "<methodCall><methodName>getLoginToken</methodName></methodCall>";

/// Sends the same request both ways.
async fn both(routes: &Routes, long_way: &Router, request: impl Fn() -> Request<Body>) -> (Answer, Answer) {
    let request = || {
        let mut request = request();
        request.extensions_mut().insert(Peer(Some("127.0.0.1".parse().unwrap())));
        request
    };
    let Ok(long) = long_way.clone().oneshot(request()).await;
    (read(routes.answer(request()).await).await, read(long).await)
}

fn assert_same(one: &Answer, other: &Answer, of: &str) {
    let headers = |answer: &Answer| -> HeaderMap {
        let mut headers = answer.headers.clone();
        // The router says how long the body is, and HTTP's own layer does it where nobody has.
        headers.remove(CONTENT_LENGTH);
        headers
    };
    assert_eq!((one.status, headers(one)), (other.status, headers(other)), "{of}");
    // The router leaves out the body of an answer to HEAD, which is not sent in any case.
    if !of.starts_with("HEAD") {
        assert_eq!(one.text, other.text, "{of}");
    }
}

fn public(app: &Arc<App>) -> (Routes, Router) {
    (Routes::public(Arc::clone(app)), routes::public(Arc::clone(app)))
}

fn private(app: &Arc<App>) -> (Routes, Router) {
    (Routes::private(Arc::clone(app)), routes::private(Arc::clone(app)))
}

#[tokio::test]
async fn a_handshake_is_answered_the_same_by_both_ways() {
    let fixture = Fixture::new();
    let (routes, long_way) = public(&fixture.app);
    let (used, bound) = (fixture.token(), fixture.token_for(TRAC));
    assert_eq!(fixture.handshake(&used).await.status, StatusCode::OK);
    let escaped = used.replacen('a', "%61", 1);
    for path in [
        format!("/token/{used}/+bugtracker-handshake"),
        format!("/token/{used}/+bugtracker-handshake?a=b"),
        format!("/tokens/{used}/+bugtracker-handshake"),
        format!("/token/{used}/%2Bbugtracker-handshake"),
        format!("/token/{escaped}/+bugtracker-handshake"),
        format!("/token/{bound}/+bugtracker-handshake"),
        format!("/token/{used}/+bugtracker-handshake/"),
        format!("/token/{used}+bugtracker-handshake"),
        format!("/token/{used}/more/+bugtracker-handshake"),
        "/token/nothing/+bugtracker-handshake".to_owned(),
        "/token/%ff/+bugtracker-handshake".to_owned(),
        "/token//+bugtracker-handshake".to_owned(),
        "/token/+bugtracker-handshake".to_owned(),
        "/bugs".to_owned(),
    ] {
        for method in ["POST", "GET", "HEAD", "OPTIONS"] {
            for accept in ["*/*", "application/json"] {
                let request = || {
                    let request = Request::builder().method(method).uri(&path).header("accept", accept);
                    let request = request.header("content-type", FORM);
                    request.body(Body::from("audience=https%3A%2F%2Fother.example")).unwrap()
                };
                let (short, long) = both(&routes, &long_way, request).await;
                assert_same(&short, &long, &format!("{method} {path} {accept}"));
            }
        }
    }
}

#[tokio::test]
async fn a_good_token_is_accepted_the_same_by_both_ways() {
    for accept in ["*/*", "application/json"] {
        let fixture = Fixture::new();
        let (routes, long_way) = public(&fixture.app);
        let token = fixture.token();
        // With a key, a repetition is answered as the first time.
        let request = || {
            let request = Request::post(format!("/token/{token}/+bugtracker-handshake"));
            let request = request.header("accept", accept).header("idempotency-key", "one");
            request.body(Body::empty()).unwrap()
        };
        let (short, long) = both(&routes, &long_way, request).await;
        assert_eq!(short.status, StatusCode::OK);
        assert_same(&short, &long, accept);
    }
}

#[tokio::test]
async fn a_call_is_answered_the_same_by_both_ways() {
    for bearer in [None, Some("secret-0f9e8d7c6b5a4321")] {
        let fixture = Fixture::with(Options { bearer, ..Options::default() });
        let (routes, long_way) = private(&fixture.app);
        for (name, value) in [
            ("authorization", "Bearer secret-0f9e8d7c6b5a4321"),
            ("authorization", "Bearer other"),
            ("host", "127.0.0.1:8087"),
            ("host", "evil.example"),
            ("origin", "https://evil.example"),
        ] {
            for (method, path) in
                [("POST", "/bugs"), ("GET", "/bugs"), ("POST", "/bugs/"), ("POST", "/bugs?x")]
            {
                let request = || {
                    let request = Request::builder().method(method).uri(path).header(name, value);
                    request.header("content-type", "text/xml").body(Body::from(CALL)).unwrap()
                };
                let (short, long) = both(&routes, &long_way, request).await;
                assert_same(&short, &long, &format!("{method} {path} {name}: {value}, bearer {bearer:?}"));
            }
        }
    }
}
