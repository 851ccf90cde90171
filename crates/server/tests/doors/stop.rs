//! The end of a server.

use countersign_core::NewToken;
use countersign_testkit::Authority;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::authority::{connect_trusting, write_to};
use crate::fixture::{Running, connect, door, talk};

/// On a clock that runs ahead whenever everybody waits, so that waiting for anything shows.
#[tokio::test(start_paused = true)]
async fn stopping_skips_silent_connections() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = write_to(&authority, directory.path());
    let mut server = Running::start(directory, door(Some(files.clone())), door(None), None).await.unwrap();
    let private = server.private.clone();
    // By TLS: nothing, half a greeting, silence behind the greeting, and half a head.
    let silent = server.connect().await;
    let mut greeting = server.connect().await;
    greeting.write_all(&[22, 3, 1]).await.unwrap();
    let greeted = connect_trusting(&authority, &server.public, &[]).await;
    let mut half = connect_trusting(&authority, &server.public, &[]).await;
    half.write_all(b"POST /token/").await.unwrap();
    // Without: nothing, half a head, a connection that is kept alive, and half a head on such a one.
    let plain = connect(&private).await;
    let mut plain_half = connect(&private).await;
    plain_half.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    let mut kept = Vec::new();
    for rest in ["", "GET /healthz HTTP/1.1\r\nHo"] {
        let mut stream = connect(&private).await;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n{rest}");
        assert!(talk(&mut stream, request.as_bytes(), "alive").await.contains("200"));
        kept.push(stream);
    }
    let before = Instant::now();
    server.stop().await.unwrap();
    assert!(before.elapsed() < countersign_server::limits::GRACE / 2, "{:?}", before.elapsed());
    drop((silent, greeting, greeted, half, plain, plain_half, kept));
}

#[tokio::test]
async fn stopping_answers_requests_and_closes_idle_connections() {
    let mut server = Running::plain().await;
    let token = server.app.tokens.issue(NewToken::default()).unwrap().text.into_exposed();
    let mut idle = server.connect().await;
    assert!(talk(&mut idle, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "alive").await.contains("200"));
    let mut under_way = server.connect().await;
    let head = format!(
        "POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    );
    // Once it says 100, the server is reading the body: the request is under way.
    assert!(talk(&mut under_way, head.as_bytes(), "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    let stopped = server.stop();
    assert_eq!(talk(&mut idle, b"", "nothing").await, "", "an idle connection is closed");
    assert!(!stopped.is_finished(), "the request under way is waited for");
    under_way.write_all(b"{}").await.unwrap();
    assert!(talk(&mut under_way, b"", "validated.").await.starts_with("HTTP/1.1 200"));
    stopped.await.unwrap();
}
