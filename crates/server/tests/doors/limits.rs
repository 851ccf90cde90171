//! What a request may be, and what the slow and the many can do.

use countersign_core::NewToken;
use tokio::io::AsyncWriteExt;

use crate::fixture::{Running, talk};

fn handshake(token: &str) -> String {
    format!("POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
}

fn token(server: &Running) -> String {
    server.app.tokens.issue(NewToken::default()).unwrap().text.into_exposed()
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let server = Running::plain().await;
    let long = "x".repeat(20_000);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = talk(&mut server.connect().await, request.as_bytes(), "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{}: {answer}", &request[..20]);
    }
    let answer = talk(&mut server.connect().await, handshake(&token(&server)).as_bytes(), "validated.").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_handshake_with_an_endless_body_is_answered_and_cut_off() {
    let server = Running::plain().await;
    let head = format!(
        "POST /token/{}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000000000\r\n\r\n",
        token(&server)
    );
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = talk(&mut stream, &vec![b'x'; 64 * 1024], "validated.").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "an unbound token needs no audience: {answer}");
    assert_eq!(talk(&mut stream, b"more", "nothing").await, "", "the rest is not waited for");
}

#[tokio::test]
async fn those_who_say_nothing_hold_up_nobody() {
    let server = Running::plain().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(server.connect().await);
    }
    for stream in &mut silent[..100] {
        stream.write_all(b"POST /token/").await.unwrap();
    }
    let answer = talk(&mut server.connect().await, handshake(&token(&server)).as_bytes(), "validated.").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The time limits themselves, on a clock that runs ahead whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_slow_sender_is_cut_off() {
    let server = Running::plain().await;
    let mut slow = server.connect().await;
    let answer = talk_for_ever(&mut slow, b"POST /token/").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut stalled = server.connect().await;
    let head = format!(
        "POST /token/{}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        token(&server)
    );
    let answer = talk_for_ever(&mut stalled, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// Reads until the other side closes, however long that takes.
async fn talk_for_ever(stream: &mut tokio::net::TcpStream, bytes: &[u8]) -> String {
    use tokio::io::AsyncReadExt;
    stream.write_all(bytes).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    heard
}
