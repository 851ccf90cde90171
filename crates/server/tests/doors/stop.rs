//! The end of a server.

use countersign_core::NewToken;
use tokio::io::AsyncWriteExt;

use crate::fixture::{Running, talk};

#[tokio::test]
async fn a_request_under_way_is_answered_and_an_idle_connection_is_closed() {
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
