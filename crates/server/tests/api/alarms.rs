//! Alarms, with a receiver that is hard to please.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_server::limits::{
    ALARM_ATTEMPTS, ALARM_DELIVERIES, ALARM_QUEUE, KEPT_EACH_MINUTE, MANY_GUESSES,
};
use countersign_server::{Scope, Webhook};
use countersign_testkit::{Certified, seen, soon};
use data_encoding::BASE64;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::callers::{caller, send};
use crate::fixture::{FORM, Fixture, Options, TRAC, handshake_path, post};

const BEARER: &str = "3f1c0d9be2a84765b0c1d2e3f4a59687";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver was sent.
#[derive(Debug)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Verifies it as the specification says, and reads it.
    fn verified(&self) -> Value {
        let (id, timestamp) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = format!("{id}.{timestamp}.{}", self.body);
        let key = BASE64.decode(SECRET.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let signature = format!("v1,{}", BASE64.encode(&hmac_sha256(&key, signed.as_bytes())));
        assert!(self.header("webhook-signature").split(' ').any(|one| one == signature), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

/// RFC 2104, for keys of at most a block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::digest([&pad(0x36), message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}

type Answers = Arc<Mutex<Vec<Response>>>;

/// A receiver that gives these answers, the last one first, and then 200; its URL, and what it is sent.
async fn receiver(answers: Vec<Response>) -> (String, mpsc::UnboundedReceiver<Received>) {
    let (sender, received) = mpsc::unbounded_channel();
    let answers: Answers = Arc::new(Mutex::new(answers));
    let take = async |State((answers, sender)): State<(Answers, mpsc::UnboundedSender<Received>)>,
                      request: Request| {
        let (head, body) = request.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        sender.send(Received { headers: head.headers, body }).unwrap();
        let answer = answers.lock().unwrap().pop();
        answer.unwrap_or_else(|| StatusCode::OK.into_response())
    };
    let router = Router::new().fallback(take).with_state((answers, sender));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alarms", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

/// A receiver that answers nothing but relays until it is told to.
async fn receiver_that_holds(
    until: tokio::sync::oneshot::Receiver<()>,
) -> (String, mpsc::UnboundedReceiver<Received>) {
    let (sender, received) = mpsc::unbounded_channel();
    let until = until.map(drop).shared();
    let take = move |request: Request| {
        let (sender, until) = (sender.clone(), until.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            let is_relay = body.contains("countersign.relay");
            let _ = sender.send(Received { headers: head.headers, body });
            if !is_relay {
                until.await;
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alarms", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
    (url, received)
}

fn server(url: &str) -> Fixture {
    let webhook = Webhook::new(&url.parse().unwrap(), SECRET, None).unwrap();
    // Attempts come as fast as they can.
    let server = Fixture::with(Options { alarms: Some((webhook, Duration::ZERO)), ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).deliver_alarms());
    server
}

async fn replay(server: &Fixture) -> String {
    let token = server.token();
    assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    token
}

async fn relay(server: &Fixture) {
    let relay = post(&handshake_path(&server.token_for(TRAC))).header("content-type", FORM);
    let relay = relay.body(Body::from("audience=https://evil.example/")).unwrap();
    assert_eq!(server.public(relay).await.status, StatusCode::FORBIDDEN);
}

/// Waits for what a receiver is sent next.
async fn next(received: &mut mpsc::UnboundedReceiver<Received>) -> Received {
    soon("an alarm", received.recv()).await.unwrap()
}

/// Waits until a series has reached a value.
async fn reaches(server: &Fixture, name: &str, value: u64) {
    seen(name, async || (series(server, name).await >= value).then_some(())).await;
}

/// The value of a series.
async fn series(server: &Fixture, name: &str) -> u64 {
    let metrics = server.private(HttpRequest::get("/metrics").body(Body::empty()).unwrap()).await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn alarms_are_signed_and_hide_the_token() {
    let (url, mut received) = receiver(Vec::new()).await;
    let server = server(&url);
    server.handshake("cs1forged").await;
    let replayed = replay(&server).await;
    let bound = server.token_for(TRAC);
    let relay = post(&handshake_path(&bound)).header("content-type", FORM);
    server.public(relay.body(Body::from("audience=https://evil.example/")).unwrap()).await;

    let mut both = [next(&mut received).await, next(&mut received).await];
    // They are delivered side by side.
    both.sort_by_key(|one| one.verified()["type"] == "countersign.relay");
    let [first, second] = both;
    let told = first.verified();
    assert_eq!((&told["type"], &told["data"]["kind"]), (&"countersign.replay".into(), &"replay".into()));
    assert_eq!(told["data"]["token"], server.look(&replayed).await["id"]);
    assert_eq!(told["data"]["first"]["peer"], "192.0.2.7");
    assert_eq!(told["timestamp"], "2026-01-31T12:00:00Z");
    assert_eq!(first.header("webhook-id"), told["data"]["id"]);
    assert_eq!(first.header("webhook-timestamp"), "1769860800");
    assert_eq!(first.header("content-type"), "application/json");
    let told = second.verified();
    assert_eq!(
        (&told["type"], &told["data"]["stated"]),
        (&"countersign.relay".into(), &"https://evil.example/".into())
    );
    for (received, token) in [(first, &replayed), (second, &bound)] {
        assert!(!format!("{received:?}").contains(&token[12..28]), "{received:?}");
    }
    assert!(received.try_recv().is_err(), "a forged token is no alarm");
}

#[tokio::test]
async fn refused_alarm_is_retried_with_the_same_id() {
    let elsewhere = receiver(Vec::new()).await;
    let redirect = (StatusCode::TEMPORARY_REDIRECT, [("location", elsewhere.0.clone())], "").into_response();
    let refusals = [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS, StatusCode::NOT_FOUND];
    let mut answers: Vec<Response> = refusals.map(IntoResponse::into_response).into();
    answers.push(redirect);
    let (url, mut received) = receiver(answers).await;
    let server = server(&url);
    replay(&server).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        server.clock.advance(Duration::from_secs(1));
        let attempt = next(&mut received).await;
        attempt.verified();
        ids.push(attempt.header("webhook-id").to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "it is one message");
    replay(&server).await;
    assert_ne!(next(&mut received).await.header("webhook-id"), ids[0], "the next one");
    let mut elsewhere = elsewhere.1;
    assert!(elsewhere.try_recv().is_err(), "nothing was sent where it was redirected to");
    reaches(&server, "countersign_alarms_delivered_total", 2).await;
    assert_eq!(series(&server, "countersign_alarms_failed_total").await, 0);
}

#[tokio::test]
async fn undeliverable_alarm_is_dropped_and_the_next_sent() {
    let attempts = usize::try_from(ALARM_ATTEMPTS).unwrap();
    let refusals = (0..attempts).map(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).collect();
    let (url, mut received) = receiver(refusals).await;
    let server = server(&url);
    replay(&server).await;
    let mut ids = Vec::new();
    for _ in 0..attempts {
        ids.push(next(&mut received).await.header("webhook-id").to_owned());
    }
    reaches(&server, "countersign_alarms_failed_total", 1).await;
    replay(&server).await;
    ids.push(next(&mut received).await.header("webhook-id").to_owned());
    assert!(ids[..attempts].iter().all(|id| *id == ids[0]) && ids[attempts] != ids[0], "{ids:?}");
}

#[tokio::test]
async fn many_replays_of_one_token_do_not_delay_a_relay() {
    // It takes its time for the first one.
    let (free, held) = tokio::sync::oneshot::channel::<()>();
    let (url, mut received) = receiver_that_holds(held).await;
    let server = server(&url);
    let token = replay(&server).await;
    assert_eq!(next(&mut received).await.verified()["data"]["count"], 1);
    for _ in 1..KEPT_EACH_MINUTE {
        server.handshake(&token).await;
    }
    relay(&server).await;
    assert_eq!(next(&mut received).await.verified()["type"], "countersign.relay");
    free.send(()).unwrap();
    let others = next(&mut received).await.verified();
    assert_eq!((&others["type"], &others["data"]["count"]), (&"countersign.replay".into(), &119.into()));
    assert_eq!(others["data"]["token"], server.look(&token).await["id"]);
    reaches(&server, "countersign_alarms_delivered_total", 3).await;
    assert_eq!(series(&server, "countersign_alarms_queue_depth").await, 0);
}

#[tokio::test]
async fn many_replays_displace_no_relay_alarm() {
    let (free, held) = tokio::sync::oneshot::channel::<()>();
    let (url, mut received) = receiver_that_holds(held).await;
    let server = server(&url);
    let kept = usize::try_from(KEPT_EACH_MINUTE).unwrap();
    let many = 3 * kept;
    for nth in 1..=many {
        replay(&server).await;
        if nth % kept == 0 {
            server.clock.advance(Duration::from_mins(1));
        }
    }
    relay(&server).await;
    // Everything that is sent until then is held by the receiver.
    let mut sent = Vec::new();
    while sent.last().is_none_or(|one: &Value| one["type"] != "countersign.relay") {
        sent.push(next(&mut received).await.verified());
    }
    assert!(sent.len() <= ALARM_DELIVERIES, "{}", sent.len());
    let depth = usize::try_from(series(&server, "countersign_alarms_queue_depth").await).unwrap();
    assert!(depth <= ALARM_QUEUE + ALARM_DELIVERIES + 1, "{depth}");
    free.send(()).unwrap();
    let mut replays = 0;
    for one in &sent {
        replays +=
            if one["type"] == "countersign.replay" { one["data"]["count"].as_u64().unwrap() } else { 0 };
    }
    while replays < u64::try_from(many).unwrap() {
        let alarm = next(&mut received).await.verified();
        replays += alarm["data"]["count"].as_u64().unwrap();
    }
    assert_eq!(replays, u64::try_from(many).unwrap(), "each is told, alone or in a number");
    assert_eq!(series(&server, "countersign_alarms_failed_total").await, 0);
}

#[tokio::test]
async fn many_wrong_secrets_raise_one_alarm_and_are_events() {
    let (url, mut received) = receiver(Vec::new()).await;
    let webhook = Webhook::new(&url.parse().unwrap(), SECRET, None).unwrap();
    let options = Options {
        alarms: Some((webhook, Duration::ZERO)),
        bearer: Some(BEARER),
        refusals_per_minute: 200,
        ..Options::default()
    };
    let server = Fixture::with(options);
    tokio::spawn(Arc::clone(&server.app.events).deliver_alarms());
    tokio::spawn(Arc::clone(&server.app.events).write());
    let guess = async |path: &str, authorization: &str| {
        let request = post(path).header("authorization", authorization).header("user-agent", "guesser/1");
        server.private(request.body(Body::empty()).unwrap()).await
    };
    for nth in 0..100 {
        let answer = guess("/v1/tokens", &format!("Bearer guess{nth}")).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        // The page takes it in another form.
        let password = BASE64.encode(format!("any:guess{nth}").as_bytes());
        assert_eq!(guess("/page/token", &format!("Basic {password}")).await.status, StatusCode::UNAUTHORIZED);
    }
    let limited = guess("/bugs", "Bearer guess").await;
    assert_eq!((limited.status, limited.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "1"));
    let right = guess("/v1/tokens", &format!("Bearer {BEARER}")).await;
    assert_eq!(right.status, StatusCode::CREATED, "nobody is locked out");
    let without = server.private(post("/v1/tokens").body(Body::empty()).unwrap()).await;
    assert_eq!(without.status, StatusCode::UNAUTHORIZED, "and no secret is no guess");

    let told = next(&mut received).await;
    let alarm = told.verified();
    assert_eq!(alarm["type"], "countersign.credential-rejected");
    assert_eq!(
        (&alarm["data"]["count"], &alarm["data"]["peer"]),
        (&MANY_GUESSES.into(), &"127.0.0.1".into())
    );
    assert!(!format!("{told:?}").contains("guess0"), "{told:?}");
    assert!(received.try_recv().is_err(), "one is enough");
    let list =
        |path: &'static str| HttpRequest::get(path).header("authorization", format!("Bearer {BEARER}"));
    let list = async |path| server.private(list(path).body(Body::empty()).unwrap()).await;
    let kept = usize::try_from(KEPT_EACH_MINUTE).unwrap();
    let events = seen("as many events as are kept", async || {
        let answer = list("/v1/events?kind=credential-rejected&limit=1000").await;
        assert!(!answer.text.contains("guess0"), "{}", answer.text);
        let events = answer.json()["events"].as_array().unwrap().clone();
        (events.len() >= kept).then_some(events)
    })
    .await;
    assert_eq!((events.len(), &events[0]["user_agent"]), (kept, &"guesser/1".into()));
    let metrics = list("/metrics").await.text;
    assert!(metrics.contains("countersign_credentials_rejected_total 201\n"), "{metrics}");
}

#[tokio::test]
async fn unverified_receiver_gets_no_alarm() {
    let [ours, other] = [(); 2].map(|()| Certified::self_signed("localhost"));
    for (authority, is_told) in [(&ours.certificate, true), (&other.certificate, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let webhook = Webhook::new(&url.parse().unwrap(), SECRET, Some(authority.as_bytes())).unwrap();
        let alarms = Some((webhook, Duration::ZERO));
        let server = Fixture::with(Options { alarms, ..Options::default() });
        tokio::spawn(Arc::clone(&server.app.events).deliver_alarms());
        let acceptor = ours.acceptor();
        replay(&server).await;
        let accepted = acceptor.accept(listener.accept().await.unwrap().0).await;
        assert_eq!(accepted.is_ok(), is_told, "{:?}", accepted.err());
    }
}

#[tokio::test]
async fn caller_that_overreaches_often_raises_an_alarm() {
    let (url, mut received) = receiver(Vec::new()).await;
    let webhook = Webhook::new(&url.parse().unwrap(), SECRET, None).unwrap();
    let callers = caller("worker-eu", &[Scope::Issue], "tokens_per_minute = 1");
    let alarms = Some((webhook, Duration::ZERO));
    let server = Fixture::with(Options { callers: Some(callers), alarms, ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).deliver_alarms());
    // More tokens than it may have are no attempt at anything.
    for _ in 0..=2 * MANY_GUESSES {
        send(&server, "worker-eu", "POST", "/v1/tokens", Some(json!({}))).await;
    }
    for _ in 0..2 * MANY_GUESSES {
        send(&server, "worker-eu", "POST", "/v1/store/fence", None).await;
    }
    let told = next(&mut received).await;
    let alarm = told.verified();
    assert_eq!(alarm["type"], "countersign.caller-denied");
    let data = &alarm["data"];
    assert_eq!((&data["reason"], &data["caller"]), (&"scope".into(), &"worker-eu".into()));
    assert_eq!(data["count"], MANY_GUESSES);
    assert!(received.try_recv().is_err(), "one is enough");
}
