//! Clients that close one side, or both, before they are answered.

use std::time::Duration;

use countersign_core::TokenStore;
use countersign_server::ListenerConfig;
use countersign_testkit::{Authority, seen};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::authority::{connect_trusting, write_to};
use crate::fixture::{Running, connect, door, handshake};
use crate::gate::Gate;

/// Closes a connection as a process does that is killed with bytes still to read: by a reset.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn handshakes_of_clients_that_hang_up_are_consumed_and_counted() {
    let server = Running::plain().await;
    for _ in 0..300 {
        server.connect().await.write_all(handshake(&server.token(None)).as_bytes()).await.unwrap();
    }
    seen("300 accepted handshakes", async || (server.counted("accepted").await == 300).then_some(())).await;
    assert_eq!(server.app.tokens.store().stats().await.unwrap().consumed, 300);
}

#[tokio::test]
async fn handshake_survives_a_connection_reset() {
    let gate = Gate::new();
    let server = Running::on(gate.clone()).await;
    let token = server.token(None);
    for outcome in ["accepted", "replay"] {
        let mut stream = server.connect().await;
        stream.write_all(handshake(&token).as_bytes()).await.unwrap();
        gate.asked().await;
        reset(&stream);
        drop(stream);
        gate.open(1);
        seen(outcome, async || (server.counted(outcome).await == 1).then_some(())).await;
    }
    assert_eq!(gate.stats().await.unwrap().consumed, 1);
}

#[tokio::test]
async fn stopping_waits_for_detached_work() {
    let gate = Gate::new();
    let mut server = Running::on(gate.clone()).await;
    let token = server.token(None);
    let mut stream = server.connect().await;
    stream.write_all(handshake(&token).as_bytes()).await.unwrap();
    gate.asked().await;
    reset(&stream);
    drop(stream);
    let stopped = server.stop();
    assert!(!stopped.is_finished());
    gate.open(1);
    stopped.await.unwrap();
    assert_eq!(gate.stats().await.unwrap().consumed, 1);
}

#[tokio::test]
async fn half_closed_client_gets_its_answer() {
    let gate = Gate::new();
    let server = Running::on(gate.clone()).await;
    let mut stream = server.connect().await;
    stream.write_all(handshake(&server.token(None)).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    gate.asked().await;
    gate.open(1);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("validated."), "{answer}");
}

#[tokio::test]
async fn half_closed_client_gets_its_answer_by_tls() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = write_to(&authority, directory.path());
    let server = Running::start(directory, door(Some(files)), door(None), None).await.unwrap();
    for _ in 0..20 {
        let mut stream = connect_trusting(&authority, &server.public, &[]).await;
        stream.write_all(handshake(&server.token(None)).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("validated."), "{answer}");
    }
}

#[tokio::test]
async fn pipelined_requests_of_a_half_closed_client_are_all_answered() {
    let server = Running::plain().await;
    let mut stream = server.connect().await;
    let requests: String = (0..3).map(|_| handshake(&server.token(None))).collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
}

/// Followers are few, so one that leaves must not keep its place until the next sign of life.
#[tokio::test(start_paused = true)]
async fn disconnected_follower_frees_its_place() {
    for (over_tls, half) in [(false, false), (false, true), (true, false)] {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new();
        let files = over_tls.then(|| write_to(&authority, directory.path()));
        let private = ListenerConfig { tls: files, ..door(None) };
        let server = Running::start(directory, door(None), private, None).await.unwrap();
        let request = b"GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let followers = || server.app.events.counts().followers;
        if over_tls {
            let mut stream = connect_trusting(&authority, &server.private, &[]).await;
            stream.write_all(request).await.unwrap();
            stream.read_u8().await.unwrap();
            assert_eq!(followers(), 1);
            drop(stream);
        } else {
            let mut stream = connect(&server.private).await;
            stream.write_all(request).await.unwrap();
            stream.read_u8().await.unwrap();
            assert_eq!(followers(), 1);
            if half {
                stream.shutdown().await.unwrap();
                // The rest of the answer, and its end.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
        let left = Instant::now();
        while followers() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(left.elapsed() < Duration::from_secs(15), "{:?}", left.elapsed());
    }
}
