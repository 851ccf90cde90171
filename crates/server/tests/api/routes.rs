//! The table of public routes against what is served, and the ways to spell a handshake.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_server::TrustedProxies;
use countersign_server::routes::public_routes;
use countersign_testkit::seen;
use serde_json::Value;

use crate::fixture::{Fixture, Options, post};

async fn get(server: &Fixture, path: &str) -> String {
    server.private(Request::get(path).body(Body::empty()).unwrap()).await.text
}

#[tokio::test]
async fn every_public_route_of_the_table_is_served() {
    let server = Fixture::new();
    for route in public_routes() {
        let path = route.path.replace("{token}", &server.token()).replace("{view}", "+bugtracker-handshake");
        let method = if route.method == "*" { "POST" } else { route.method };
        let request = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
        assert_eq!(server.public(request).await.status, StatusCode::OK, "{method} {}", route.path);
    }
}

#[tokio::test]
async fn odd_spelling_counts_as_the_usual_one() {
    let networks = vec!["192.0.2.7/32".parse().unwrap()];
    let proxies = TrustedProxies { networks, ..TrustedProxies::default() };
    for path in [
        "/token/{token}/+bugtracker-handshake",
        "/tokens/{token}/+bugtracker-handshake",
        "/token/{token}/%2Bbugtracker-handshake",
    ] {
        let server = Fixture::with(Options { proxies: proxies.clone(), ..Options::default() });
        tokio::spawn(Arc::clone(&server.app.events).write());
        let path = path.replace("{token}", &server.token());
        let request = post(&path).header("x-forwarded-for", "198.51.100.1").header("user-agent", "trac/1");
        assert_eq!(server.public(request.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
        let metrics = get(&server, "/metrics").await;
        assert!(metrics.contains("countersign_handshakes_total{outcome=\"accepted\"} 1\n"), "{path}");
        let event = seen("an event", async || {
            let events: Value = serde_json::from_str(&get(&server, "/v1/events").await).unwrap();
            events["events"].get(0).cloned()
        })
        .await;
        assert_eq!((&event["kind"], &event["peer"]), (&"consumed".into(), &"198.51.100.1".into()), "{path}");
    }
}
