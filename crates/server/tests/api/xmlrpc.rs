//! The private API as XML-RPC.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Policy, StoreError};
use countersign_testkit::{StoreCall, StoreHook};
use tokio::time::Instant;

use crate::fixture::{Answer, Fixture, Options, TRAC, hooked, post};

async fn call(server: &Fixture, method: &str, params: &[&str]) -> Answer {
    let params: String = params
        .iter()
        .map(|param| format!("<param><value><string>{param}</string></value></param>"))
        .collect();
    let body = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>"
    );
    send(server, body).await
}

async fn send(server: &Fixture, body: impl Into<Body>) -> Answer {
    send_to(server, "/bugs", body).await
}

async fn send_to(server: &Fixture, path: &str, body: impl Into<Body>) -> Answer {
    let answer =
        server.private(post(path).header("content-type", "text/xml").body(body.into()).unwrap()).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/xml; charset=utf-8"));
    answer
}

/// The code and the sentence of a fault.
fn fault(answer: &Answer) -> (i32, String) {
    let between = |text: &str, from: &str, to: &str| -> String {
        text.split(from).nth(1).and_then(|rest| rest.split(to).next()).unwrap_or("").to_owned()
    };
    let code = between(&answer.text, "faultCode</name><value><", "</");
    let code = code.split('>').nth(1).unwrap_or("0").parse().unwrap();
    (code, between(&answer.text, "faultString</name><value><string>", "</string>"))
}

fn string(answer: &Answer) -> String {
    let rest = answer.text.split("<string>").nth(1).unwrap_or_else(|| panic!("{answer:?}"));
    rest.split("</string>").next().unwrap().to_owned()
}

fn has_member(answer: &Answer, name: &str, value: &str) -> bool {
    answer.text.contains(&format!("<name>{name}</name><value>{value}</value>"))
}

#[tokio::test]
async fn token_is_issued_and_described() {
    let server = Fixture::new();
    let token = string(&call(&server, "newBugTrackerToken", &[]).await);
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
    let described = call(&server, "getLoginToken", &[&token]).await;
    for (name, value) in [
        ("token_id", format!("<string>{token}</string>")),
        ("token_type", "<string>BUGTRACKER</string>".to_owned()),
        (
            "title",
            "<string>Launchpad is authenticating itself with a remote bug tracker.</string>".to_owned(),
        ),
        ("canonical_url", format!("<string>https://lp.example.org/token/{token}</string>")),
        (
            "handshake_url",
            format!("<string>https://lp.example.org/token/{token}/+bugtracker-handshake</string>"),
        ),
        ("audience", "<string></string>".to_owned()),
        ("date_created", "<dateTime.iso8601>20260131T12:00:00</dateTime.iso8601>".to_owned()),
        ("date_expires", "<dateTime.iso8601>20260131T12:05:00</dateTime.iso8601>".to_owned()),
        ("date_consumed", "<boolean>0</boolean>".to_owned()),
    ] {
        assert!(has_member(&described, name, &value), "{name}: {}", described.text);
    }
    server.handshake(&token).await;
    let consumed = call(&server, "getLoginToken", &[&token]).await;
    assert!(has_member(&consumed, "date_consumed", "<dateTime.iso8601>20260131T12:00:00</dateTime.iso8601>"));
}

#[tokio::test]
async fn token_is_bound_to_a_valid_audience_only() {
    let server = Fixture::new();
    let bound = string(&call(&server, "newBugTrackerToken", &["HTTPS://trac.example.org"]).await);
    assert!(has_member(
        &call(&server, "getLoginToken", &[&bound]).await,
        "audience",
        &format!("<string>{TRAC}</string>")
    ));
    let (code, sentence) = fault(&call(&server, "newBugTrackerToken", &["trac.example.org"]).await);
    assert_eq!(code, -32602);
    assert!(sentence.contains("absolute URL"), "{sentence}");
}

/// `newBugTrackerToken` with these parameters, at `/bugs` with this query.
async fn new_token_at(server: &Fixture, query: &str, params: &[&str]) -> Answer {
    let params: String = params.iter().map(|url| format!("<param><value>{url}</value></param>")).collect();
    let body = format!(
        "<methodCall><methodName>newBugTrackerToken</methodName><params>{params}</params></methodCall>"
    );
    send_to(server, &format!("/bugs{query}"), body).await
}

#[tokio::test]
async fn call_with_a_url_binds_the_token() {
    let server = Fixture::new();
    let url = "?bugtracker_url=HTTPS%3A%2F%2Ftrac.example.org";
    for (query, params) in [(url, &[][..]), (url, &[TRAC]), ("?", &[TRAC])] {
        let token = string(&new_token_at(&server, query, params).await);
        let described = call(&server, "getLoginToken", &[&token]).await;
        assert!(
            has_member(&described, "audience", &format!("<string>{TRAC}</string>")),
            "{query} {params:?}"
        );
    }
    let multicall = "<methodCall><methodName>system.multicall</methodName><params><param><value><array><data><value><struct>\
        <member><name>methodName</name><value>newBugTrackerToken</value></member>\
        <member><name>params</name><value><array><data/></array></value></member>\
        </struct></value></data></array></value></param></params></methodCall>";
    let token = string(&send_to(&server, &format!("/bugs{url}"), multicall).await);
    let described = call(&server, "getLoginToken", &[&token]).await;
    assert!(has_member(&described, "audience", &format!("<string>{TRAC}</string>")));
}

#[tokio::test]
async fn unparsable_url_issues_no_token() {
    let server = Fixture::new();
    for (query, params) in [
        ("?bugtracker_url=", &[][..]),
        ("?bugtracker_url=%20", &[]),
        ("?bugtracker_url", &[]),
        ("?bugtracker_url=trac.example.org", &[]),
        ("?bugtracker_url=https://a.example.org/&bugtracker_url=https://a.example.org/", &[]),
        ("?bugtracker-url=https://trac.example.org/", &[]),
        ("?audience=https://trac.example.org/", &[TRAC]),
        ("?bugtracker_url=https://another.example.org/", &[TRAC]),
    ] {
        let (code, sentence) = fault(&new_token_at(&server, query, params).await);
        assert_eq!(code, -32602, "{query}");
        assert!(sentence.contains("the URL that was called"), "{query}: {sentence}");
    }
}

#[tokio::test]
async fn empty_tracker_issues_no_token() {
    let server = Fixture::new();
    for value in ["<value></value>", "<value/>", "<value> </value>", "<value><string>\n</string></value>"] {
        let params = format!("<params><param>{value}</param></params>");
        let call = format!("<methodCall><methodName>newBugTrackerToken</methodName>{params}</methodCall>");
        let (code, sentence) = fault(&send(&server, call).await);
        assert_eq!(code, -32602, "{value}");
        assert!(sentence.contains("the bugtracker_url is empty"), "{sentence}");
    }
    let nil = "<params><param><value><nil/></value></param></params>";
    let call = format!("<methodCall><methodName>newBugTrackerToken</methodName>{nil}</methodCall>");
    let (code, sentence) = fault(&send(&server, call).await);
    assert_eq!((code, sentence.contains("not nil")), (-32602, true), "{sentence}");
}

#[tokio::test(start_paused = true)]
async fn slow_multicall_is_stopped() {
    let server = Fixture::with(Options { store: Some(hooked(Slow)), ..Options::default() });
    let look = format!(
        "<value><struct><member><name>methodName</name><value>getLoginToken</value></member><member><name>params</name>\
         <value><array><data><value>{}</value></data></array></value></member></struct></value>",
        server.token()
    );
    let calls = format!(
        "<params><param><value><array><data>{}</data></array></value></param></params>",
        look.repeat(9)
    );
    let call = format!("<methodCall><methodName>system.multicall</methodName>{calls}</methodCall>");
    let began = Instant::now();
    let answer = send(&server, call).await;
    assert_eq!(began.elapsed(), Duration::from_secs(6), "the one that has begun is waited for");
    assert_eq!(answer.text.matches("the calls before this one took too long").count(), 6, "{}", answer.text);
    assert_eq!(
        answer.text.matches("asleep").count(),
        3,
        "what became of the others is told: {}",
        answer.text
    );
}

/// A store that takes two seconds to say that it cannot be used.
#[derive(Debug)]
struct Slow;

#[async_trait]
impl StoreHook for Slow {
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        if call != StoreCall::Look {
            return Err(StoreError::Busy);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Err(StoreError::unavailable("it is asleep"))
    }
}

#[tokio::test]
async fn required_audience_forbids_unbound_tokens() {
    let policy = Policy { require_audience: true, ..Policy::default() };
    let server = Fixture::with(Options { policy, ..Options::default() });
    let (code, sentence) = fault(&call(&server, "newBugTrackerToken", &[]).await);
    assert_eq!(code, -32602);
    assert!(sentence.contains("base URL"), "{sentence}");
    assert!(string(&call(&server, "newBugTrackerToken", &[TRAC]).await).starts_with("cs1"));
}

#[tokio::test]
async fn token_is_revoked_once() {
    let server = Fixture::new();
    let token = server.token();
    assert!(call(&server, "revokeLoginToken", &[&token]).await.text.contains("<boolean>1</boolean>"));
    assert!(call(&server, "revokeLoginToken", &[&token]).await.text.contains("<boolean>0</boolean>"));
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn every_fault_has_its_code() {
    let server = Fixture::new();
    let stranger = Fixture::new().token();
    for (method, params, code, says) in [
        ("getLoginToken", vec!["nonsense"], -32500, "not a token that this server issued"),
        ("getLoginToken", vec![stranger.as_str()], -32500, "not a token that this server issued"),
        ("revokeLoginToken", vec!["nonsense"], -32500, "not a token that this server issued"),
        ("getLoginToken", vec![], -32602, "token_id"),
        ("getLoginToken", vec!["a", "b"], -32602, "token_id"),
        ("newBugTrackerToken", vec!["a", "b"], -32602, "bugtracker_url"),
        ("noSuchMethod", vec![], -32601, "noSuchMethod"),
    ] {
        let answer = call(&server, method, &params).await;
        let (got, sentence) = fault(&answer);
        assert_eq!(got, code, "{method} {params:?}: {sentence}");
        assert!(sentence.contains(says), "{method}: {sentence}");
        assert!(!sentence.contains("nonsense") && !sentence.contains(&stranger), "a fault quotes no token");
    }
    for (body, code) in [
        ("", -32700),
        ("{\"jsonrpc\": \"2.0\"}", -32700),
        ("<methodCall><methodName>newBugTrackerToken", -32700),
        ("<a/>", -32600),
        ("<?xml version=\"1.0\" encoding=\"klingon\"?><methodCall/>", -32701),
        ("<!DOCTYPE a [<!ENTITY b \"c\">]><methodCall><methodName>&b;</methodName></methodCall>", -32600),
    ] {
        assert_eq!(fault(&send(&server, body).await).0, code, "{body}");
    }
}

#[tokio::test]
async fn hundred_megabyte_body_is_refused_unbuffered() {
    let server = Fixture::new();
    // One frame, sent 1600 times: if the server kept them, it would need a hundred megabytes.
    let frame = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    let frames = (0..1600).map(move |_| Ok::<_, std::convert::Infallible>(frame.clone()));
    let body = Body::from_stream(futures_util::stream::iter(frames));
    let (code, sentence) = fault(&send(&server, body).await);
    assert_eq!(code, -32600);
    assert!(sentence.contains("262144"), "{sentence}");
}

#[tokio::test]
async fn methods_other_than_post_are_rejected() {
    let server = Fixture::new();
    for path in ["/bugs", "/bugs/"] {
        let answer = server.private(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
        let body = "<methodCall><methodName>newBugTrackerToken</methodName></methodCall>";
        let answer = server.private(post(path).body(Body::from(body)).unwrap()).await;
        assert!(string(&answer).starts_with("cs1"), "{path}");
    }
}
