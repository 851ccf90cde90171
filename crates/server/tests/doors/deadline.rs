//! One deadline for a request, on a clock that runs ahead whenever everybody waits.

use std::time::Duration;

use countersign_core::TokenStore;
use countersign_testkit::{Authority, seen};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::authority::write_to;
use crate::fixture::{Running, connect, door, handshake, talk};
use crate::gate::Gate;

/// Reads until the other side closes, however long that takes.
async fn talk_for_ever(stream: &mut TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    heard
}

/// The plainest handshake, on a connection that ends with it.
fn last_handshake(token: &str) -> String {
    handshake(token).replace("Content-Length", "Connection: close\r\nContent-Length")
}

#[tokio::test(start_paused = true)]
async fn slow_sender_is_answered_408() {
    let server = Running::plain().await;
    let answer = talk_for_ever(&mut server.connect().await, b"POST /token/").await;
    assert!(answer.is_empty(), "half a head is no request: {answer}");
    for content_type in ["application/json", "text/plain"] {
        let token = server.token(None);
        let head = format!(
            "POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\
             Content-Length: 100\r\n\r\n{{"
        );
        let answer = talk_for_ever(&mut server.connect().await, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(server.is_live(&token).await, "what has not arrived consumes nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_connection_is_closed() {
    let directory = TempDir::new().unwrap();
    let files = write_to(&Authority::new(), directory.path());
    let server = Running::start(directory, door(None), door(Some(files)), None).await.unwrap();
    let healthy = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let half_a_head = format!("{healthy}GET /healthz HTTP/1.1\r\nHo");
    for (url, sent) in [
        (&server.public, ""),
        (&server.public, "GET /"),
        (&server.public, healthy),
        (&server.public, &half_a_head),
        (&server.private, ""),
        (&server.private, "\x16\x03\x01"),
    ] {
        let began = Instant::now();
        talk_for_ever(&mut connect(url).await, sent.as_bytes()).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(45) && took > Duration::from_secs(25), "{sent:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_store_is_answered_503_and_its_outcome_is_counted() {
    let gate = Gate::new();
    let server = Running::on(gate.clone()).await;
    let token = server.token(None);
    let answer = talk_for_ever(&mut server.connect().await, last_handshake(&token).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    assert_eq!((server.counted("store-unavailable").await, server.counted("accepted").await), (1, 0));
    gate.open(1);
    seen("an accepted handshake", async || (server.counted("accepted").await == 1).then_some(())).await;
    assert_eq!(gate.stats().await.unwrap().consumed, 1);
}

/// The body takes nearly all of the time, so that little is left for the store.
#[tokio::test(start_paused = true)]
async fn slow_sender_at_a_slow_store_is_answered_503_in_time() {
    let gate = Gate::new();
    let server = Running::on(gate.clone()).await;
    let mut stream = server.connect().await;
    let began = Instant::now();
    stream.write_all(last_handshake(&server.token(None)).replace(": 0", ": 2").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    stream.write_all(b"{}").await.unwrap();
    gate.asked().await;
    let answer = talk_for_ever(&mut stream, b"").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(35), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn slow_store_is_answered_503_on_the_private_api() {
    let server = Running::on(Gate::new()).await;
    let request = format!(
        "GET /v1/tokens/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        server.token(None)
    );
    let answer = talk_for_ever(&mut connect(&server.private).await, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    let slow = b"POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    let answer = talk_for_ever(&mut connect(&server.private).await, slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// The buffers of both sides fill up, and then the server waits for a client that does not read.
#[tokio::test(start_paused = true)]
async fn client_that_never_reads_is_cut_off() {
    let server = Running::plain().await;
    let mut stream = server.connect().await;
    let requests = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let sending = async { while stream.write_all(&requests).await.is_ok() {} };
    let cut_off = tokio::time::timeout(Duration::from_mins(10), sending).await;
    assert!(cut_off.is_ok(), "it holds its place for as long as it likes");
    assert!(
        talk(&mut server.connect().await, b"GET /healthz HTTP/1.0\r\n\r\n", "alive").await.contains("200")
    );
}
