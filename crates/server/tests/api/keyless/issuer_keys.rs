//! Fetching an issuer's keys, and waiting for them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_server::Scope;
use countersign_server::limits::{
    JWKS_MAX_AGE, JWKS_REFRESH, MAX_JWKS_KEYS, MAX_WAITING, MIN_REFRESH_INTERVAL,
};
use countersign_testkit::{Authority, IssuerServer, SigningKey, seen};
use data_encoding::BASE64;
use serde_json::json;

use super::{
    KUBERNETES, NOON, WORKER, caller, claims, metrics, ops, server_and_issuer, server_document, show, with,
};
use crate::fixture::{Fixture, Options};

#[tokio::test]
async fn rotated_key_replaces_the_old_one() {
    let (old, new) = (SigningKey::new("old", "ES256"), SigningKey::new("new", "RS256"));
    let (server, issuer) = server_and_issuer(&old).await;
    let (by_old, by_new) = (old.token(&claims(issuer.url())), new.token(&claims(issuer.url())));
    assert_eq!(show(&server, &by_old).await.status, StatusCode::CREATED);
    issuer.publish(&[&new]);
    assert_eq!(show(&server, &by_new).await.status, StatusCode::UNAUTHORIZED, "keys were fetched just now");
    server.clock.advance(MIN_REFRESH_INTERVAL);
    assert_eq!(show(&server, &by_new).await.status, StatusCode::CREATED, "an unknown key has them fetched");
    assert_eq!(show(&server, &by_old).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn many_unknown_keys_cause_one_fetch() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    let good = claims(issuer.url());
    assert_eq!(show(&server, &key.token(&good)).await.status, StatusCode::CREATED);
    server.clock.advance(MIN_REFRESH_INTERVAL);
    for nth in 0..200 {
        let header = json!({ "alg": "ES256", "kid": format!("k{nth}") });
        assert_eq!(show(&server, &key.sign(&header, &good)).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(issuer.requests("/jwks").len(), 2);
    // Nor has a stranger's issuer anything fetched, not even its own.
    let stranger = IssuerServer::start(None).await;
    stranger.publish(&[&key]);
    let token = key.token(&with(good.clone(), "iss", json!(stranger.url())));
    assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        stranger.requests("/jwks").len() + stranger.requests("/.well-known/openid-configuration").len(),
        0
    );
}

#[tokio::test]
async fn keys_are_used_for_an_hour_while_the_issuer_is_down() {
    let key = SigningKey::new("one", "ES256");
    let (server, mut issuer) = server_and_issuer(&key).await;
    let day = with(claims(issuer.url()), "exp", json!(NOON + 24 * 3600));
    let token = key.token(&day);
    assert_eq!(show(&server, &token).await.status, StatusCode::CREATED);
    issuer.stop().await;
    let refresh = async || {
        server.app.callers.as_ref().unwrap().refresh_issuers(false);
        let server = &server;
        seen("a fetch that failed", async || {
            (!metrics(server).await.contains("countersign_jwks_refresh_failures_total 0\n")).then_some(())
        })
        .await;
    };
    server.clock.advance(JWKS_REFRESH);
    refresh().await;
    assert_eq!(show(&server, &token).await.status, StatusCode::CREATED, "by the keys of before");
    let document = server_document(&server).await;
    assert_eq!(
        (&document["issuers"][0]["keys"], &document["issuers"][0]["fetched"]),
        (&json!(1), &json!("2026-01-31T12:00:00Z"))
    );
    assert!(document["issuers"][0]["trouble"].as_str().unwrap().contains("cannot be fetched"), "{document}");
    server.clock.advance(JWKS_MAX_AGE.checked_sub(JWKS_REFRESH).unwrap());
    assert_eq!(show(&server, &token).await.status, StatusCode::CREATED, "for the whole hour");
    server.clock.advance(Duration::from_secs(1));
    let answer = show(&server, &token).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["type"], "urn:countersign:problem:issuer-unavailable");
    assert_eq!(answer.header("retry-after"), "10");
    let gone = metrics(&server).await;
    assert!(gone.contains("countersign_jwks_issuers_without_keys 1\n"), "{gone}");
    assert!(gone.contains("countersign_credentials_rejected_total 0\n"), "it may be good: {gone}");
}

#[tokio::test]
async fn silent_issuer_delays_only_its_own_tokens() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    issuer.hold();
    let token = key.token(&claims(issuer.url()));
    let waits = show(&server, &token);
    let meanwhile = async {
        seen("a request at the issuer", async || {
            (!issuer.requests("/.well-known/openid-configuration").is_empty()).then_some(())
        })
        .await;
        // Others are answered, and no second fetch begins.
        assert!(metrics(&server).await.contains("countersign_jwks_refreshes_total 0\n"));
        let another = show(&server, &token);
        issuer.let_go();
        another.await.status
    };
    let (first, second) = tokio::join!(waits, meanwhile);
    assert_eq!((first.status, second), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(issuer.requests("/jwks").len(), 1);
}

#[tokio::test]
async fn unavailable_keys_are_reported_with_the_reason() {
    let key = SigningKey::new("one", "ES256");
    let elsewhere = IssuerServer::start(None).await;
    elsewhere.publish(&[&key]);
    let many: Vec<_> = (0..=MAX_JWKS_KEYS).map(|_| key.jwk()).collect();
    let long = json!({ "keys": [key.jwk()], "more": "x".repeat(300_000) });
    let discovery = "/.well-known/openid-configuration";
    let redirect = format!("302 Found\r\nLocation: {}/jwks", elsewhere.url());
    for (path, status, body, reason) in [
        ("/jwks", "200 OK", json!({ "keys": [] }).to_string(), "no key that can verify"),
        ("/jwks", "200 OK", json!({ "keys": many }).to_string(), "more than 64 keys"),
        ("/jwks", "200 OK", long.to_string(), "longer than 262144 bytes"),
        ("/jwks", "200 OK", "<html>hUnter2".to_owned(), "is no JWKS document"),
        ("/jwks", &redirect, String::new(), "redirects (302), which is not followed"),
        ("/jwks", "403 Forbidden", "hUnter2".to_owned(), "is answered 403: it takes a bearer"),
        ("/jwks", "500 Oh", "hUnter2".to_owned(), "is answered 500"),
        (discovery, &redirect, String::new(), "its discovery document redirects (302)"),
        (discovery, "200 OK", "hUnter2".to_owned(), "is not a JSON object with"),
        (
            discovery,
            "200 OK",
            json!({ "issuer": "https://a.example", "jwks_uri": elsewhere.url() }).to_string(),
            "names another issuer",
        ),
    ] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.answers(path, status, body);
        let answer = show(&server, &key.token(&claims(issuer.url()))).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{reason}");
        let document = server_document(&server).await;
        let trouble = document["issuers"][0]["trouble"].as_str().unwrap();
        assert!(trouble.contains(reason) && !document.to_string().contains("hUnter2"), "{reason}: {trouble}");
    }
    for uri in ["http://keys.example.org/jwks", "file:///etc/passwd", "nowhere"] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.answers(discovery, "200 OK", json!({ "issuer": issuer.url(), "jwks_uri": uri }));
        assert_eq!(
            show(&server, &key.token(&claims(issuer.url()))).await.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(elsewhere.requests("/jwks").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn silent_issuer_times_out() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    issuer.hold();
    let answer = show(&server, &key.token(&claims(issuer.url()))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let document = server_document(&server).await;
    assert_eq!(document["issuers"][0]["trouble"], "its keys did not come within 5 seconds");
}

/// As a cluster has it: the issuer is a name that nobody resolves, its keys are at an API server with a certificate of the
/// cluster's own authority, which asks for a token as well.
#[tokio::test]
async fn kubernetes_token_is_accepted() {
    let (key, authority) = (SigningKey::new("cluster", "RS256"), Authority::new());
    let api = IssuerServer::start(Some(authority.certify("localhost").acceptor())).await;
    api.publish(&[&key]);
    let directory = tempfile::TempDir::new().unwrap();
    let (ca, bearer) = (directory.path().join("ca.crt"), directory.path().join("token"));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&bearer, "servers-own-token\n").unwrap();
    let source = |ca: &std::path::Path| {
        let url = format!("jwks_url = '{}/jwks'\nbearer_file = '{}'", api.url(), bearer.display());
        if ca.exists() { format!("{url}\nca_file = '{}'", ca.display()) } else { url }
    };
    let server = |more: &str| {
        let callers = caller("worker", Scope::Issue, KUBERNETES, WORKER, more) + &ops();
        Fixture::with(Options { callers: Some(callers), ..Options::default() })
    };
    let token = key.token(&claims(KUBERNETES));
    let pinned = server(&source(&ca));
    assert_eq!(show(&pinned, &token).await.status, StatusCode::CREATED);
    let requests = api.requests("/jwks");
    assert!(
        requests[0].to_lowercase().contains("\r\nauthorization: bearer servers-own-token\r\n"),
        "{requests:?}"
    );
    // The platform replaces its token.
    std::fs::write(&bearer, "the-next-one\n").unwrap();
    pinned.clock.advance(MIN_REFRESH_INTERVAL);
    pinned.app.callers.as_ref().unwrap().refresh_issuers(true);
    seen("another fetch", async || (api.requests("/jwks").len() == 2).then_some(())).await;
    assert!(api.requests("/jwks")[1].to_lowercase().contains("bearer the-next-one"));
    // An authority that is not the cluster's.
    std::fs::write(&ca, Authority::new().pem()).unwrap();
    for unknown in [server(&source(&ca)), server(&source(std::path::Path::new("/nowhere")))] {
        assert_eq!(show(&unknown, &token).await.status, StatusCode::SERVICE_UNAVAILABLE);
        let trouble = server_document(&unknown).await["issuers"][0]["trouble"].to_string();
        assert!(trouble.contains("certificate") && !trouble.contains("the-next-one"), "{trouble}");
    }
    assert_eq!(api.requests("/jwks").len(), 2, "and it is not sent the token");
}

#[tokio::test]
async fn key_file_is_read_and_reread() {
    let (old, new) = (SigningKey::new("old", "ES256"), SigningKey::new("new", "EdDSA"));
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [old.jwk()] }).to_string()).unwrap();
    let more = format!("jwks_file = '{}'", file.display());
    let callers = caller("worker", Scope::Issue, KUBERNETES, WORKER, &more);
    let server = Fixture::with(Options { callers: Some(callers), ..Options::default() });
    assert_eq!(show(&server, &old.token(&claims(KUBERNETES))).await.status, StatusCode::CREATED);
    std::fs::write(&file, json!({ "keys": [new.jwk()] }).to_string()).unwrap();
    server.clock.advance(MIN_REFRESH_INTERVAL);
    assert_eq!(show(&server, &new.token(&claims(KUBERNETES))).await.status, StatusCode::CREATED);
    assert_eq!(show(&server, &old.token(&claims(KUBERNETES))).await.status, StatusCode::UNAUTHORIZED);
}

/// A server for an issuer that takes requests and answers none.
async fn server_of_a_silent_issuer(key: &SigningKey, refusals_per_minute: u32) -> (Fixture, IssuerServer) {
    let issuer = IssuerServer::start(None).await;
    issuer.publish(&[key]);
    issuer.hold();
    let callers = Some(caller("worker", Scope::Issue, issuer.url(), WORKER, "") + &ops());
    (Fixture::with(Options { refusals_per_minute, callers, ..Options::default() }), issuer)
}

#[tokio::test(start_paused = true)]
async fn request_beyond_the_waiting_limit_is_refused_at_once() {
    use futures_util::future::join_all;
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_of_a_silent_issuer(&key, 0).await;
    let good = key.token(&claims(issuer.url()));
    let began = tokio::time::Instant::now();
    let answers = join_all((0..2 * MAX_WAITING).map(async |_| {
        let status = show(&server, &good).await.status;
        (status, began.elapsed() >= Duration::from_secs(5))
    }))
    .await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::SERVICE_UNAVAILABLE), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, waited)| *waited).count(), MAX_WAITING);
}

#[tokio::test(start_paused = true)]
async fn address_with_too_many_refusals_does_not_wait() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_of_a_silent_issuer(&key, 1).await;
    for status in [401, 429] {
        assert_eq!(show(&server, "guessed").await.status, status);
    }
    let began = tokio::time::Instant::now();
    // Nobody can say that it is wrong.
    let status = show(&server, &key.token(&claims(issuer.url()))).await.status;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn password_waits_for_keys_only_on_the_page() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_of_a_silent_issuer(&key, 0).await;
    let basic = BASE64.encode(format!("anna:{}", key.token(&claims(issuer.url()))).as_bytes());
    for (path, status, waits) in [("/v1/keys", 401, false), ("/bugs", 401, false), ("/", 503, true)] {
        let method = if path == "/bugs" { "POST" } else { "GET" };
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Basic {basic}"));
        let began = tokio::time::Instant::now();
        assert_eq!(server.private(request.body(Body::empty()).unwrap()).await.status, status, "{path}");
        assert_eq!(began.elapsed() >= Duration::from_secs(5), waits, "{path}");
    }
}

#[tokio::test]
async fn token_without_keys_is_limited() {
    let key = SigningKey::new("one", "ES256");
    let mut issuer = IssuerServer::start(None).await;
    issuer.stop().await;
    let callers = Some(caller("worker", Scope::Issue, issuer.url(), WORKER, "") + &ops());
    let server = Fixture::with(Options { callers, refusals_per_minute: 2, ..Options::default() });
    for _ in 0..3 {
        // It may be good, and never is a wrong secret.
        assert_eq!(show(&server, &key.token(&claims(issuer.url()))).await.status, 503);
    }
    assert_eq!(show(&server, "wrong").await.status, 429, "they count");
}

#[tokio::test]
async fn unwritten_pipe_is_not_read_as_keys() {
    let directory = tempfile::TempDir::new().unwrap();
    let pipe = directory.path().join("jwks.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let key = SigningKey::new("one", "ES256");
    let more = format!("jwks_file = '{}'", pipe.display());
    let callers = Some(caller("worker", Scope::Issue, KUBERNETES, WORKER, &more) + &ops());
    let server = Fixture::with(Options { callers, ..Options::default() });
    assert_eq!(show(&server, &key.token(&claims(KUBERNETES))).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let trouble = server_document(&server).await["issuers"][0]["trouble"].to_string();
    assert!(trouble.contains("its jwks_file cannot be read: it is a FIFO"), "{trouble}");
}
