//! The private API as JSON.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, JSON, Options, TRAC, handshake_path, post};

async fn send(server: &Fixture, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = match body {
        Some(body) => request.header("content-type", JSON).body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    server.private(request.unwrap()).await
}

#[tokio::test]
async fn token_is_issued_for_an_empty_body() {
    let server = Fixture::new();
    let answer = send(&server, "POST", "/v1/tokens", None).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let document = answer.json();
    let token = document["token_id"].as_str().unwrap();
    assert_eq!(document["title"], "Launchpad is authenticating itself with a remote bug tracker.");
    assert_eq!(document["handshake_url"], format!("https://lp.example.org{}", handshake_path(token)));
    assert_eq!(document["audience"], "");
    assert_eq!(document["claims"], json!({}));
    assert_eq!(document["status"], "live");
    assert_eq!(document["date_created"], "2026-01-31T12:00:00Z");
    assert_eq!(document["date_expires"], "2026-01-31T12:05:00Z");
    assert_eq!(document["date_consumed"], false);
    assert_eq!(document["id"].as_str().unwrap().len(), 36);
    assert_eq!(server.look(token).await, document, "looking tells the same");
    server.handshake(token).await;
    let consumed = server.look(token).await;
    assert_eq!(
        (&consumed["status"], &consumed["date_consumed"]),
        (&json!("consumed"), &json!("2026-01-31T12:00:00Z"))
    );
}

#[tokio::test]
async fn token_can_have_an_audience_a_lifetime_and_claims() {
    let server = Fixture::new();
    let body = json!({ "audience": TRAC, "ttl": 7, "claims": { "project": "demo" } });
    let document = send(&server, "POST", "/v1/tokens", Some(body)).await.json();
    assert_eq!(document["audience"], TRAC);
    assert_eq!(document["claims"], json!({ "project": "demo" }));
    assert_eq!(document["date_expires"], "2026-01-31T12:00:07Z");
    server.clock.advance(Duration::from_secs(7));
    assert_eq!(server.look(document["token_id"].as_str().unwrap()).await["status"], "expired");
}

#[tokio::test]
async fn bad_requests_get_the_reason() {
    let server = Fixture::new();
    let long_claims = json!({ "claims": { "a": "x".repeat(1024) } });
    for (body, reason, says) in [
        (json!({ "audience": "trac" }), "audience", "absolute URL"),
        (json!({ "audience": "" }), "audience", "leave the member out"),
        (json!({ "audience": " \t" }), "audience", "leave the member out"),
        (json!({ "audience": null }), "body", "audience"),
        (json!({ "audience": "ftp://a.example/" }), "audience", "https://"),
        (json!({ "ttl": 0 }), "ttl", "86400"),
        (json!({ "ttl": 86_401 }), "ttl", "86400"),
        (json!({ "ttl": -1 }), "body", "/openapi.json"),
        (json!({ "ttl": "5m" }), "body", "ttl"),
        (json!({ "colour": "red" }), "body", "colour"),
        (json!({ "claims": [1] }), "body", "claims"),
        (json!([]), "body", "/openapi.json"),
        (long_claims, "claims", "1024"),
    ] {
        let answer = send(&server, "POST", "/v1/tokens", Some(body.clone())).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.json()["type"], format!("urn:countersign:problem:{reason}"), "{body}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{body}: {}", answer.text);
    }
    let untyped = server.private(post("/v1/tokens").body(Body::from("{\"ttl\": 5}")).unwrap()).await;
    assert_eq!(untyped.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = post("/v1/tokens").header("content-type", JSON).body(Body::from(" ".repeat(300_000))).unwrap();
    assert_eq!(server.private(long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

/// How many tokens were issued.
async fn issued(server: &Fixture) -> String {
    let metrics = send(server, "GET", "/metrics", None).await.text;
    metrics.lines().find(|line| line.starts_with("countersign_tokens_issued")).unwrap().to_owned()
}

#[tokio::test]
async fn ambiguous_bodies_change_nothing() {
    let server = Fixture::new();
    let key = send(&server, "GET", "/v1/keys", None).await.json()["keys"][0]["id"].clone();
    let document = send(&server, "GET", "/openapi.json", None).await.json();
    let posts = document["paths"].as_object().unwrap().iter().filter(|(_, path)| path.get("post").is_some());
    let paths: Vec<_> = posts.map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths.len(), 6, "{paths:?}");
    let before = (send(&server, "GET", "/v1/keys", None).await.text, issued(&server).await);
    for path in paths {
        for body in [
            "[]".to_owned(),
            format!("[{key}, true]"),
            "[null, null, null]".to_owned(),
            "null".to_owned(),
            "\"\"".to_owned(),
            "0".to_owned(),
            format!(r#"{{"id":{key},"rotate":false,"rotate":true}}"#),
            r#"{"activate_in":1,"activate_in":0}"#.to_owned(),
            r#"{"audience":"https://a.example/","audience":"https://b.example/"}"#.to_owned(),
            r#"{"claims":{"a":1,"a":2}}"#.to_owned(),
            r#"{"a":1,"\u0061":1}"#.to_owned(),
            "{} {}".to_owned(),
        ] {
            let request = post(path).header("content-type", JSON).body(Body::from(body.clone())).unwrap();
            let answer = server.private(request).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}: {}", answer.text);
            assert_eq!(answer.json()["type"], "urn:countersign:problem:body", "{path} {body}");
        }
        let answer = send(&server, "POST", &format!("{path}?audience={TRAC}"), None).await;
        assert_eq!(answer.json()["type"], "urn:countersign:problem:query", "{path}");
    }
    let after = (send(&server, "GET", "/v1/keys", None).await.text, issued(&server).await);
    assert_eq!(before, after);
    assert_eq!(send(&server, "GET", "/v1/events", None).await.json()["events"], json!([]));
}

#[tokio::test]
async fn token_is_revoked_once_and_foreign_one_not_found() {
    let server = Fixture::new();
    let path = format!("/v1/tokens/{}", server.token());
    assert_eq!(send(&server, "DELETE", &path, None).await.json(), json!({ "revoked": true }));
    assert_eq!(send(&server, "DELETE", &path, None).await.json(), json!({ "revoked": false }));
    assert_eq!(send(&server, "GET", &path, None).await.json()["status"], "revoked");
    for method in ["GET", "DELETE"] {
        let answer = send(&server, method, "/v1/tokens/nonsense", None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(!answer.text.contains("nonsense"));
    }
}

#[tokio::test]
async fn purged_token_is_reported_as_forgotten() {
    let server = Fixture::new();
    let token = server.token();
    server.handshake(&token).await;
    server.clock.advance(Duration::from_hours(25));
    assert_eq!(server.look(&token).await["status"], "consumed", "on record until it is purged");
    assert_eq!(send(&server, "POST", "/v1/store/purge", None).await.json(), json!({ "purged": 1 }));
    let answer = send(&server, "GET", &format!("/v1/tokens/{token}"), None).await;
    assert_eq!(answer.status, StatusCode::GONE);
    assert_eq!(answer.json()["type"], "urn:countersign:problem:forgotten");
    server.clock.set("2026-01-31T12:00:00Z".parse().unwrap());
    assert_eq!(
        server.handshake(&token).await.status,
        StatusCode::UNAUTHORIZED,
        "not even a clock set back revives it"
    );
}

#[tokio::test]
async fn store_is_described_and_fenced() {
    let server = Fixture::new();
    server.handshake(&server.token()).await;
    server.app.tokens.revoke(&server.token()).await.unwrap();
    let stats = send(&server, "GET", "/v1/store", None).await.json();
    assert_eq!(
        (&stats["kind"], &stats["consumed"], &stats["revoked"]),
        (&json!("memory"), &json!(1), &json!(1))
    );
    let old = server.token();
    let fence = send(&server, "POST", "/v1/store/fence", None).await.json();
    assert_eq!(fence, json!({ "fence": "2026-01-31T12:00:30.001Z" }));
    assert_eq!(server.look(&old).await["status"], "fenced");
}

#[tokio::test]
async fn keys_are_listed_without_secrets_and_rotated_under_live_tokens() {
    let server = Fixture::new();
    let before = server.token();
    let rotated = send(&server, "POST", "/v1/keys/rotate", None).await.json();
    let keys = rotated["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    let sealing: Vec<_> = keys.iter().map(|key| key["sealing"].as_bool().unwrap()).collect();
    assert_eq!(sealing, [false, true]);
    let on_disk = std::fs::read_to_string(server.app.key_file.path()).unwrap();
    for key in keys {
        assert!(on_disk.contains(key["id"].as_str().unwrap()), "what is in use is on disk");
        assert_eq!(
            key.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["active_from", "id", "sealing", "waits_for"]
        );
    }
    for token in [before, server.token()] {
        assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
    }
    let later = send(&server, "POST", "/v1/keys/rotate", Some(json!({ "activate_in": 600 }))).await.json();
    assert_eq!(later["keys"][2]["active_from"], "2026-01-31T12:10:00Z");
    assert_eq!(later["keys"][2]["sealing"], false);
    assert_eq!(send(&server, "GET", "/v1/keys", None).await.json(), later);
}

#[tokio::test]
async fn configured_credential_is_required() {
    let server = Fixture::with(Options { bearer: Some("s3cret-0f9e8d7c6b5a4321"), ..Options::default() });
    for (path, method) in
        [("/v1/tokens", "POST"), ("/bugs", "POST"), ("/openapi.json", "GET"), ("/nowhere", "GET")]
    {
        for authorization in [None, Some("Bearer wrong"), Some("s3cret-0f9e8d7c6b5a4321")] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let answer = server.private(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(answer.header("www-authenticate").starts_with("Bearer "));
        }
    }
    let request = post("/v1/tokens")
        .header("authorization", "Bearer s3cret-0f9e8d7c6b5a4321")
        .body(Body::empty())
        .unwrap();
    assert_eq!(server.private(request).await.status, StatusCode::CREATED);
    let probe = server.private(Request::get("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!(probe.status, StatusCode::OK, "probes need none");
}

#[tokio::test]
async fn foreign_web_page_is_refused_by_the_private_api() {
    let server = Fixture::new();
    for (origin, status) in [
        ("https://evil.example", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
        ("http://127.0.0.1:9999", StatusCode::FORBIDDEN),
        ("http://127.0.0.1:8087", StatusCode::CREATED),
    ] {
        let request = post("/v1/tokens")
            .header("host", "127.0.0.1:8087")
            .header("origin", origin)
            .body(Body::empty())
            .unwrap();
        assert_eq!(server.private(request).await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn openapi_document_is_generated_from_code() {
    let server = Fixture::new();
    let document = send(&server, "GET", "/openapi.json", None).await.json();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        paths,
        [
            "/v1/events",
            "/v1/events/stream",
            "/v1/keys",
            "/v1/keys/revoke",
            "/v1/keys/rewrap",
            "/v1/keys/rotate",
            "/v1/nodes",
            "/v1/server",
            "/v1/store",
            "/v1/store/fence",
            "/v1/store/purge",
            "/v1/summary",
            "/v1/tokens",
            "/v1/tokens/{token}",
        ]
    );
    let described = &document["components"]["schemas"]["TokenDocument"]["properties"];
    let issued = send(&server, "POST", "/v1/tokens", None).await.json();
    let members: Vec<_> = issued.as_object().unwrap().keys().cloned().collect();
    let properties: Vec<_> = described.as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, properties, "what is described is what is sent");
}
