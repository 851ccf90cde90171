//! What a caller may have tokens for, how long they live, and how many it may have.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use countersign_core::seal::unseal;
use countersign_server::Scope;
use serde_json::{Value, json};

use super::{call, caller, send, server};
use crate::fixture::{Fixture, JSON, Options, TRAC, post};

#[tokio::test]
async fn caller_gets_tokens_only_for_its_trackers() {
    let bound = "audiences = ['https://trac.example.org/', 'https://bugs.example.org/projects/*']";
    let server = server(caller("worker", &[Scope::Issue], bound));
    for (audience, allowed) in [
        (json!("https://TRAC.example.org:443"), true),
        (json!("https://bugs.example.org/projects/a"), true),
        (json!("https://bugs.example.org/projectsevil"), false),
        (json!("https://bugs.example.org/projects/%2e%2e/admin"), false),
        (json!("https://trac.example.org/a"), false),
        (json!("http://trac.example.org/"), false),
    ] {
        let body = json!({ "audience": audience });
        let answer = send(&server, "worker", "POST", "/v1/tokens", Some(body)).await;
        let status = if allowed { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
        assert_eq!(answer.status, status, "{audience}: {answer:?}");
        if !allowed {
            assert_eq!(answer.json()["type"], "urn:countersign:problem:caller-audience");
            let fault = call(&server, "worker", "/bugs", "newBugTrackerToken", audience.as_str()).await;
            assert!(fault.contains("<fault>") && fault.contains("may not have tokens for"), "{fault}");
        }
    }
    let unbound = send(&server, "worker", "POST", "/v1/tokens", None).await;
    assert_eq!(
        (unbound.status, unbound.json()["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("urn:countersign:problem:caller-audience"))
    );
    assert!(call(&server, "worker", "/bugs", "newBugTrackerToken", None).await.contains("has to name one"));
}

#[tokio::test]
async fn caller_with_one_tracker_gets_bound_tokens() {
    let one = format!("audiences = ['{TRAC}']");
    let part = "audiences = ['https://trac.example.org/*']";
    let policy = countersign_core::Policy { require_audience: true, ..Default::default() };
    let callers = caller("one", &[Scope::Issue], &one)
        + &caller("part", &[Scope::Issue], part)
        + &caller("any", &[Scope::Issue], "");
    let server = Fixture::with(Options { callers: Some(callers), policy, ..Options::default() });
    let answer = call(&server, "one", "/bugs", "newBugTrackerToken", None).await;
    let token = answer.split("<string>").nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(unseal(token, &server.app.tokens.keys()).unwrap().audience().unwrap().as_str(), TRAC);
    let issued = send(&server, "one", "POST", "/v1/tokens", None).await.json();
    assert_eq!(issued["audience"], TRAC);
    assert!(
        call(&server, "part", "/bugs", "newBugTrackerToken", None).await.contains("has to name one"),
        "which of them?"
    );
    assert_eq!(
        send(&server, "any", "POST", "/v1/tokens", None).await.json()["type"],
        "urn:countersign:problem:audience-required"
    );
}

#[tokio::test]
async fn caller_limits_lifetime_and_rate() {
    let server = server(caller("worker", &[Scope::Issue], "max_lifetime = '60s'\ntokens_per_minute = 3"));
    let issue = async |body: Value| send(&server, "worker", "POST", "/v1/tokens", Some(body)).await;
    assert_eq!(issue(json!({})).await.json()["date_expires"], "2026-01-31T12:01:00Z", "not five minutes");
    assert_eq!(issue(json!({ "ttl": 7 })).await.json()["date_expires"], "2026-01-31T12:00:07Z");
    let long = issue(json!({ "ttl": 61 })).await;
    assert_eq!(
        (long.status, long.json()["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("urn:countersign:problem:caller-lifetime"))
    );
    assert_eq!(issue(json!({})).await.status, StatusCode::CREATED, "what was refused is not counted");
    let many = issue(json!({})).await;
    assert_eq!((many.status, many.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "20"));
    assert_eq!(many.json()["type"], "urn:countersign:problem:caller-rate");
    assert!(
        call(&server, "worker", "/bugs", "newBugTrackerToken", None)
            .await
            .contains("as many tokens as it may")
    );
    server.clock.advance(Duration::from_secs(20));
    assert_eq!(issue(json!({})).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn tracker_learns_the_caller_only_when_configured() {
    let callers =
        caller("told", &[Scope::Issue], "tell_trackers = true") + &caller("quiet", &[Scope::Issue], "");
    let server = server(callers);
    for (name, claims) in [("told", json!({ "a": 1, "caller": "told" })), ("quiet", json!({ "a": 1 }))] {
        let body = json!({ "claims": { "a": 1 } });
        let token = send(&server, name, "POST", "/v1/tokens", Some(body)).await.json()["token_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(unseal(&token, &server.app.tokens.keys()).unwrap().issued_by().unwrap().as_str(), name);
        let request = post(&crate::fixture::handshake_path(&token)).header("accept", JSON);
        let answer = server.public(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.json()["claims"], claims);
        for forged in ["caller", "@caller"] {
            let body = json!({ "claims": { forged: "ops" } });
            let answer = send(&server, name, "POST", "/v1/tokens", Some(body)).await;
            assert_eq!(
                (answer.status, answer.json()["type"].as_str()),
                (StatusCode::BAD_REQUEST, Some("urn:countersign:problem:claims"))
            );
        }
    }
}
