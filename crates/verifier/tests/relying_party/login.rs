//! The login layer around a tracker: the door, the cookie, and who is recognised by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::support::{Reply, Stub, json, text};
use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, CACHE_CONTROL, COOKIE, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{Method, Request, Response, StatusCode};
use axum::{Extension, Router, routing::get};
use countersign_verifier::{Login, LoginLayer, LoginLayerBuilder, Verifier};
use jiff::Timestamp;
use tower::ServiceExt;

const START: i64 = 1_800_000_000;

fn yes() -> Reply {
    Reply::Send(text("200 OK", ""))
}

fn tracker(login: LoginLayer) -> Router {
    async fn who(login: Option<Extension<Login>>) -> String {
        login.map_or("nobody".to_owned(), |Extension(login)| {
            format!("{} of {:?} since {}", login.user, login.issuer, login.since)
        })
    }
    Router::new().route("/who", get(who)).fallback(get(who)).layer(login)
}

/// A layer whose clock stands still at [`START`].
fn layer(verifier: Verifier) -> LoginLayerBuilder {
    LoginLayer::builder(verifier).clock(|| Timestamp::from_second(START).unwrap()).session_secret([7; 32])
}

async fn send(tracker: &Router, method: Method, path: &str, cookie: Option<&str>) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    tracker.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn body(response: Response<Body>) -> String {
    String::from_utf8(to_bytes(response.into_body(), 65536).await.unwrap().to_vec()).unwrap()
}

/// Logs in; returns `name=value` and the attributes.
async fn log_in(tracker: &Router, path: &str) -> (String, String) {
    let response = send(tracker, Method::GET, path, None).await;
    assert_eq!(response.status(), StatusCode::OK);
    let cookie = response.headers().get(SET_COOKIE).unwrap().to_str().unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    (pair.to_owned(), attributes.to_owned())
}

async fn who(tracker: &Router, cookie: &str) -> String {
    body(send(tracker, Method::GET, "/who", Some(cookie)).await).await
}

#[tokio::test]
async fn good_token_opens_a_session() {
    let stub = Stub::start([Reply::Send(json("200 OK", r#"{"issuer":"Läunchpad"}"#))]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    let response = send(&tracker, Method::GET, "/trac/launchpad-auth/cs1abc", None).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers().get(CACHE_CONTROL).unwrap(), "no-store");
    let cookie = response.headers().get(SET_COOKIE).unwrap().to_str().unwrap().to_owned();
    assert!(cookie.starts_with("launchpad_session="), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/trac; Max-Age=86400"), "{cookie}");
    assert_eq!(body(response).await, "Logged in as launchpad.\n");
    let seen = who(&tracker, cookie.split_once(';').unwrap().0).await;
    assert_eq!(seen, "launchpad of Some(\"Läunchpad\") since 2027-01-15T08:00:00Z");
    assert_eq!(body(send(&tracker, Method::GET, "/who", None).await).await, "nobody");
    assert!(stub.requests().first().unwrap().line.starts_with("POST /token/cs1abc/"));
}

#[tokio::test]
async fn every_login_has_a_session_of_its_own() {
    let stub = Stub::start([yes(), yes()]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    let (first, _) = log_in(&tracker, "/trac/launchpad-auth/one").await;
    let (second, _) = log_in(&tracker, "/trac/launchpad-auth/two").await;
    assert_ne!(first, second, "also within one tick of the clock");
    assert_eq!(who(&tracker, &first).await, who(&tracker, &second).await);
}

#[tokio::test]
async fn cookie_follows_the_base_url() {
    for (base_url, login_path, attributes) in [
        ("https://b.example", "/launchpad-auth/t", "HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=86400"),
        (
            "http://b.example/a/b/",
            "/a/b/launchpad-auth/t",
            "HttpOnly; SameSite=Lax; Path=/a/b; Max-Age=86400",
        ),
    ] {
        let stub = Stub::start([yes()]).await;
        let verifier = stub.builder().audience(base_url).build().unwrap();
        let tracker = tracker(layer(verifier).build().unwrap());
        assert_eq!(log_in(&tracker, login_path).await.1, attributes);
    }
    let stub = Stub::start([yes()]).await;
    let tracker = tracker(layer(stub.builder().build().unwrap()).build().unwrap());
    assert_eq!(
        log_in(&tracker, "/launchpad-auth/t").await.1,
        "HttpOnly; SameSite=Lax; Path=/; Max-Age=86400"
    );
}

#[tokio::test]
async fn configured_names_are_used() {
    let stub = Stub::start([yes()]).await;
    let layer = layer(stub.verifier())
        .user("bugs-r-us")
        .login_path("/door")
        .cookie_name("s")
        .session_lifetime(Duration::from_mins(1));
    let tracker = tracker(layer.build().unwrap());
    let (cookie, attributes) = log_in(&tracker, "/door/t").await;
    assert!(cookie.starts_with("s=") && attributes.ends_with("Max-Age=60"), "{cookie} {attributes}");
    assert!(who(&tracker, &cookie).await.starts_with("bugs-r-us of None"));
}

#[tokio::test]
async fn login_path_is_probed_as_launchpad_does() {
    let stub = Stub::start([]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    let response = send(&tracker, Method::GET, "/trac/launchpad-auth/check", None).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.headers().contains_key(WWW_AUTHENTICATE));
    assert_eq!(stub.requests().len(), 0);
}

#[tokio::test]
async fn refusal_gives_its_reason_and_no_session() {
    let sentences = [
        (Reply::Send(text("401 Unauthorized", "")), "was used already"),
        (Reply::Send(text("410 Gone", "")), "was used already"),
        (Reply::Send(text("403 Forbidden", "")), "another bug tracker"),
        (Reply::Send(text("404 Not Found", "")), "not one of its own"),
        (Reply::Send(text("429 Too Many Requests", "")), "too many"),
        (Reply::Send(text("500 Oops", "")), "administrator"),
        (Reply::Send(text("503 Away", "Retry-After: 99\r\n")), "could not be asked"),
    ];
    for (reply, sentence) in sentences {
        let stub = Stub::start([reply]).await;
        let tracker = tracker(layer(stub.verifier()).build().unwrap());
        let response = send(&tracker, Method::GET, "/trac/launchpad-auth/cs1abc", None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{sentence}");
        assert!(
            response.headers().contains_key(WWW_AUTHENTICATE) && !response.headers().contains_key(SET_COOKIE)
        );
        let said = body(response).await;
        assert!(said.contains(sentence) && !said.contains("cs1abc"), "{said}");
    }
}

#[tokio::test]
async fn only_get_redeems_a_token() {
    let stub = Stub::start([yes()]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        for last in ["cs1abc", "check"] {
            let path = format!("/trac/launchpad-auth/{last}");
            let response = send(&tracker, method.clone(), &path, None).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(response.headers().get(ALLOW).unwrap(), "GET");
        }
    }
    assert_eq!(stub.requests().len(), 0);
}

#[tokio::test]
async fn prefetch_consumes_no_token() {
    let stub = Stub::start([yes()]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    for (name, value) in [
        ("sec-purpose", "prefetch;prerender"),
        ("purpose", "Prefetch"),
        ("x-purpose", "preview"),
        ("x-moz", "prefetch"),
    ] {
        let request = Request::get("/trac/launchpad-auth/cs1abc").header(name, value);
        let response = tracker.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
    assert_eq!(stub.requests().len(), 0);
    log_in(&tracker, "/trac/launchpad-auth/cs1abc").await;
}

#[tokio::test]
async fn malformed_token_reaches_no_issuer() {
    let stub = Stub::start([]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    for path in ["", "/", "/a/b", "/../+index", "/a%2Fb", "/%63s1", "/a.b"] {
        let response = send(&tracker, Method::GET, &format!("/trac/launchpad-auth{path}"), None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(body(response).await.contains("not a login token"), "{path}");
    }
    for path in ["/launchpad-auth/t", "/trac/launchpad-authx/t", "/trac/launchpad-aut", "/trac"] {
        let response = send(&tracker, Method::GET, path, None).await;
        assert_eq!(body(response).await, "nobody", "{path} is the tracker's own");
    }
    assert_eq!(stub.requests().len(), 0);
}

#[tokio::test]
async fn changed_cookie_is_rejected() {
    let stub = Stub::start([yes()]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    let (cookie, _) = log_in(&tracker, "/trac/launchpad-auth/t").await;
    let (name, value) = cookie.split_once('=').unwrap();
    for at in 0..value.len() {
        let mut touched = value.as_bytes().to_vec();
        touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
        let touched = String::from_utf8(touched).unwrap();
        assert_eq!(who(&tracker, &format!("{name}={touched}")).await, "nobody", "at {at}");
    }
    for short in [0, 1, 43, 44, 45, value.len() - 1] {
        assert_eq!(who(&tracker, &format!("{name}={}", &value[..short])).await, "nobody", "{short}");
    }
    for other in [
        format!("{name}={value}A"),
        format!("other={value}"),
        format!("{name}={}", "A".repeat(100)),
        name.to_owned(),
        ";;;=".to_owned(),
        String::new(),
    ] {
        assert_eq!(who(&tracker, &other).await, "nobody", "{other}");
    }
    let among_others = format!("a=b; {name}=stale; {cookie}; c=d");
    assert!(who(&tracker, &among_others).await.starts_with("launchpad"));
}

#[tokio::test]
async fn session_ends_in_time() {
    let clock = Arc::new(AtomicI64::new(START));
    let told = Arc::clone(&clock);
    let stub = Stub::start([yes()]).await;
    let layer = LoginLayer::builder(stub.verifier())
        .clock(move || Timestamp::from_second(told.load(Ordering::Relaxed)).unwrap())
        .session_lifetime(Duration::from_secs(100));
    let tracker = tracker(layer.build().unwrap());
    let (cookie, _) = log_in(&tracker, "/trac/launchpad-auth/t").await;
    for (later, lives) in [(0, true), (99, true), (100, false), (1_000_000, false), (50, true)] {
        clock.store(START + later, Ordering::Relaxed);
        assert_eq!(who(&tracker, &cookie).await != "nobody", lives, "after {later} s");
    }
}

#[tokio::test]
async fn session_belongs_to_one_tracker_one_user_and_one_secret() {
    let stub = Stub::start([yes(), yes()]).await;
    let home = tracker(layer(stub.verifier()).build().unwrap());
    let (cookie, _) = log_in(&home, "/trac/launchpad-auth/t").await;
    let elsewhere = stub.builder().audience("https://bugs.example.org/other").build().unwrap();
    for (what, layer, recognised) in [
        ("another process of the tracker", layer(stub.verifier()), true),
        ("another tracker", layer(elsewhere), false),
        ("another user", layer(stub.verifier()).user("root"), false),
        ("another secret", layer(stub.verifier()).session_secret([8; 32]), false),
        ("a secret of its own", LoginLayer::builder(stub.verifier()), false),
    ] {
        let seen = who(&tracker(layer.build().unwrap()), &cookie).await;
        assert_eq!(seen != "nobody", recognised, "{what}: {seen}");
    }
}

#[tokio::test]
async fn unusable_issuer_name_is_left_out_of_the_cookie() {
    let name = "x".repeat(5000);
    let stub = Stub::start([Reply::Send(json("200 OK", &format!(r#"{{"issuer":"{name}"}}"#)))]).await;
    let tracker = tracker(layer(stub.verifier()).build().unwrap());
    let (cookie, _) = log_in(&tracker, "/trac/launchpad-auth/t").await;
    assert!(cookie.len() < 1000, "{}", cookie.len());
    assert!(who(&tracker, &cookie).await.starts_with("launchpad of None"));
}
