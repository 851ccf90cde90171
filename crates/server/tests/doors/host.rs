//! To whom a request is addressed (RFC 9112 section 3.2).

use std::sync::Arc;

use crate::fixture::{Running, connect, talk};

#[tokio::test]
async fn request_without_one_valid_host_is_rejected() {
    let server = Running::plain().await;
    for (host, status) in [
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host:\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: user@a\r\n", 400),
        ("Host: a:99999\r\n", 400),
        ("Host: a,\u{fc}\r\n", 400),
        ("Host: localhost\r\n", 200),
        ("Host: localhost:8080\r\n", 200),
        ("Host: [::1]:8080\r\n", 200),
        ("Host: 127.0.0.1\r\n", 200),
    ] {
        let token = server.token(None);
        let request =
            format!("POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n");
        let answer = talk(&mut server.connect().await, request.as_bytes(), "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
        assert!(answer.contains("cache-control: no-store") && answer.contains("x-request-id: "), "{answer}");
        assert_eq!(server.is_live(&token).await, status == 400, "{host}");
        let request = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
        let answer = talk(&mut connect(&server.private).await, request.as_bytes(), "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
}

#[tokio::test]
async fn absolute_target_and_old_clients_are_served() {
    let server = Arc::new(Running::plain().await);
    for (before, after, status) in [
        ("", " HTTP/1.0\r\n", "200"),
        ("", " HTTP/1.0\r\nHost: a\r\n", "200"),
        ("", " HTTP/1.0\r\nHost: a\r\nHost: b\r\n", "400"),
        ("http://lp.example.org", " HTTP/1.1\r\nHost: a\r\n", "200"),
        ("https://lp.example.org:443", " HTTP/1.1\r\nHost: a\r\n", "200"),
        ("http://lp.example.org", " HTTP/1.1\r\n", "400"),
        ("http://user@lp.example.org", " HTTP/1.1\r\nHost: a\r\n", "400"),
        ("ftp://lp.example.org", " HTTP/1.1\r\nHost: a\r\n", "400"),
    ] {
        let token = server.token(None);
        let request =
            format!("POST {before}/token/{token}/+bugtracker-handshake{after}Content-Length: 0\r\n\r\n");
        let answer = talk(&mut server.connect().await, request.as_bytes(), "\r\n\r\n").await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{before} {after}: {answer}");
        assert_eq!(server.is_live(&token).await, status == "400");
    }
}
