//! File descriptors: taken at the start, shared between the listeners, and used up.

use crate::http::{Wire, soon};
use crate::server::{Launch, Place};

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let place = Place::new();
    let launch = Launch { before: "ulimit -Sn 100; ulimit -Hn 600", log_level: "debug", ..Launch::default() };
    let server = place.start_with(launch).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("600"), "{line}");
    place.logged("descriptors=600").await;
    place.logged("public=414 private=138").await;
}

#[tokio::test]
async fn when_they_are_used_up_the_store_and_the_private_api_have_theirs() {
    let place = Place::new();
    let server = place.start_with(Launch { before: "ulimit -n 64", ..Launch::default() }).await;
    let token = server.token().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Wire::open(server.public).await);
    }
    // Twelve are served, and the others wait for their turn.
    let mut healthy = 0;
    for wire in &mut idle[..12] {
        healthy += usize::from(wire.ask("GET", "/healthz", "").await.status == 200);
    }
    assert_eq!(healthy, 12);
    idle[50].request("POST", &crate::server::path(&token), "").await;

    let used = server.token().await;
    let url = format!("/v1/tokens/{used}");
    assert_eq!(server.private("GET", &url).await.json()["status"], "live");
    assert_eq!(server.private("DELETE", &url).await.status, 200, "the store writes");
    assert_eq!(server.private("GET", &url).await.json()["status"], "revoked");
    assert_eq!(server.private("GET", "/v1/store").await.json()["revoked"], 1);
    assert_eq!(server.private("POST", "/v1/keys/rotate").await.status, 200, "and so does the key ring");

    let mut waiting = idle.remove(50);
    drop(idle);
    assert_eq!(soon("its turn", waiting.answer()).await.unwrap().status, 200);
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    assert!(!place.log().contains("cannot accept"), "{}", place.log());
}
