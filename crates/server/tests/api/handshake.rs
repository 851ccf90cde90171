//! Every row of the handshake's table.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use countersign_core::{Claims, NewToken};
use countersign_server::SpentStatus;
use serde_json::json;

use crate::fixture::{FORM, Fixture, JSON, Options, TRAC, handshake_path, post};

const SPENT: &str = "Token has already been used or is invalid.";

#[tokio::test]
async fn first_post_is_accepted_and_second_refused() {
    let server = Fixture::new();
    let token = server.token();
    let first = server.handshake(&token).await;
    assert_eq!((first.status, first.text.as_str()), (StatusCode::OK, "Handshake token validated."));
    assert_eq!(first.header("content-type"), "text/plain; charset=utf-8");
    let second = server.handshake(&token).await;
    assert_eq!((second.status, second.text.as_str()), (StatusCode::UNAUTHORIZED, SPENT));
    assert!(second.header("www-authenticate").starts_with("LoginToken "));
}

#[tokio::test]
async fn other_methods_are_refused_and_consume_nothing() {
    let server = Fixture::new();
    let token = server.token();
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for token in [&token, "nonsense"] {
            let request =
                Request::builder().method(&method).uri(handshake_path(token)).body(Body::empty()).unwrap();
            let answer = server.public(request).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(answer.header("allow"), "POST");
            if method != Method::HEAD {
                assert_eq!(answer.text, "Only POST requests are accepted for bugtracker handshakes.");
            }
        }
    }
    assert_eq!(server.look(&token).await["date_consumed"], json!(false));
    assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
}

#[tokio::test]
async fn unauthenticated_caller_learns_nothing() {
    let server = Fixture::new();
    let other = Fixture::new().token();
    let mut changed = server.token();
    changed.replace_range(20..21, if &changed[20..21] == "a" { "b" } else { "a" });
    for token in
        ["nonsense", "%2e%2e%2f%2bindex", "cs1", &other, &changed, &"a".repeat(10_000), "%ff%fe", "%00"]
    {
        let answer = server.handshake(token).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NOT_FOUND, "Not found."), "{token}");
    }
    for path in
        ["/", "/token/a", "/token/a/b", "/token/a/+bugtracker-handshake/x", "/token//+bugtracker-handshake"]
    {
        let answer = server.public(post(path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NOT_FOUND, "Not found."), "{path}");
    }
}

#[tokio::test]
async fn old_and_encoded_paths_reach_the_token() {
    let server = Fixture::new();
    for spelling in [
        "/token/{}/+bugtracker-handshake",
        "/tokens/{}/+bugtracker-handshake",
        "/token/{}/%2Bbugtracker-handshake",
        "/tokens/{}/%2bbugtracker%2dhandshake",
    ] {
        let token = server.token();
        let path = spelling.replace("{}", &token);
        assert_eq!(
            server.public(post(&path).body(Body::empty()).unwrap()).await.status,
            StatusCode::OK,
            "{path}"
        );
        assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    }
    let token = server.token();
    let encoded: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(server.handshake(&encoded).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn expired_or_revoked_token_is_refused() {
    let server = Fixture::new();
    let expired = server.token();
    server.clock.advance(Duration::from_mins(5));
    let revoked = server.token();
    server.app.tokens.revoke(&revoked).await.unwrap();
    for token in [expired, revoked] {
        let answer = server.handshake(&token).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::UNAUTHORIZED, SPENT));
    }
}

#[tokio::test]
async fn setting_answers_410_instead_of_401() {
    let server = Fixture::with(Options { spent_status: SpentStatus::Gone, ..Options::default() });
    let token = server.token();
    server.handshake(&token).await;
    let answer = server.handshake(&token).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::GONE, SPENT));
    assert_eq!(answer.header("www-authenticate"), "");
    assert_eq!(server.handshake("nonsense").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn token_from_before_the_fence_is_refused() {
    let server = Fixture::new();
    let old = server.token();
    server.app.tokens.fence().await.unwrap();
    server.clock.advance(Duration::from_millis(1));
    let new = server.token();
    assert_eq!(server.handshake(&old).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(server.handshake(&new).await.status, StatusCode::OK);
}

#[tokio::test]
async fn future_token_is_refused_until_its_creation_time() {
    let server = Fixture::new();
    server.clock.advance(Duration::from_hours(1));
    let token = server.token();
    server.clock.set("2026-01-31T12:00:00Z".parse().unwrap());
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    server.clock.advance(Duration::from_hours(1));
    assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
}

#[tokio::test]
async fn bound_token_is_refused_elsewhere() {
    let server = Fixture::new();
    let token = server.token_for(TRAC);
    let path = handshake_path(&token);
    let form = |body: &'static str| post(&path).header("content-type", FORM).body(Body::from(body)).unwrap();
    let json = |body: &'static str| post(&path).header("content-type", JSON).body(Body::from(body)).unwrap();
    for (request, says) in [
        (post(&path).body(Body::empty()).unwrap(), "state your configured base URL"),
        (form("audience=https://evil.example/"), "for another bug tracker"),
        (form("audience=http://trac.example.org/"), "for another bug tracker"),
        (form("audience=trac.example.org"), "not a tracker's base URL"),
        (
            form("audience=https://trac.example.org/&audience=https://evil.example/"),
            "not a tracker's base URL",
        ),
        (json(r#"{"audience": "https://evil.example/"}"#), "for another bug tracker"),
        (json(r#"{"audience": 1}"#), "not a tracker's base URL"),
        (json("{"), "not a tracker's base URL"),
    ] {
        let answer = server.public(request).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(answer.text.contains(says), "{answer:?}");
    }
    // What a request's own headers say about where it was sent counts for nothing.
    let forged =
        post(&path).header("host", "trac.example.org").header("origin", TRAC).body(Body::empty()).unwrap();
    assert_eq!(server.public(forged).await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.look(&token).await["status"], "live", "a refusal consumes nothing");
    assert_eq!(server.public(form("audience=HTTPS://Trac.Example.org:443")).await.status, StatusCode::OK);
    assert_eq!(
        server.public(form("audience=https://trac.example.org/")).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn unbound_token_is_accepted_with_any_audience() {
    let server = Fixture::new();
    for (content_type, body) in [
        (FORM, "audience=https://any.example/"),
        (FORM, "%%%&&=="),
        (JSON, "{"),
        ("image/png", "\u{89}PNG"),
        (FORM, ""),
    ] {
        let token = server.token();
        let request = post(&handshake_path(&token))
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap();
        assert_eq!(server.public(request).await.status, StatusCode::OK, "{content_type} {body}");
    }
}

#[tokio::test]
async fn retry_key_gets_the_lost_answer() {
    let server = Fixture::new();
    let token = server.token();
    let ask = async |key: &str| {
        let request = post(&handshake_path(&token)).header("accept", JSON).header("idempotency-key", key);
        server.public(request.body(Body::empty()).unwrap()).await
    };
    let first = ask("mine").await;
    server.clock.advance(Duration::from_mins(1));
    let again = ask("mine").await;
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.text, again.text, "the same body");
    assert_eq!(ask("thief").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    server.clock.advance(Duration::from_millis(1));
    assert_eq!(ask("mine").await.status, StatusCode::UNAUTHORIZED, "a minute is over");
}

#[tokio::test]
async fn retry_key_gets_the_lost_answer_after_expiry() {
    let server = Fixture::new();
    let (used, unused) = (server.token(), server.token());
    server.clock.advance(Duration::from_mins(5) - Duration::from_secs(1));
    let ask = async |token: &str| {
        let request =
            post(&handshake_path(token)).header("idempotency-key", "mine").body(Body::empty()).unwrap();
        server.public(request).await.status
    };
    assert_eq!(ask(&used).await, StatusCode::OK);
    server.clock.advance(Duration::from_secs(2));
    assert_eq!(ask(&used).await, StatusCode::OK);
    assert_eq!(ask(&unused).await, StatusCode::UNAUTHORIZED);
    assert_eq!(server.look(&unused).await["status"], "expired", "asking after expiry consumes nothing");
}

#[tokio::test]
async fn json_is_sent_when_accepted() {
    let server = Fixture::new();
    let claims = json!({ "project": "demo" });
    let issued = server
        .app
        .tokens
        .issue(NewToken {
            claims: Claims::new(claims.as_object().unwrap().clone()).unwrap(),
            ..NewToken::default()
        })
        .unwrap();
    let token = issued.text.expose();
    let ask = async |path: String| {
        server.public(post(&path).header("accept", "application/json").body(Body::empty()).unwrap()).await
    };
    server.clock.advance(Duration::from_secs(3));
    let accepted = ask(handshake_path(token)).await;
    assert_eq!((accepted.status, accepted.header("content-type")), (StatusCode::OK, JSON));
    assert_eq!(
        accepted.json(),
        json!({
            "token_id": token,
            "token_type": "BUGTRACKER",
            "issuer": "Launchpad",
            "audience": "",
            "date_created": "2026-01-31T12:00:00Z",
            "date_consumed": "2026-01-31T12:00:03Z",
            "claims": { "project": "demo" },
        })
    );
    let replay = ask(handshake_path(token)).await;
    assert_eq!(replay.header("content-type"), "application/problem+json");
    assert_eq!(
        replay.json(),
        json!({
            "type": "urn:countersign:problem:replay",
            "title": "Unauthorized",
            "status": 401,
            "detail": "This token was already used, at 2026-01-31T12:00:03Z.",
        })
    );
    let stranger = ask(handshake_path("nonsense")).await;
    assert_eq!(stranger.json()["type"], "urn:countersign:problem:unknown");
    assert_eq!(stranger.json()["detail"], "Not found.");
    let bound = ask(handshake_path(&server.token_for(TRAC))).await;
    assert_eq!(bound.json()["type"], "urn:countersign:problem:audience-missing");
}

#[tokio::test]
async fn public_listener_has_no_private_route() {
    let server = Fixture::new();
    for path in ["/bugs", "/v1/tokens", "/v1/keys", "/v1/store", "/openapi.json", "/metrics"] {
        for method in [Method::GET, Method::POST] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            assert_eq!(server.public(request).await.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        let answer = server.public(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
}
