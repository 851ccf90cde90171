//! Callers that show a JWT of an issuer instead of a secret.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::seal::unseal;
use countersign_server::limits::{
    JWKS_MAX_AGE, JWKS_REFRESH, MAX_JWKS_KEYS, MAX_JWT_BYTES, MAX_WAITING, MIN_REFRESH_INTERVAL,
};
use countersign_server::routes::{Needs, private_routes};
use countersign_server::{Scope, SecretHash};
use countersign_testkit::{Authority, IssuerServer, SigningKey, seen, unsigned};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::hmac;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, Options, TRAC, post};

const KUBERNETES: &str = "https://kubernetes.default.svc.cluster.local";
const WORKER: &str = "system:serviceaccount:trackers:worker";
/// What the fixture's clock shows.
const NOON: i64 = 1_769_860_800;

/// A caller that shows a JWT; `more` is further keys of its table.
fn caller(name: &str, scope: Scope, issuer: &str, subject: &str, more: &str) -> String {
    format!(
        "[[caller]]\nname = '{name}'\nscopes = ['{scope}']\n[caller.jwt]\nissuer = '{issuer}'\naudience = 'countersign'\n\
         subject = '{subject}'\n{more}\n"
    )
}

/// A caller with a secret, to look at the metrics with.
fn ops() -> String {
    let hash = SecretHash::of(b"ops-secret");
    format!("[[caller]]\nname = 'ops'\nscopes = ['events', 'admin']\nsecrets = ['{hash}']\n")
}

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": WORKER, "aud": ["countersign"], "iat": NOON, "nbf": NOON, "exp": NOON + 3600,
        "jti": "2f1c", "kubernetes.io": { "namespace": "trackers", "serviceaccount": { "name": "worker" } },
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// A server that knows the worker of an issuer, and one that has published this key.
async fn server_and_issuer(key: &SigningKey) -> (Fixture, IssuerServer) {
    let issuer = IssuerServer::start(None).await;
    issuer.publish(&[key]);
    let callers = caller("worker", Scope::Issue, issuer.url(), WORKER, "") + &ops();
    (Fixture::with(Options { callers: Some(callers), ..Options::default() }), issuer)
}

async fn show(server: &Fixture, token: &str) -> Answer {
    let request = post("/v1/tokens").header("authorization", format!("Bearer {token}"));
    server.private(request.body(Body::empty()).unwrap()).await
}

async fn metrics(server: &Fixture) -> String {
    let request = Request::get("/metrics").header("authorization", "Bearer ops-secret");
    server.private(request.body(Body::empty()).unwrap()).await.text
}

/// The reason for which the last token was rejected; each is rejected for one reason, and counted once.
async fn rejected_for(server: &Fixture, before: &str) -> String {
    let now = metrics(server).await;
    let of_jwts = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("countersign_jwts_rejected_total"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, now) = (of_jwts(before), of_jwts(&now));
    let changed: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let [changed] = *changed else { return format!("{} reasons", changed.len()) };
    changed.split('"').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn token_of_each_algorithm_is_accepted() {
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let key = SigningKey::new("one", algorithm);
        let (server, issuer) = server_and_issuer(&key).await;
        let answer = show(&server, &key.token(&claims(issuer.url()))).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{algorithm}: {answer:?}");
        let token = answer.json()["token_id"].as_str().unwrap().to_owned();
        let issued_by = unseal(&token, &server.app.tokens.keys()).unwrap().issued_by().unwrap().to_string();
        assert_eq!(issued_by, "worker");
        let refreshes = metrics(&server).await;
        assert!(refreshes.contains("countersign_jwks_refreshes_total 1\n"), "{refreshes}");
    }
}

#[tokio::test]
async fn tokens_of_other_issuers_or_servers_are_rejected() {
    let (key, foreign) = (SigningKey::new("one", "ES256"), SigningKey::new("one", "ES256"));
    let (server, issuer) = server_and_issuer(&key).await;
    let good = claims(issuer.url());
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
    let is = |name: &str, value: Value| key.token(&with(good.clone(), name, value));
    let in_header = |name: &str, value: Value| key.sign(&with(header.clone(), name, value), &good);
    let hs256 = |secret: &[u8]| {
        let message = unsigned(&json!({ "alg": "HS256", "typ": "JWT", "kid": "one" }), &good);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    };
    let whole = key.token(&good);
    let (message, signature) = whole.rsplit_once('.').unwrap();
    let other_claims = unsigned(&header, &with(good.clone(), "sub", json!("admin")));
    let cases = [
        ("none", format!("{}.", unsigned(&json!({ "alg": "none" }), &good)), "header"),
        (
            "None",
            format!("{}.{signature}", unsigned(&json!({ "alg": "None", "kid": "one" }), &good)),
            "header",
        ),
        ("HS256 with the public key", hs256(key.jwk().to_string().as_bytes()), "algorithm"),
        ("HS256 with the public point", hs256(key.jwk()["x"].as_str().unwrap().as_bytes()), "algorithm"),
        ("another algorithm of the same key", in_header("alg", json!("ES384")), "unknown-key"),
        ("an algorithm of another kind", in_header("alg", json!("RS256")), "unknown-key"),
        ("critical extension", in_header("crit", json!(["exp"])), "header"),
        ("a logout token", in_header("typ", json!("logout+jwt")), "type"),
        ("an unknown key", in_header("kid", json!("two")), "unknown-key"),
        ("a foreign key of the same name", foreign.token(&good), "signature"),
        (
            "its own key in the header",
            foreign.sign(&with(header.clone(), "jwk", foreign.jwk()), &good),
            "signature",
        ),
        ("no signature", format!("{message}."), "signature"),
        ("a cut signature", whole[..whole.len() - 4].to_owned(), "signature"),
        ("other claims", format!("{other_claims}.{signature}"), "signature"),
        ("expired", is("exp", json!(NOON - 61)), "expired"),
        ("expires never", is("exp", Value::Null), "claims"),
        ("exp is a text", is("exp", json!("9999999999")), "claims"),
        ("exp is huge", is("exp", json!(1e300)), "lifetime"),
        ("nbf is a text", is("nbf", json!("never")), "claims"),
        ("not yet", is("nbf", json!(NOON + 61)), "not-yet"),
        ("issued in the future", is("iat", json!(NOON + 61)), "not-yet"),
        ("issued at no time", is("iat", Value::Null), "claims"),
        ("lasts too long", is("exp", json!(NOON + 24 * 3600 + 1)), "lifetime"),
        ("another audience", is("aud", json!("vault")), "audience"),
        ("an audience that begins so", is("aud", json!(["countersign-other"])), "audience"),
        ("another case", is("aud", json!("Countersign")), "audience"),
        ("no audience", is("aud", Value::Null), "claims"),
        ("audience is a number", is("aud", json!(7)), "claims"),
        ("another subject", is("sub", json!("system:serviceaccount:trackers:worker2")), "subject"),
        ("no subject", is("sub", Value::Null), "claims"),
        (
            "a logout token without a type",
            is("events", json!({ "http://schemas.openid.net/event/backchannel-logout": {} })),
            "type",
        ),
        ("bound to a key", is("cnf", json!({ "jkt": "x" })), "bound"),
    ];
    for (what, token, reason) in cases {
        let before = metrics(&server).await;
        let answer = show(&server, &token).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.json()["type"], "urn:countersign:problem:credential", "{what}");
        let detail = "Show the private API's bearer token: Authorization: Bearer …";
        assert_eq!(answer.json()["detail"], detail, "it tells nothing");
        assert_eq!(rejected_for(&server, &before).await, reason, "{what}");
        server.clock.advance(Duration::from_millis(1));
    }
    // What is no JWT of a known issuer is a wrong secret like any other.
    let before = metrics(&server).await;
    let elsewhere = with(good.clone(), "iss", json!(format!("{}/", issuer.url())));
    let long = with(good.clone(), "more", json!("x".repeat(MAX_JWT_BYTES)));
    for token in [
        key.token(&elsewhere),
        key.token(&long),
        is("iss", Value::Null),
        "ey.ey.ey".to_owned(),
        message.to_owned(),
    ] {
        assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(rejected_for(&server, &before).await, "0 reasons");
    assert_eq!(show(&server, &whole).await.status, StatusCode::CREATED, "the good one still is");
    assert_eq!(issuer.requests("/jwks").len(), 1, "none of them had the keys fetched again so soon");
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    let good = claims(issuer.url());
    for (name, value, is_good) in [
        ("exp", json!(NOON - 59), true),
        ("exp", json!(NOON - 60), false),
        ("nbf", json!(NOON + 60), true),
        ("nbf", json!(NOON + 61), false),
        ("iat", json!(f64::from(i32::try_from(NOON).unwrap()) + 0.5), true),
        ("exp", json!(NOON + 24 * 3600), true),
        ("aud", json!("countersign"), true),
        ("aud", json!(["other", "countersign"]), true),
        ("nbf", Value::Null, true),
    ] {
        let mut claims = with(good.clone(), name, value.clone());
        if name == "exp" && value.as_i64() < Some(NOON) {
            claims = with(claims, "iat", json!(NOON - 3600));
        }
        let status = show(&server, &key.token(&claims)).await.status;
        assert_eq!(status == StatusCode::CREATED, is_good, "{name} {value}: {status}");
    }
}

#[tokio::test]
async fn key_of_another_use_is_ignored() {
    let (key, other) = (SigningKey::new("one", "ES256"), SigningKey::new("other", "EdDSA"));
    let secret = json!({ "kty": "oct", "kid": "one", "k": BASE64URL_NOPAD.encode(b"secret") });
    for (jwk, is_good) in [
        (key.jwk(), true),
        (with(key.jwk(), "use", json!("enc")), false),
        (with(key.jwk(), "use", Value::Null), true),
        (with(key.jwk(), "key_ops", json!(["sign"])), false),
        (with(key.jwk(), "key_ops", json!(["verify"])), true),
        (with(key.jwk(), "alg", json!("RS256")), false),
        (with(key.jwk(), "alg", json!("HS256")), false),
        (with(key.jwk(), "alg", json!("ES999")), false),
        (with(key.jwk(), "alg", Value::Null), true),
        (with(key.jwk(), "kid", Value::Null), false),
        (with(key.jwk(), "kid", json!("One")), false),
        (with(key.jwk(), "crv", json!("P-384")), false),
        (with(key.jwk(), "x", json!("AAAA")), false),
        (secret, false),
    ] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.answers("/jwks", "200 OK", json!({ "keys": [{ "kty": "new" }, 7, jwk, other.jwk()] }));
        let answer = show(&server, &key.token(&claims(issuer.url()))).await;
        assert_eq!(answer.status == StatusCode::CREATED, is_good, "{jwk}: {answer:?}");
    }
}

#[tokio::test]
async fn token_without_a_key_id_needs_an_issuer_with_one_key() {
    let (key, other) = (SigningKey::new("one", "ES256"), SigningKey::new("two", "ES256"));
    let header = json!({ "alg": "ES256" });
    for (keys, status) in [(&[&key][..], StatusCode::CREATED), (&[&key, &other], StatusCode::UNAUTHORIZED)] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.publish(keys);
        assert_eq!(show(&server, &key.sign(&header, &claims(issuer.url()))).await.status, status);
    }
}

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

async fn server_document(server: &Fixture) -> Value {
    let request = Request::get("/v1/server").header("authorization", "Bearer ops-secret");
    server.private(request.body(Body::empty()).unwrap()).await.json()
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

/// A server with these callers, for an issuer whose keys are in a file; and a directory that has it.
fn server_with(key: &SigningKey, callers: &[(&str, Scope, &str, &str)]) -> (Fixture, tempfile::TempDir) {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    let source = format!("jwks_file = '{}'", file.display());
    let callers: String = callers
        .iter()
        .map(|(name, scope, subject, more)| {
            caller(name, *scope, KUBERNETES, subject, &format!("{source}\n{more}"))
        })
        .collect();
    (Fixture::with(Options { callers: Some(callers + &ops()), ..Options::default() }), directory)
}

#[tokio::test]
async fn rule_requires_its_claims() {
    let key = SigningKey::new("one", "ES256");
    let (server, _directory) = server_with(
        &key,
        &[
            ("main", Scope::Issue, WORKER, "claims = { repository_id = '7', ref = 'main' }"),
            ("fork", Scope::Issue, WORKER, "claims = { repository_id = '8' }"),
        ],
    );
    let token = |id: Value, branch: Value| {
        key.token(&with(with(claims(KUBERNETES), "repository_id", id), "ref", branch))
    };
    for (id, branch, status) in [
        (json!("7"), json!("main"), StatusCode::CREATED),
        (json!("7"), json!("maint"), StatusCode::UNAUTHORIZED),
        (json!("7"), Value::Null, StatusCode::UNAUTHORIZED),
        (json!(7), json!("main"), StatusCode::UNAUTHORIZED),
        (json!(["7"]), json!("main"), StatusCode::UNAUTHORIZED),
        (json!("8"), json!("main"), StatusCode::CREATED),
        (json!("9"), json!("main"), StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(show(&server, &token(id.clone(), branch.clone())).await.status, status, "{id} {branch}");
    }
}

#[tokio::test]
async fn jwt_of_two_audiences_matches_one_caller() {
    let key = SigningKey::new("one", "ES256");
    let (server, directory) = server_with(&key, &[]);
    let source = format!("jwks_file = '{}'", directory.path().join("jwks.json").display());
    let second = caller("two", Scope::Issue, KUBERNETES, WORKER, &source).replace("'countersign'", "'other'");
    server.change_callers(&(caller("one", Scope::Issue, KUBERNETES, WORKER, &source) + &second + &ops()));
    let token = |audiences: Value| key.token(&with(claims(KUBERNETES), "aud", audiences));
    assert_eq!(show(&server, &token(json!(["other"]))).await.status, StatusCode::CREATED);
    assert_eq!(show(&server, &token(json!(["other", "countersign"]))).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn each_route_is_closed_to_each_other_scope() {
    let key = SigningKey::new("one", "EdDSA");
    let callers: Vec<_> = Scope::ALL.iter().map(|scope| (scope.label(), *scope, scope.label(), "")).collect();
    for route in private_routes() {
        let path = route.path.replace("{token}", "cs1nothing").replace("{state}", "good");
        let method = if route.method == "*" { "POST" } else { route.method };
        let (server, _directory) = server_with(&key, &callers);
        let request = |token: &str| {
            let request = Request::builder().method(method).uri(&path).header("host", "127.0.0.1:8087");
            let request = request.header("origin", "http://127.0.0.1:8087");
            request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap()
        };
        let token = |subject: &str| key.token(&with(claims(KUBERNETES), "sub", json!(subject)));
        let open = route.needs == Needs::Nothing;
        let wrong = server.private_response(request(&token("nobody"))).await.status();
        assert_eq!(wrong == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {wrong}");
        for scope in Scope::ALL {
            let status = server.private_response(request(&token(scope.label()))).await.status();
            let is_meant = match route.needs {
                Needs::Nothing | Needs::Caller => true,
                Needs::Scope(needed) => needed == scope,
            };
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} {scope}");
            assert_eq!(status == StatusCode::FORBIDDEN, !is_meant, "{method} {path} {scope}: {status}");
        }
    }
}

#[tokio::test]
async fn callers_limits_apply_to_its_jwts() {
    let key = SigningKey::new("one", "ES256");
    let (server, directory) = server_with(&key, &[]);
    let source = format!("jwks_file = '{}'", directory.path().join("jwks.json").display());
    let limits =
        format!("scopes = ['issue']\naudiences = ['{TRAC}']\nmax_lifetime = '60s'\ntokens_per_minute = 1");
    let worker =
        caller("worker", Scope::Issue, KUBERNETES, WORKER, &source).replace("scopes = ['issue']", &limits);
    server.change_callers(&(worker + &ops()));
    let token = key.token(&claims(KUBERNETES));
    let ask = async |body: Value| {
        let request = post("/v1/tokens").header("authorization", format!("Bearer {token}"));
        let request = request.header("content-type", "application/json");
        server.private(request.body(Body::from(body.to_string())).unwrap()).await
    };
    assert_eq!(ask(json!({ "audience": "https://other.example/" })).await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(json!({ "ttl": 61 })).await.status, StatusCode::FORBIDDEN);
    let issued = ask(json!({})).await;
    assert_eq!((issued.status, &issued.json()["audience"]), (StatusCode::CREATED, &json!(TRAC)));
    assert_eq!(ask(json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
    let document = server_document(&server).await;
    assert_eq!(
        document["callers"][0],
        json!({
            "name": "worker", "scopes": ["issue"], "secrets": 0, "last_seen": "2026-01-31T12:00:00Z",
            "jwt": { "issuer": KUBERNETES, "audience": "countersign", "subject": WORKER },
        })
    );
}

#[tokio::test]
async fn wrong_jwt_is_limited_like_a_wrong_secret() {
    let key = SigningKey::new("one", "ES256");
    let (server, directory) = server_with(&key, &[]);
    drop(server);
    let source = format!("jwks_file = '{}'", directory.path().join("jwks.json").display());
    let callers = caller("worker", Scope::Issue, KUBERNETES, WORKER, &source) + &ops();
    let server =
        Fixture::with(Options { callers: Some(callers), refusals_per_minute: 2, ..Options::default() });
    let wrong = key.token(&with(claims(KUBERNETES), "sub", json!("other")));
    for status in [401, 401, 429] {
        assert_eq!(show(&server, &wrong).await.status, status);
    }
    assert_eq!(show(&server, &key.token(&claims(KUBERNETES))).await.status, StatusCode::CREATED);
    let counted = metrics(&server).await;
    assert!(counted.contains("countersign_credentials_rejected_total 3\n"), "{counted}");
    tokio::spawn(std::sync::Arc::clone(&server.app.events).write());
    let events = seen("events that are kept", async || {
        let request =
            Request::get("/v1/events?kind=credential-rejected").header("authorization", "Bearer ops-secret");
        let events = server.private(request.body(Body::empty()).unwrap()).await;
        (events.json()["events"].as_array().unwrap().len() == 3).then_some(events)
    })
    .await;
    assert!(!events.text.contains("system:service"), "{events:?}");
}

#[tokio::test]
async fn stream_ends_when_its_token_has_expired() {
    use http_body_util::BodyExt;
    let key = SigningKey::new("one", "ES256");
    let (server, _directory) = server_with(&key, &[("watcher", Scope::Events, WORKER, "")]);
    let request = Request::get("/v1/events/stream?kind=consumed")
        .header("authorization", format!("Bearer {}", key.token(&claims(KUBERNETES))));
    let mut body = server.private_response(request.body(Body::empty()).unwrap()).await.into_body();
    let mut next = async || match body.frame().await {
        Some(frame) => String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap(),
        None => "the end".to_owned(),
    };
    assert_eq!(next().await, ": following\n\n");
    server.handshake(&server.token()).await;
    assert!(next().await.contains("consumed"));
    server.clock.advance(Duration::from_mins(61));
    server.handshake(&server.token()).await;
    assert_eq!(next().await, "the end");
}

#[tokio::test]
async fn removed_caller_is_rejected_and_new_one_accepted() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    let token = key.token(&claims(issuer.url()));
    assert_eq!(show(&server, &token).await.status, StatusCode::CREATED);
    server.change_callers(&ops());
    assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED);
    server.change_callers(&(caller("again", Scope::Issue, issuer.url(), WORKER, "") + &ops()));
    assert_eq!(show(&server, &token).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn browser_sends_a_jwt_as_password() {
    let key = SigningKey::new("one", "ES256");
    let (server, _directory) = server_with(&key, &[("anna", Scope::Admin, WORKER, "")]);
    let basic = BASE64.encode(format!("anna:{}", key.token(&claims(KUBERNETES))).as_bytes());
    let request = Request::get("/").header("authorization", format!("Basic {basic}"));
    assert_eq!(server.private(request.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
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
async fn unfixable_jwt_is_rejected_without_keys() {
    let key = SigningKey::new("one", "ES256");
    let (server, mut issuer) = server_and_issuer(&key).await;
    issuer.stop().await;
    let good = claims(issuer.url());
    let header = |header: Value| key.sign(&header, &good);
    for (token, reason) in [
        (header(json!({ "alg": "HS256" })), "algorithm"),
        (header(json!({ "alg": "ES256", "typ": "logout+jwt" })), "type"),
        (header(json!({ "alg": "none" })), "header"),
        (key.token(&with(good.clone(), "exp", json!(NOON - 60))), "expired"),
    ] {
        let before = metrics(&server).await;
        assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED, "{reason}");
        assert_eq!(rejected_for(&server, &before).await, reason);
    }
    assert!(
        metrics(&server).await.contains("countersign_jwks_refresh_failures_total 0\n"),
        "nothing was fetched"
    );
    assert_eq!(show(&server, &key.token(&good)).await.status, StatusCode::SERVICE_UNAVAILABLE);
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
    assert!(trouble.contains("its jwks_file cannot be read: it is not a regular file"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn quiet_stream_ends_when_its_token_has_expired() {
    use http_body_util::BodyExt;
    let key = SigningKey::new("one", "ES256");
    let (server, _directory) = server_with(&key, &[("watcher", Scope::Events, WORKER, "")]);
    let request = Request::get("/v1/events/stream?kind=consumed")
        .header("authorization", format!("Bearer {}", key.token(&claims(KUBERNETES))));
    let body = server.private_response(request.body(Body::empty()).unwrap()).await.into_body();
    server.clock.advance(Duration::from_mins(61));
    let ended = tokio::time::timeout(Duration::from_mins(1), body.collect()).await;
    assert!(ended.is_ok(), "it ends without an event");
}
