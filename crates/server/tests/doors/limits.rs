//! What a request may be, and what the slow and the many can do.

use tokio::io::AsyncWriteExt;

use crate::fixture::{Running, handshake, talk};

#[tokio::test]
async fn request_that_is_too_large_is_refused() {
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
    let answer =
        talk(&mut server.connect().await, handshake(&server.token(None)).as_bytes(), "validated.").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn endless_body_is_rejected_and_cut_off() {
    let server = Running::plain().await;
    let token = server.token(None);
    let head = format!(
        "POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000000000\r\n\r\n"
    );
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = talk(&mut stream, &vec![b'x'; 64 * 1024], "consumed.").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "it never arrives whole: {answer}");
    assert_eq!(talk(&mut stream, b"more", "nothing").await, "", "the rest is not waited for");
    assert!(server.is_live(&token).await);
}

#[tokio::test]
async fn silent_clients_delay_no_request() {
    let server = Running::plain().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(server.connect().await);
    }
    for stream in &mut silent[..100] {
        stream.write_all(b"POST /token/").await.unwrap();
    }
    let answer =
        talk(&mut server.connect().await, handshake(&server.token(None)).as_bytes(), "validated.").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
