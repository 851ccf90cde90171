//! What events, metrics and lists say of callers.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_server::Scope;
use countersign_testkit::seen;
use serde_json::json;

use super::{call, caller, send, server};
use crate::fixture::{Fixture, Options};

#[tokio::test]
async fn events_name_the_caller() {
    let callers =
        caller("worker-eu", &[Scope::Issue], "") + &caller("ops", &[Scope::Admin, Scope::Events], "");
    let event_policy = countersign_server::EventPolicy { record_issued: true, ..Default::default() };
    let server = Fixture::with(Options { callers: Some(callers), event_policy, ..Options::default() });
    tokio::spawn(std::sync::Arc::clone(&server.app.events).write());
    let token = send(&server, "worker-eu", "POST", "/v1/tokens", None).await.json()["token_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&server, "ops", "POST", "/v1/store/fence", None).await.status, StatusCode::OK);
    let unnamed = server.token();
    assert_eq!(server.handshake(&unnamed).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&unnamed).await.status, StatusCode::UNAUTHORIZED);
    let listed = send(&server, "ops", "GET", "/v1/events?kind=issued,replay,fence-moved", None).await.json();
    let mut found: Vec<_> = listed["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["kind"].as_str().unwrap(), event["caller"].as_str().unwrap_or("-")))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [("fence-moved", "ops"), ("issued", "worker-eu"), ("replay", "-"), ("replay", "worker-eu")]
    );
    let metrics = send(&server, "ops", "GET", "/metrics", None).await.text;
    assert_eq!(send(&server, "worker-eu", "GET", "/metrics", None).await.status, StatusCode::FORBIDDEN);
    for series in [
        "countersign_caller_tokens_issued_total{caller=\"worker-eu\"} 1\n",
        "countersign_caller_handshakes_total{caller=\"worker-eu\",outcome=\"accepted\"} 1\n",
        "countersign_caller_handshakes_total{caller=\"worker-eu\",outcome=\"replay\"} 1\n",
    ] {
        assert!(metrics.contains(series), "{series}{metrics}");
    }
    let metrics = send(&server, "ops", "GET", "/metrics", None).await.text;
    let denied = "countersign_caller_requests_denied_total{caller=\"worker-eu\",problem=\"scope\"} 1\n";
    assert!(metrics.contains(denied), "{metrics}");
    let request = Request::get("/?kind=replay").header("authorization", "Bearer ops-secret");
    let page = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(page.contains("worker-eu"), "{page}");
    let request = Request::get("/page/events.csv?kind=replay").header("authorization", "Bearer ops-secret");
    let csv = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(csv.lines().any(|line| line.ends_with(",worker-eu")), "{csv}");
    let of_one = send(&server, "ops", "GET", "/v1/events?kind=replay&text=worker-eu", None).await.json();
    assert_eq!(of_one["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn denied_requests_are_events() {
    let more = "audiences = ['https://trac.example.org/']\nmax_lifetime = '60s'\ntokens_per_minute = 1";
    let callers = caller("worker-eu", &[Scope::Issue], more)
        + &caller("ops", &[Scope::Admin, Scope::Events], "")
        + &caller("metrics", &[Scope::Events], "");
    let server = server(callers);
    tokio::spawn(std::sync::Arc::clone(&server.app.events).write());
    let agent = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("user-agent", "worker/1");
        request.header("authorization", "Bearer worker-eu-secret").body(Body::empty()).unwrap()
    };
    assert_eq!(server.private(agent("POST", "/v1/store/fence")).await.status, StatusCode::FORBIDDEN);
    // The page, and a method of XML-RPC, are denied in places of their own.
    assert_eq!(server.private(agent("GET", "/")).await.status, StatusCode::FORBIDDEN);
    call(&server, "worker-eu", "/bugs", "revokeLoginToken", Some("cs1nonsense")).await;
    for body in [
        json!({ "audience": "https://other.example/" }),
        json!({ "ttl": 3600 }),
        json!({ "claims": { "caller": "ops" } }),
        json!({}),
        json!({}),
    ] {
        send(&server, "worker-eu", "POST", "/v1/tokens", Some(body)).await;
    }
    let list = "/v1/events?kind=caller-denied";
    let listed = seen("all are written", async || {
        let listed = send(&server, "metrics", "GET", list, None).await.json()["events"].clone();
        let listed = listed.as_array().unwrap().clone();
        (listed.len() == 7).then_some(listed)
    })
    .await;
    let mut reasons: Vec<_> = listed.iter().map(|event| event["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["caller-audience", "caller-lifetime", "caller-rate", "claims", "scope", "scope", "scope"]
    );
    for event in &listed {
        assert_eq!((&event["caller"], &event["peer"]), (&"worker-eu".into(), &"127.0.0.1".into()), "{event}");
    }
    assert_eq!(listed.iter().filter(|event| event["user_agent"] == "worker/1").count(), 2);
    let of_another = send(&server, "metrics", "GET", &format!("{list}&caller=ops"), None).await.json();
    assert_eq!(of_another["events"], json!([]));
    let request = Request::get("/").header("authorization", "Bearer ops-secret");
    let page = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(page.contains("7 requests denied to callers in the last hour"), "{page}");
    assert!(page.contains("?kind=caller-denied&#38;within=1h#events-title"), "{page}");
}

#[tokio::test]
async fn stream_ends_when_its_caller_is_removed() {
    use http_body_util::BodyExt;
    let server = server(caller("ops", &[Scope::Events], ""));
    let request =
        Request::get("/v1/events/stream?kind=consumed").header("authorization", "Bearer ops-secret");
    let mut body = server.private_response(request.body(Body::empty()).unwrap()).await.into_body();
    let mut next = async || match body.frame().await {
        Some(frame) => String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap(),
        None => "the end".to_owned(),
    };
    assert_eq!(next().await, ": following\n\n");
    assert_eq!(server.handshake(&server.token()).await.status, StatusCode::OK);
    assert!(next().await.contains("consumed"));
    server.change_callers(&caller("other", &[Scope::Events], ""));
    assert_eq!(server.handshake(&server.token()).await.status, StatusCode::OK);
    assert_eq!(next().await, "the end");
}

#[tokio::test]
async fn server_lists_callers_without_secrets() {
    let server =
        server(caller("ops", &[Scope::Admin], "") + &caller("worker", &[Scope::Issue, Scope::Look], ""));
    let document = send(&server, "ops", "GET", "/v1/server", None).await.json();
    assert_eq!(
        document["callers"],
        json!([
            { "name": "ops", "scopes": ["admin"], "secrets": 1, "last_seen": "2026-01-31T12:00:00Z" },
            { "name": "worker", "scopes": ["issue", "look"], "secrets": 1 },
        ])
    );
}
