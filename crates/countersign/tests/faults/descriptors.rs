//! File descriptors: taken at the start, shared between the listeners, and used up.

use rlimit::Resource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::http::{Wire, seen, soon};
use crate::server::{FOR_MANY, Launch, Place};

#[tokio::test]
async fn soft_limit_is_raised_to_the_hard_one() {
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
async fn exhausted_descriptors_leave_room_for_the_store() {
    let place = Place::new();
    let server =
        place.start_with(Launch { before: "ulimit -n 64", arguments: FOR_MANY, ..Launch::default() }).await;
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

#[tokio::test]
async fn connections_that_cannot_be_accepted_are_logged_once() {
    let place = Place::new();
    let server = place.start().await;
    let mut wire = Wire::open(server.public).await;
    assert_eq!(wire.ask("GET", "/healthz", "").await.status, 200);
    // Fewer than it has open already.
    server.limit(Resource::NOFILE, 3);
    let mut refused = Wire::open(server.public).await;
    refused.request("GET", "/healthz", "").await;
    place.logged("cannot accept a connection").await;
    // It is tried ten times a second, and this takes longer.
    for _ in 0..5_000 {
        assert_eq!(wire.ask("GET", "/healthz", "").await.status, 200);
    }
    server.limit(Resource::NOFILE, 0);
    assert_eq!(soon("its turn", refused.answer()).await.unwrap().status, 200);
    seen("the end of the trouble", async || {
        assert_eq!(Wire::open(server.public).await.ask("GET", "/healthz", "").await.status, 200);
        place.log().contains("connections are accepted again").then_some(())
    })
    .await;
    let ended = place.logged("connections are accepted again").await;
    assert!(!ended.contains("failures=1\n") && !ended.ends_with("failures=1"), "it was tried again: {ended}");
    assert_eq!(place.log().matches("cannot accept").count(), 1, "{}", place.log());
}

#[tokio::test]
async fn one_address_gets_a_quarter_of_the_connections() {
    let place = Place::new();
    // 60 connections to the public listener, 15 of them for one address.
    let server = place.start_with(Launch { before: "ulimit -n 128", ..Launch::default() }).await;
    let ask = async |from: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = soon("connect", socket.connect(server.public)).await.unwrap();
        // A connection that is closed at once may be reset, also while the request is being sent.
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        soon("an answer or the end", stream.read_u8()).await.is_ok().then_some(stream)
    };
    let mut kept = Vec::new();
    for number in 1..=20 {
        let answered = ask([127, 0, 0, 1]).await;
        assert_eq!(answered.is_some(), number <= 15, "{number}");
        kept.extend(answered);
    }
    for _ in 0..20 {
        assert!(ask([127, 0, 0, 2]).await.is_some(), "another address is answered meanwhile");
    }
    place.logged("an address has its share").await;
    let metrics = server.private("GET", "/metrics").await.body;
    assert!(metrics.contains("\ncountersign_connections_turned_away_total 5\n"), "{metrics}");
    drop(kept);
    seen("room for the first one", async || ask([127, 0, 0, 1]).await).await;
}
