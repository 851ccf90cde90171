//! What operators get to see.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{
    EndingQuery, Event, EventId, EventKind, EventStore, MAX_NOTE_CHARS, Note, OsEntropy, RequestId, TokenId,
    from_millis,
};
use countersign_server::EventPolicy;
use countersign_server::limits::{EVENT_QUEUE, KEPT_EACH_MINUTE, MAX_EVENTS, MAX_FOLLOWERS, MAX_PAGE_BYTES};
use countersign_store::events::MemoryEvents;
use countersign_testkit::{StoreHook, seen};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fixture::{FORM, Fixture, Options, TRAC, handshake_path, hooked, post};

/// A server whose events are written, in a time that runs ahead whenever everybody waits.
fn server(options: Options) -> Fixture {
    let server = Fixture::with(options);
    tokio::spawn(Arc::clone(&server.app.events).write());
    server
}

fn issuing() -> Options {
    Options {
        event_policy: EventPolicy { record_issued: true, ..EventPolicy::default() },
        ..Options::default()
    }
}

async fn get(server: &Fixture, path: &str) -> Value {
    let answer = server.private(Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// The list, once all that waits has been written.
async fn events(server: &Fixture, query: &str) -> Vec<Value> {
    let is_written = async || (server.app.events.counts().waiting == 0).then_some(());
    seen("all that waits is written", is_written).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    get(server, &format!("/v1/events?{query}")).await["events"].as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<String> {
    let word = |event: &Value, name| event[name].as_str().map(str::to_owned);
    let kind = |event| [word(event, "kind"), word(event, "reason")].into_iter().flatten().collect::<Vec<_>>();
    events.iter().map(|event| kind(event).join("/")).collect()
}

#[tokio::test(start_paused = true)]
async fn events_are_listed_newest_first() {
    let server = server(issuing());
    let issue =
        post("/v1/tokens").header("content-type", "application/json").header("user-agent", "worker/1");
    let body = Body::from(json!({ "audience": TRAC }).to_string());
    let issued = server.private(issue.body(body).unwrap()).await.json();
    let (token, id) = (issued["token_id"].as_str().unwrap(), &issued["id"]);
    let handshake = |audience: &str| {
        post(&handshake_path(token))
            .header("content-type", FORM)
            .header("user-agent", "trac/1.6\t")
            .body(Body::from(format!("audience={audience}")))
            .unwrap()
    };
    let step = || server.clock.advance(Duration::from_secs(1));
    step();
    server.public(handshake("https://evil.example/")).await;
    step();
    assert_eq!(server.public(handshake(TRAC)).await.status, StatusCode::OK);
    step();
    server.public(handshake(TRAC)).await;
    step();
    server.handshake("cs1nonsense").await;
    step();
    server.private(post("/v1/store/fence").body(Body::empty()).unwrap()).await;
    step();
    let ring = server.private(post("/v1/keys/rotate").body(Body::empty()).unwrap()).await.json();
    step();
    let other = server.private(post("/v1/tokens").body(Body::empty()).unwrap()).await.json();
    let other = other["token_id"].as_str().unwrap();
    step();
    server.private(Request::delete(format!("/v1/tokens/{other}")).body(Body::empty()).unwrap()).await;

    let events = events(&server, "").await;
    assert_eq!(
        kinds(&events),
        [
            "revoked",
            "issued",
            "key-rotated",
            "fence-moved",
            "refused/unknown",
            "replay",
            "consumed",
            "relay",
            "issued"
        ]
    );
    assert_eq!(events[2]["key"], ring["keys"][1]["id"]);
    assert_eq!(events[3]["fence"], "2026-01-31T12:00:35.001Z");
    assert_eq!(events[4]["token"], Value::Null, "nothing is known of it");
    let replay = &events[5];
    assert_eq!((&replay["token"], &replay["audience"]), (id, &json!(TRAC)));
    assert_eq!((&replay["peer"], &replay["user_agent"]), (&json!("192.0.2.7"), &json!("trac/1.6")));
    assert_eq!(replay["at"], "2026-01-31T12:00:03Z");
    assert_eq!(replay["first"], json!({ "at": "2026-01-31T12:00:02Z", "peer": "192.0.2.7" }));
    let consumed = &events[6];
    assert_eq!((&consumed["token"], &consumed["peer"]), (id, &json!("192.0.2.7")));
    assert_eq!(events[7]["stated"], "https://evil.example/");
    assert_eq!((&events[8]["token"], &events[8]["user_agent"]), (id, &json!("worker/1")));
    assert_eq!(events[8]["peer"], "127.0.0.1");
    assert!(events.iter().all(|event| !event.to_string().contains(&token[12..28])), "no token: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn recorded_endings_are_not_written_again() {
    let server = server(Options::default());
    let issued = server.private(post("/v1/tokens").body(Body::empty()).unwrap()).await.json();
    server.handshake(issued["token_id"].as_str().unwrap()).await;
    assert_eq!(kinds(&events(&server, "").await), ["consumed"]);
    assert_eq!(server.app.events.counts().written, 0);
}

#[tokio::test(start_paused = true)]
async fn list_is_filtered_and_paged() {
    let server = server(Options::default());
    for nth in 0..4 {
        let token = server.token();
        server.clock.advance(Duration::from_mins(1));
        server.handshake(&token).await;
        // The second use falls into the millisecond of the first one, but for the last.
        server.clock.advance(Duration::from_secs(u64::from(nth == 3)));
        server.handshake(&token).await;
    }
    let all = events(&server, "").await;
    assert_eq!(all.len(), 8);
    assert_eq!(kinds(&events(&server, "kind=replay&limit=2").await), ["replay", "replay"]);
    assert_eq!(kinds(&events(&server, "kind=relay,consumed").await), ["consumed"; 4]);
    assert_eq!(kinds(&events(&server, "kind=relay&kind=revoked").await), [""; 0]);
    assert_eq!(events(&server, "since=2026-01-31T12:03:00Z").await.len(), 4);
    for limit in 1..=8 {
        let (mut turned, mut after) = (Vec::new(), String::new());
        loop {
            let page = get(&server, &format!("/v1/events?limit={limit}{after}")).await;
            turned.extend(page["events"].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(turned, all, "{limit} at a time");
    }
    for (query, says) in [
        ("kind=other", "key-rotated"),
        ("since=yesterday", "RFC 3339"),
        ("after=1", "next"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("until=tomorrow", "RFC 3339"),
        ("id=cs1forged", "16 hexadecimal digits"),
        ("peer=me", "IP address"),
        ("text=", "1 to 256"),
        ("text=https://lp.example.org/cs1abcdefghijklmnopqrstuvwxyz234567/", "has a token in it"),
        ("colour=red", "kind, since"),
    ] {
        let request = Request::get(format!("/v1/events?{query}")).body(Body::empty()).unwrap();
        let answer = server.private(request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{query}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn list_is_filtered_by_name_address_text_and_time() {
    let server = server(Options::default());
    let token = server.token_for(TRAC);
    let handshake = |audience: &str, agent: &str| {
        let request = post(&handshake_path(&token)).header("content-type", FORM).header("user-agent", agent);
        request.body(Body::from(format!("audience={audience}"))).unwrap()
    };
    server.public(handshake("https://Evil.example/", "curl/8")).await;
    server.clock.advance(Duration::from_mins(1));
    server.public(handshake(TRAC, "trac/1.6")).await;
    server.clock.advance(Duration::from_mins(1));
    server.public(handshake(TRAC, "trac/1.6")).await;
    let id = server.look(&token).await["id"].as_str().unwrap().to_owned();
    let all = events(&server, "").await;
    assert_eq!(kinds(&all), ["replay", "consumed", "relay"]);
    let event = all[2]["id"].as_str().unwrap();
    for (query, found) in [
        (format!("id={id}"), vec!["replay", "consumed", "relay"]),
        (format!("id={id}&kind=consumed"), vec!["consumed"]),
        (format!("id={event}"), vec!["relay"]),
        ("id=00000000000000ff".to_owned(), vec![]),
        ("peer=192.0.2.7".to_owned(), vec!["replay", "consumed", "relay"]),
        ("peer=::ffff:192.0.2.7".to_owned(), vec!["replay", "consumed", "relay"]),
        ("peer=192.0.2.8".to_owned(), vec![]),
        ("text=evil.EXAMPLE".to_owned(), vec!["relay"]),
        ("text=trac%2F1".to_owned(), vec!["replay"]),
        ("text=trac".to_owned(), vec!["replay", "relay"]),
        ("until=2026-01-31T12:02:00Z".to_owned(), vec!["consumed", "relay"]),
        ("since=2026-01-31T12:01:00Z&until=2026-01-31T12:02:00Z".to_owned(), vec!["consumed"]),
    ] {
        assert_eq!(kinds(&events(&server, &query).await), found, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn follower_receives_only_matching_events() {
    let server = Fixture::new();
    let follow = Request::get("/v1/events/stream?text=curl&since=2030-01-01T00:00:00Z&kind=refused");
    let mut body = server.private_response(follow.body(Body::empty()).unwrap()).await.into_body();
    body.frame().await.unwrap().unwrap();
    for agent in ["trac/1.6", "curl/8"] {
        let request = post(&handshake_path("cs1forged")).header("user-agent", agent);
        server.public(request.body(Body::empty()).unwrap()).await;
    }
    let told = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8(told.to_vec()).unwrap().contains("curl/8"));
}

/// A store that looks at few tokens at a time, as a store of millions seems to do.
#[derive(Debug)]
struct Narrow;

impl StoreHook for Narrow {
    fn query(&self, query: &EndingQuery) -> EndingQuery {
        EndingQuery { look_at: 3, ..query.clone() }
    }
}

#[tokio::test(start_paused = true)]
async fn list_continues_past_one_query() {
    let server = server(Options { store: Some(hooked(Narrow)), ..Options::default() });
    // Those that were issued last are redeemed first, with replays in between.
    let mut tokens = Vec::new();
    for _ in 0..10 {
        server.clock.advance(Duration::from_secs(1));
        tokens.push(server.token());
    }
    for token in tokens.iter().rev() {
        server.clock.advance(Duration::from_secs(1));
        server.handshake(token).await;
        server.clock.advance(Duration::from_millis(3));
        server.handshake(token).await;
    }
    events(&server, "").await;
    for (kinds, limits, count) in [("consumed", 1..=4, 10), ("consumed,replay", 1..=22, 20)] {
        for limit in limits {
            let (mut listed, mut after) = (Vec::new(), String::new());
            loop {
                let page = get(&server, &format!("/v1/events?kind={kinds}&limit={limit}{after}")).await;
                listed.extend(page["events"].as_array().unwrap().iter().map(Value::to_string));
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            let every = listed.iter().collect::<std::collections::BTreeSet<_>>();
            assert_eq!((listed.len(), every.len()), (count, count), "{kinds}, {limit} at a time: {listed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_bounded_in_bytes_and_lose_nothing() {
    let kept = Arc::new(MemoryEvents::default());
    // What takes most room when it is written.
    let agent = "\u{10ffff}\"".repeat(MAX_NOTE_CHARS / 2);
    let events: Vec<Event> = (0..MAX_EVENTS + 7)
        .map(|nth| {
            let at = from_millis(1_769_000_000_000 + i64::try_from(nth).unwrap());
            Event {
                id: EventId::generate(at, &OsEntropy).unwrap(),
                at,
                kind: EventKind::Relay { stated: Note::clean(agent.as_bytes()) },
                token: Some(TokenId::from_bytes([7; 16])),
                audience: Some(format!("https://{}.example/", "a".repeat(480))),
                peer: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().ok(),
                user_agent: Note::clean(agent.as_bytes()),
                request: Some(RequestId(u64::MAX)),
                caller: None,
                count: u64::MAX,
            }
        })
        .collect();
    kept.append(&events).await.unwrap();
    let server = Fixture::with(Options { events: Some(kept), ..Options::default() });
    let (mut listed, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = Request::get(format!("/v1/events?kind=relay&limit={MAX_EVENTS}{after}"));
        let answer = server.private(request.body(Body::empty()).unwrap()).await;
        assert!(answer.text.len() < MAX_PAGE_BYTES + 1024, "{}", answer.text.len());
        let page = answer.json();
        listed.extend(page["events"].as_array().unwrap().iter().map(|event| event["id"].clone()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let all: Vec<_> = events.iter().rev().map(|event| json!(event.id.to_string())).collect();
    assert_eq!(listed, all);
    assert!(pages > 3, "{pages}");
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_take_bounded_room() {
    let server = server(Options::default());
    let token = server.token();
    server.handshake(&token).await;
    let limit = usize::try_from(KEPT_EACH_MINUTE).unwrap();
    for _ in 0..limit + 500 {
        server.handshake("cs1forged").await;
    }
    server.handshake(&token).await;
    server.clock.advance(Duration::from_mins(1));
    let forged = events(&server, "kind=refused&limit=1000").await;
    assert_eq!(forged.len(), limit + 1);
    assert_eq!(forged[0]["count"], 500, "the others are summed up");
    assert_eq!(kinds(&events(&server, "kind=replay").await), ["replay"]);
    let counts = server.app.events.counts();
    assert_eq!((counts.summed_up, counts.lost), (500, 0));
}

#[tokio::test(start_paused = true)]
async fn queue_overflow_is_lost_while_the_store_is_away() {
    let kept = Arc::new(MemoryEvents::default());
    let away = Arc::new(super::store_away::AwayEvents::new(kept));
    let server = server(Options { events: Some(away.clone()), ..issuing() });
    away.set(true);
    let more = 100;
    let (mut issued, mut counts) = (0, server.app.events.counts());
    while counts.lost < more {
        let answer = server.private(post("/v1/tokens").body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "nothing waits for events");
        issued += 1;
        counts = server.app.events.counts();
    }
    assert!(counts.waiting >= u64::try_from(EVENT_QUEUE).unwrap() - 1, "{counts:?}");
    let list = Request::get("/v1/events").body(Body::empty()).unwrap();
    assert_eq!(server.private(list).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let trouble = async || {
        let shown = Request::get("/v1/server").body(Body::empty()).unwrap();
        server.private(shown).await.json()["events_trouble"].clone()
    };
    // On this clock, that is when the writer has had its turn.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(trouble().await, "gone fishing", "the operator is told");
    let page = Request::get("/").header("host", "127.0.0.1:8087").body(Body::empty()).unwrap();
    let page = server.private(page).await.text;
    assert!(page.contains("<p class=\"headline\">Events cannot be kept</p>"), "{page}");
    assert!(page.contains("gone fishing. No handshake suffers."), "{page}");

    away.set(false);
    let is_written = async || (server.app.events.counts().written >= issued - more).then_some(());
    seen("what was not lost is written", is_written).await;
    assert_eq!(events(&server, "limit=1000").await.len(), 1000);
    assert_eq!(server.app.events.counts().lost, more);
    assert_eq!(trouble().await, Value::Null, "it is over");
}

#[tokio::test]
async fn follower_receives_later_events() {
    let server = Fixture::new();
    let request = || Request::get("/v1/events/stream?kind=consumed,replay").body(Body::empty()).unwrap();
    let response = server.private_response(request()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no", "nginx passes it on at once");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.to_vec()).unwrap()
    };
    assert!(next().await.starts_with(':'), "it begins with a comment");
    let token = server.token();
    server.handshake(&token).await;
    server.handshake("cs1forged").await;
    server.handshake(&token).await;
    for kind in ["consumed", "replay"] {
        let told = next().await;
        assert!(told.contains(&format!("event: {kind}\n")), "{told}");
        let data = told.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&event["kind"], &event["peer"]), (&json!(kind), &json!("192.0.2.7")));
    }
    let mut others = Vec::new();
    for _ in 1..MAX_FOLLOWERS {
        others.push(server.private_response(request()).await);
    }
    assert_eq!(server.private_response(request()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(others);
    assert_eq!(server.private_response(request()).await.status(), StatusCode::OK);
}
