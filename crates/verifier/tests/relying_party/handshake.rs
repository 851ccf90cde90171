//! The handshake with issuers that behave well, badly, and not at all.

use std::time::Duration;

use crate::support::{Reply, Stub, json, read_request, text};
use countersign_verifier::{DEFAULT_TIMEOUT, Verified, VerifyError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const TOKEN: &str = "cs1abc234";

fn ok() -> Reply {
    Reply::Send(text("200 OK", ""))
}

fn answer(status: &str) -> Reply {
    Reply::Send(text(status, ""))
}

/// The verdict on one token, and how often the issuer was asked. No error shows the token.
async fn ask(replies: impl IntoIterator<Item = Reply>) -> (Result<Verified, VerifyError>, usize) {
    let stub = Stub::start(replies).await;
    let verdict = stub.verifier().verify(TOKEN).await;
    if let Err(error) = &verdict {
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
    }
    let keys: Vec<_> = stub.requests().iter().map(|r| r.header("idempotency-key").to_owned()).collect();
    assert!(keys.iter().all(|key| key.len() == 32 && Some(key) == keys.first()), "{keys:?}");
    (verdict, keys.len())
}

#[tokio::test]
async fn request_follows_the_protocol() {
    let stub = Stub::start([ok(), ok()]).await;
    let verifier = stub.verifier();
    for _ in 0..2 {
        assert_eq!(verifier.verify(TOKEN).await, Ok(Verified::default()));
    }
    let requests = stub.requests();
    let [first, second] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(first.line, format!("POST /token/{TOKEN}/+bugtracker-handshake HTTP/1.1"));
    assert_eq!(first.header("host"), format!("127.0.0.1:{}", stub.port));
    assert_eq!(first.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(first.body, "audience=https%3A%2F%2Fbugs.example.org%2Ftrac%2F");
    assert_eq!(first.header("accept"), "application/json, text/plain;q=0.9");
    assert_ne!(
        first.header("idempotency-key"),
        second.header("idempotency-key"),
        "each login has its own key"
    );
}

#[tokio::test]
async fn template_and_missing_audience_change_the_request() {
    let stub = Stub::start([ok()]).await;
    let template = format!("{}/tokens/%s/+bugtracker-handshake", stub.url());
    let verifier = countersign_verifier::Verifier::builder(template).build().unwrap();
    assert_eq!(verifier.verify(TOKEN).await, Ok(Verified::default()));
    let request = stub.requests().remove(0);
    assert_eq!(request.line, format!("POST /tokens/{TOKEN}/+bugtracker-handshake HTTP/1.1"));
    assert_eq!(request.body, "");
}

#[tokio::test]
async fn json_acceptance_has_details() {
    let document = r#"{"token_id":"cs1abc234","token_type":"BUGTRACKER","issuer":"Launchpad",
        "audience":"https://bugs.example.org/trac","date_created":"2026-01-02T03:04:05Z",
        "date_consumed":"2026-01-02T03:04:06.5Z","claims":{"run":7},"new":[]}"#;
    let (verified, asked) = ask([Reply::Send(json("200 OK", document))]).await;
    let verified = verified.unwrap();
    assert_eq!(asked, 1);
    assert_eq!(verified.issuer.as_deref(), Some("Launchpad"));
    assert_eq!(verified.audience.as_deref(), Some("https://bugs.example.org/trac"));
    assert_eq!(verified.claims.get("run"), Some(&7.into()));
    assert_eq!(verified.date_created, Some("2026-01-02T03:04:05Z".parse().unwrap()));
    assert_eq!(verified.date_consumed, Some("2026-01-02T03:04:06.5Z".parse().unwrap()));
    for unbound in [r#"{"audience":""}"#, r#"{"audience":null}"#, "{}"] {
        assert_eq!(ask([Reply::Send(json("200 OK", unbound))]).await, (Ok(Verified::default()), 1));
    }
}

#[tokio::test]
async fn acceptance_for_another_request_is_rejected() {
    for document in [
        r#"{"audience":"https://other.example.org/"}"#,
        r#"{"audience":"http://bugs.example.org/trac"}"#,
        r#"{"audience":"gibberish"}"#,
        r#"{"token_id":"cs1another"}"#,
        r#"{"issuer":7}"#,
        "[]",
        "{",
        "",
    ] {
        let (verdict, asked) = ask([Reply::Send(json("200 OK", document))]).await;
        assert!(matches!(verdict, Err(VerifyError::UnexpectedAnswer { status: 200, .. })), "{document}");
        assert_eq!(asked, 1, "{document}");
    }
    let stub = Stub::start([Reply::Send(json("200 OK", r#"{"audience":"https://a.example/"}"#))]).await;
    let verdict = stub.builder().build().unwrap().verify(TOKEN).await;
    assert!(
        matches!(verdict, Err(VerifyError::UnexpectedAnswer { .. })),
        "bound to a tracker, and to which?"
    );
}

#[tokio::test]
async fn refusal_is_not_retried() {
    for status in [401, 403, 404, 410, 429] {
        let reply = Reply::Send(text(&format!("{status} No"), "Retry-After: 0\r\n"));
        assert_eq!(ask([reply, ok()]).await, (Err(VerifyError::Refused { status }), 1));
    }
}

#[tokio::test]
async fn only_200_means_accepted() {
    for status in [201, 202, 204, 206, 301, 302, 303, 307, 308, 400, 405, 500, 501] {
        let location = Stub::start([ok()]).await;
        let stub = Stub::start([
            Reply::Send(format!(
                "HTTP/1.1 {status} Whatever\r\nLocation: {}/\r\nContent-Length: 0\r\n\r\n",
                location.url()
            )),
            ok(),
        ])
        .await;
        let verdict = stub.verifier().verify(TOKEN).await;
        let Err(VerifyError::UnexpectedAnswer { status: seen, .. }) = verdict else { panic!("{verdict:?}") };
        assert_eq!(seen, status);
        assert_eq!(stub.requests().len(), 1, "{status} is not asked again");
        assert_eq!(location.requests().len(), 0, "{status} is not followed");
    }
}

#[tokio::test]
async fn lost_answer_is_retried_once_with_the_same_key() {
    let cut_in_json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
    for lost in [
        Reply::Cut,
        Reply::Send("HTTP/1.1 200 O".to_owned()),
        Reply::Send("not HTTP\r\n\r\n".to_owned()),
        Reply::Send(cut_in_json.to_owned()),
        answer("502 Bad Gateway"),
        answer("503 Service Unavailable"),
        Reply::Send(text("503 Service Unavailable", "Retry-After: 0\r\n")),
        answer("504 Gateway Timeout"),
    ] {
        assert_eq!(ask([lost.clone(), ok()]).await, (Ok(Verified::default()), 2), "{lost:?}");
        let (verdict, asked) = ask([lost.clone(), lost.clone(), ok()]).await;
        assert!(matches!(verdict, Err(VerifyError::Unreachable { .. })), "{lost:?} {verdict:?}");
        assert_eq!(asked, 2, "{lost:?}");
    }
    let then_no = ask([Reply::Cut, answer("401 Unauthorized"), ok()]).await;
    assert_eq!(then_no, (Err(VerifyError::Refused { status: 401 }), 2));
}

#[tokio::test]
async fn long_retry_after_is_not_awaited() {
    let later = text("503 Service Unavailable", "Retry-After: 3600\r\n");
    let (verdict, asked) = ask([Reply::Send(later), ok()]).await;
    let Err(VerifyError::Unreachable { reason, .. }) = verdict else { panic!("{verdict:?}") };
    assert_eq!((reason.as_str(), asked), ("it answers HTTP 503", 1));
}

#[tokio::test]
async fn silent_issuer_is_retried_once() {
    let stub = Stub::start([Reply::Hang, Reply::Hang]).await;
    let verifier = stub.verifier();
    let login = tokio::spawn(async move { verifier.verify(TOKEN).await });
    for _ in 0..2 {
        stub.heard.notified().await;
        // The wait is over as soon as the question has arrived.
        tokio::time::pause();
        tokio::time::advance(DEFAULT_TIMEOUT).await;
        tokio::time::resume();
    }
    let verdict = login.await.unwrap();
    let Err(VerifyError::Unreachable { issuer, reason }) = verdict else { panic!("{verdict:?}") };
    assert_eq!((issuer, reason.as_str()), (stub.url(), "no answer in 10s"));
    let keys: Vec<_> = stub.requests().iter().map(|r| r.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys.first(), keys.last());
}

#[tokio::test]
async fn unreachable_tracker_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let verdict = countersign_verifier::Verifier::builder(&url).build().unwrap().verify(TOKEN).await;
    let Err(VerifyError::Unreachable { issuer, reason }) = verdict else { panic!("{verdict:?}") };
    assert_eq!(issuer, url);
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn endless_body_is_cut_off() {
    let head = |media_type| format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n");
    let (verdict, asked) = ask([Reply::Endless(head("application/json")), ok()]).await;
    assert!(matches!(verdict, Err(VerifyError::UnexpectedAnswer { status: 200, .. })), "{verdict:?}");
    assert_eq!(asked, 1);
    // Of a plain yes nothing but the status is read.
    assert_eq!(ask([Reply::Endless(head("text/plain"))]).await, (Ok(Verified::default()), 1));
}

#[tokio::test]
async fn malformed_token_is_not_sent() {
    let stub = Stub::start([ok()]).await;
    let long = "a".repeat(4097);
    for token in ["", "../+index", "a/b", ".", "a%2Fb", "%s", "a?b", "a#b", "a b", "a\r\nX: y", "ä", &long] {
        assert_eq!(stub.verifier().verify(token).await, Err(VerifyError::MalformedToken), "{token}");
    }
    assert_eq!(stub.requests().len(), 0);
    assert!(stub.verifier().verify(&"a".repeat(4096)).await.is_ok());
}

#[tokio::test]
async fn proxy_is_used_if_it_is_named() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let verifier = countersign_verifier::Verifier::builder("http://issuer.invalid:81")
        .allow_insecure_http()
        .proxy(format!("http://{}", proxy.local_addr().unwrap()))
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let login = tokio::spawn(async move { verifier.verify(TOKEN).await });
    let (mut stream, _) = proxy.accept().await.unwrap();
    let connect = read_request(&mut stream).await.unwrap();
    assert_eq!(connect.line, "CONNECT issuer.invalid:81 HTTP/1.1");
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
    let handshake = read_request(&mut stream).await.unwrap();
    assert_eq!(handshake.line, format!("POST /token/{TOKEN}/+bugtracker-handshake HTTP/1.1"));
    stream.write_all(text("200 OK", "").as_bytes()).await.unwrap();
    assert_eq!(login.await.unwrap(), Ok(Verified::default()));
}
