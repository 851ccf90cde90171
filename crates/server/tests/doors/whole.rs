//! Only a whole message is a handshake (RFC 9112 sections 6.3 and 8).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Running, handshake, talk};

const TRAC: &str = "https://trac.example.org/";
const BODY: &str = "audience=https://trac.example.org/";

/// The head of a handshake, up to the headers that tell of its body.
fn head(token: &str, content_type: &str) -> String {
    let content_type = match content_type {
        "" => String::new(),
        other => format!("Content-Type: {other}\r\n"),
    };
    format!("POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\n{content_type}")
}

#[tokio::test]
async fn incomplete_request_consumes_nothing() {
    let server = Running::plain().await;
    let bodies = [
        format!("Content-Length: 42\r\n\r\n{}", &BODY[..13]),
        format!("Content-Length: 42\r\n\r\n{BODY}"),
        "Content-Length: 42\r\n\r\n".to_owned(),
        // A chunk size that is none, with the end of a body behind it.
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{BODY}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n22\r\n{BODY}\r\nzz\r\n0\r\n\r\n"),
        // A chunk that is shorter, or longer, than its size.
        format!("Transfer-Encoding: chunked\r\n\r\n40\r\n{BODY}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n21\r\n{BODY}\r\n0\r\n\r\n"),
        // No last chunk, and half of one.
        "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        format!("Transfer-Encoding: chunked\r\n\r\n22\r\n{BODY}\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n22\r\n{BODY}\r\n0\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n22\r\n{BODY}\r\n0"),
        format!("Transfer-Encoding: chunked\r\n\r\n-22\r\n{BODY}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n10000000000000022\r\n{BODY}\r\n0\r\n\r\n"),
    ];
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "application/json"] {
        for audience in [None, Some(TRAC)] {
            let token = server.token(audience);
            for body in &bodies {
                let mut stream = server.connect().await;
                stream.write_all((head(&token, content_type) + body).as_bytes()).await.unwrap();
                // What ends where it should not may be found out only now.
                stream.shutdown().await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
                assert!(server.is_live(&token).await, "{content_type} {audience:?} {body}");
            }
            let whole = "application/x-www-form-urlencoded";
            let whole = head(&token, whole) + &format!("Content-Length: {}\r\n\r\n{BODY}", BODY.len());
            let answer = talk(&mut server.connect().await, whole.as_bytes(), "validated.").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    assert_eq!(server.counted("accepted").await, 8);
}

#[tokio::test]
async fn two_content_lengths_smuggle_no_request() {
    let server = Running::plain().await;
    let (first, second) = (server.token(None), server.token(None));
    let hidden = handshake(&second);
    let length = hidden.len();
    for (headers, body, status) in [
        // The chunks decide, and the connection ends (RFC 9112 section 6.1).
        (
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", 5 + length),
            format!("0\r\n\r\n{hidden}"),
            "200",
        ),
        (format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), hidden.clone(), "400"),
        (format!("Content-Length: +{length}\r\n"), hidden.clone(), "400"),
        (format!("Content-Length: {length}, 0\r\n"), hidden.clone(), "400"),
        (format!("Content-Length: 0x{length:x}\r\n"), hidden.clone(), "400"),
        ("Transfer-Encoding: gzip, chunked\r\n".to_owned(), format!("0\r\n\r\n{hidden}"), "501"),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            format!("0\r\n\r\n{hidden}"),
            "501",
        ),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), hidden.clone(), "400"),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), hidden.clone(), "400"),
        ("Transfer-Encoding : chunked\r\n".to_owned(), hidden.clone(), "400"),
    ] {
        let request = head(&first, "") + &headers + "\r\n" + &body;
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{headers}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers}: {answer}");
        assert!(server.is_live(&second).await, "{headers}");
    }
}

/// Sends everything before it reads anything, as simple clients do.
async fn send_then_read(server: &Running, parts: &[&[u8]]) -> String {
    let mut stream = server.connect().await;
    for part in parts {
        stream.write_all(part).await.unwrap();
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn body_of_megabytes_is_answered() {
    const MEGABYTE: usize = 1 << 20;
    let server = Running::plain().await;
    let form = "application/x-www-form-urlencoded";
    let block = vec![b'x'; MEGABYTE];
    for (audience, content_type, megabytes, status) in [
        (None, "", 9, "200"),
        (None, form, 9, "200"),
        (Some(TRAC), form, 9, "403"),
        (Some(TRAC), "", 9, "403"),
        (None, form, 80, "413"),
        (Some(TRAC), form, 80, "413"),
    ] {
        for chunked in [false, true] {
            let token = server.token(audience);
            let (length, size) = if chunked {
                ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), format!("{MEGABYTE:x}\r\n"))
            } else {
                (format!("Content-Length: {}\r\n\r\n", megabytes * MEGABYTE), String::new())
            };
            let head = head(&token, content_type) + &length;
            let mut parts = vec![head.as_bytes()];
            for _ in 0..megabytes {
                parts.extend([size.as_bytes(), &block, if chunked { b"\r\n" } else { b"" }]);
            }
            parts.push(if chunked { b"0\r\n\r\n" } else { b"" });
            let answer = send_then_read(&server, &parts).await;
            assert_eq!(
                answer,
                format!("HTTP/1.1 {status}"),
                "{audience:?} {content_type} {megabytes} MiB {chunked}"
            );
            assert_eq!(server.is_live(&token).await, status != "200");
        }
    }
    // What is no POST says nothing in its body, which is not waited for.
    let get = handshake("cs1any").replace("POST", "GET").replace(": 0", &format!(": {}", 9 * MEGABYTE));
    let parts: Vec<&[u8]> = [get.as_bytes()].into_iter().chain([block.as_slice(); 9]).collect();
    assert_eq!(send_then_read(&server, &parts).await, "HTTP/1.1 405");
}

#[tokio::test]
async fn overlong_head_is_answered_431() {
    let server = Running::plain().await;
    let long = vec![b'x'; 1 << 20];
    assert_eq!(send_then_read(&server, &[b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &long]).await, "HTTP/1.1 431");
}
