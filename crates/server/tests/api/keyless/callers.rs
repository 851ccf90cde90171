//! What a caller with a JWT may do, and for how long.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Clock, ManualClock, after};
use countersign_server::Scope;
use countersign_server::routes::{Needs, private_routes};
use countersign_store::memory::MemoryStore;
use countersign_testkit::{SigningKey, seen};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{
    KUBERNETES, NOON, WORKER, caller, claims, metrics, ops, rejected_for, server_and_issuer, server_document,
    server_with, show, with,
};
use crate::fixture::{Fixture, Options, TRAC, post};

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
    tokio::spawn(Arc::clone(&server.app.events).write());
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

/// A server on a shared store whose clock is that much ahead of the server's.
async fn server_behind(key: &SigningKey, by: Duration, scope: Scope) -> (Fixture, tempfile::TempDir) {
    let directory = tempfile::TempDir::new().unwrap();
    let keys = directory.path().join("jwks.json");
    std::fs::write(&keys, json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    let more = format!("jwks_file = '{}'", keys.display());
    let callers = caller("worker", scope, KUBERNETES, WORKER, &more) + &ops();
    let theirs: Arc<dyn Clock> =
        Arc::new(ManualClock::at(after("2026-01-31T12:00:00Z".parse().unwrap(), by)));
    let store = Arc::new(MemoryStore::shared(&theirs));
    let server = Fixture::with(Options { callers: Some(callers), store: Some(store), ..Options::default() });
    server.app.tokens.keep_time().await.unwrap();
    (server, directory)
}

#[tokio::test]
async fn jwt_is_not_accepted_by_a_distrusted_clock() {
    let key = SigningKey::new("one", "ES256");
    let good = claims(KUBERNETES);
    // To a clock that is two hours slow it is good; it has expired an hour ago.
    let (server, _directory) = server_behind(&key, Duration::from_hours(2), Scope::Events).await;
    let ask = async |token: &str| {
        let request = Request::get("/v1/events").header("authorization", format!("Bearer {token}"));
        server.private(request.body(Body::empty()).unwrap()).await
    };
    let expired = with(with(good.clone(), "iat", json!(NOON - 7200)), "exp", json!(NOON - 3600));
    for claims in [&good, &expired] {
        let before = metrics(&server).await;
        let answer = ask(&key.token(claims)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.json()["type"], "urn:countersign:problem:clock");
        assert!(answer.text.contains("clock is 7200 s behind the store's"), "{answer:?}");
        assert_eq!(rejected_for(&server, &before).await, "clock");
    }
    let forged = SigningKey::new("one", "ES256").token(&good);
    assert_eq!(ask(&forged).await.status, StatusCode::UNAUTHORIZED, "it needs no clock to be wrong");
    assert!(
        metrics(&server).await.contains("countersign_credentials_rejected_total 1\n"),
        "and secrets are taken"
    );

    let (server, _directory) = server_behind(&key, Duration::from_secs(10), Scope::Events).await;
    let request =
        Request::get("/v1/events/stream").header("authorization", format!("Bearer {}", key.token(&good)));
    let mut body = server.private_response(request.body(Body::empty()).unwrap()).await.into_body();
    let mut next = async || match http_body_util::BodyExt::frame(&mut body).await {
        Some(frame) => String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap(),
        None => "the end".to_owned(),
    };
    assert_eq!(next().await, ": following\n\n", "the clocks are near enough");
    // The wall clock alone: the steady one shows that it was set back.
    server.clock.set("2026-01-31T10:00:00Z".parse().unwrap());
    server.handshake("cs1nonsense").await;
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
