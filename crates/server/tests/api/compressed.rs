//! Bodies that a client has compressed.

use std::io::Write;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::fixture::{Answer, FORM, Fixture, JSON, TRAC, handshake_path, post};

const CALL: &str = "<methodCall><methodName>newBugTrackerToken</methodName></methodCall>";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn compressed(path: &str, content_type: &str, coding: &str, body: Vec<u8>) -> Request<Body> {
    let request = post(path).header("content-type", content_type).header("content-encoding", coding);
    request.body(body.into()).unwrap()
}

fn assert_unknown_coding(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(answer.header("accept-encoding"), "gzip, deflate");
    assert!(answer.text.contains("Content-Encoding: gzip, or deflate"), "{}", answer.text);
}

#[tokio::test]
async fn compressed_call_is_answered() {
    let server = Fixture::new();
    for (coding, body) in [("gzip", gzip(CALL.as_bytes())), ("deflate", deflate(CALL.as_bytes()))] {
        let answer = server.private(compressed("/bugs", "text/xml", coding, body)).await;
        assert!(answer.text.contains("<string>cs1"), "{coding}: {}", answer.text);
    }
    let body = gzip(format!("{{\"audience\": \"{TRAC}\"}}").as_bytes());
    let answer = server.private(compressed("/v1/tokens", JSON, "gzip", body)).await;
    assert_eq!((answer.status, answer.json()["audience"].as_str()), (StatusCode::CREATED, Some(TRAC)));
}

#[tokio::test]
async fn unknown_coding_is_415() {
    let server = Fixture::new();
    for coding in ["br", "gzip, gzip", "zstd"] {
        assert_unknown_coding(&server.private(compressed("/bugs", "text/xml", coding, CALL.into())).await);
        assert_unknown_coding(&server.private(compressed("/v1/tokens", JSON, coding, b"{}".into())).await);
        let token = server.token();
        let handshake = compressed(&handshake_path(&token), FORM, coding, b"audience=".into());
        assert_unknown_coding(&server.public(handshake).await);
        assert_eq!(server.handshake(&token).await.status, StatusCode::OK, "nothing was consumed");
    }
}

#[tokio::test]
async fn compressed_body_is_bounded() {
    let server = Fixture::new();
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert!(bomb.len() < 100_000);
    let answer = server.private(compressed("/v1/tokens", JSON, "gzip", bomb.clone())).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let answer = server.private(compressed("/bugs", "text/xml", "gzip", bomb.clone())).await;
    assert!(answer.text.contains("larger than 262144 bytes"), "{}", answer.text);
    // Read whole, it would name the right tracker.
    let token = server.token_for(TRAC);
    let form = gzip(format!("audience={TRAC}&x={}", "x".repeat(50_000_000)).as_bytes());
    let answer = server.public(compressed(&handshake_path(&token), FORM, "gzip", form)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn compressed_audience_is_read() {
    let server = Fixture::new();
    let token = server.token_for(TRAC);
    let send = |body: Vec<u8>| server.public(compressed(&handshake_path(&token), FORM, "gzip", body));
    let body = gzip(format!("audience={TRAC}").as_bytes());
    let cut = body[..body.len() - 4].to_vec();
    assert_eq!(send(cut).await.status, StatusCode::BAD_REQUEST, "it did not arrive whole");
    assert_eq!(send(gzip(b"audience=https://other.example/")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(send(body).await.status, StatusCode::OK);
}
