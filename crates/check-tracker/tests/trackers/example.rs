//! The tracker that `countersign-verifier` shows as its example.

#[expect(dead_code, reason = "its settings and its listener are the test's")]
#[path = "../../../verifier/examples/tracker.rs"]
mod tracker;

use std::time::Duration;

use countersign_check_tracker::{CHECKS, Tracker};
use countersign_verifier::{LoginLayer, Verifier};
use tokio::net::TcpListener;

use crate::{checker, complaints, issuer};

#[tokio::test]
async fn example_passes_every_check() {
    let issuer = issuer().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let auth_server = issuer.auth_server();
    let base = auth_server.strip_suffix("/token/%s/+bugtracker-handshake").unwrap();
    let verifier = Verifier::builder(base).audience(&url).timeout(Duration::from_secs(3)).build().unwrap();
    let app = tracker::tracker(LoginLayer::builder(verifier).build().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let checker = checker(issuer, Tracker::Trac, &url, None, Duration::from_mins(1));
    checker.reach().await.unwrap();
    let report = checker.run(&[], |_| {}).await.unwrap();
    assert_eq!(complaints(&report), "");
    assert_eq!(report.findings.len(), CHECKS.len() - 1);
}
