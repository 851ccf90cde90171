//! What each tracker and each caller did, and how many of them there can be.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Audience, NewToken, StoreError, TokenStore};
use countersign_server::limits::MAX_PARTIES;
use countersign_server::{Scope, SecretHash};
use serde_json::{Value, json};

use crate::fixture::{Answer, FORM, Fixture, JSON, Options, TRAC, handshake_path, hooked, post};

const EU: &str = "eu-secret";

/// A server with one named caller, `eu`, and one that may look at events.
fn server() -> Fixture {
    let caller = |name: &str, scope: Scope| {
        let hash = SecretHash::of(format!("{name}-secret").as_bytes());
        format!("[[caller]]\nname = '{name}'\nsecrets = ['{hash}']\nscopes = ['{scope}']\n")
    };
    let callers = caller("eu", Scope::Issue) + &caller("ops", Scope::Events);
    Fixture::with(Options { callers: Some(callers), ..Options::default() })
}

async fn get(server: &Fixture, path: &str) -> Answer {
    let request = Request::get(path).header("authorization", "Bearer ops-secret");
    server.private(request.body(Body::empty()).unwrap()).await
}

/// A row of the table, if it is there.
async fn row(server: &Fixture, query: &str, name: &str) -> Option<Value> {
    let answer = get(server, &format!("/v1/summary?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned()
}

async fn issue(server: &Fixture, wanted: Value) -> String {
    let request =
        post("/v1/tokens").header("authorization", format!("Bearer {EU}")).header("content-type", JSON);
    let answer = server.private(request.body(Body::from(wanted.to_string())).unwrap()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["token_id"].as_str().unwrap().to_owned()
}

async fn show(server: &Fixture, token: &str, audience: &str) -> StatusCode {
    let body = form_urlencoded::Serializer::new(String::new()).append_pair("audience", audience).finish();
    let request = post(&handshake_path(token)).header("content-type", FORM).body(Body::from(body)).unwrap();
    server.public(request).await.status
}

/// A token of the caller without a name.
fn token_for(server: &Fixture, tracker: &str) -> String {
    let audience = Some(Audience::parse(tracker).unwrap());
    server.app.tokens.issue(NewToken { audience, ..NewToken::default() }).unwrap().text.into_exposed()
}

#[tokio::test(start_paused = true)]
async fn trackers_and_callers_are_counted_separately() {
    let server = server();
    let bound = issue(&server, json!({ "audience": TRAC })).await;
    assert_eq!(show(&server, &bound, "https://evil.example/").await, StatusCode::FORBIDDEN);
    assert_eq!(show(&server, &bound, TRAC).await, StatusCode::OK);
    for _ in 0..2 {
        assert_eq!(show(&server, &bound, TRAC).await, StatusCode::UNAUTHORIZED);
    }
    let late = issue(&server, json!({ "audience": TRAC })).await;
    let unbound = server.token();
    assert_eq!(show(&server, &unbound, TRAC).await, StatusCode::OK);
    server.clock.advance(Duration::from_mins(6));
    assert_eq!(show(&server, &late, TRAC).await, StatusCode::UNAUTHORIZED);
    assert_eq!(show(&server, "cs1forged", "https://forged.example/").await, StatusCode::NOT_FOUND);

    let trac = row(&server, "by=tracker", TRAC).await.unwrap();
    let eu = row(&server, "by=caller&range=24h", "eu").await.unwrap();
    for told in [&trac, &eu] {
        for (name, count) in
            [("issued", 2), ("good", 1), ("replays", 2), ("relays", 1), ("refused", 1), ("unanswered", 0)]
        {
            assert_eq!(told[name], count, "{name}: {told}");
        }
        assert_eq!(told["reasons"], json!({ "expired": 1 }));
        assert!(told["p99_seconds"].as_f64().unwrap() >= told["p50_seconds"].as_f64().unwrap(), "{told}");
    }
    assert_eq!(row(&server, "by=tracker", "unbound").await.unwrap()["good"], 1);
    assert_eq!(row(&server, "by=caller", "default").await.unwrap()["good"], 1);
    let unattributed = row(&server, "by=tracker", "unattributed").await.unwrap();
    assert_eq!((&trac["named"], &unattributed["named"]), (&json!(true), &json!(false)));
    assert_eq!((&unattributed["reasons"], &unattributed["good"]), (&json!({ "unknown": 1 }), &json!(0)));
    assert_eq!(
        row(&server, "by=tracker", "https://evil.example/").await,
        None,
        "who states a name is no tracker"
    );
    assert_eq!(row(&server, "by=tracker", "https://forged.example/").await, None);
}

#[tokio::test(start_paused = true)]
async fn unanswered_handshake_counts_for_its_tracker() {
    let hooks: [Arc<dyn TokenStore>; 3] = [
        hooked(crate::store_away::Away(StoreError::Busy)),
        hooked(crate::store_away::Away(StoreError::unavailable("gone"))),
        hooked(crate::store_away::Hangs),
    ];
    for store in hooks {
        let server = Fixture::with(Options { store: Some(store), ..Options::default() });
        let answer = show(&server, &token_for(&server, TRAC), TRAC).await;
        assert_eq!(answer, StatusCode::SERVICE_UNAVAILABLE);
        let answer =
            server.private(Request::get("/v1/summary?by=tracker").body(Body::empty()).unwrap()).await;
        let rows = answer.json()["rows"].clone();
        assert_eq!((&rows[0]["name"], &rows[0]["unanswered"]), (&json!(TRAC), &json!(1)), "{rows}");
        assert_eq!(rows.as_array().unwrap().len(), 1, "nothing is unattributed: {rows}");
    }
}

#[tokio::test(start_paused = true)]
async fn summary_covers_the_requested_range() {
    let server = server();
    assert_eq!(show(&server, &token_for(&server, TRAC), TRAC).await, StatusCode::OK);
    let document = get(&server, "/v1/summary?by=tracker").await.json();
    assert_eq!(
        (&document["range"], &document["since"]),
        (&json!("1h"), &json!("2026-01-31T12:00:00Z")),
        "since the start"
    );
    let last_good = row(&server, "by=tracker", TRAC).await.unwrap()["last_good"].clone();
    server.clock.advance(Duration::from_hours(5));
    for (range, good) in [("1h", 0), ("6h", 1), ("24h", 1), ("7d", 1)] {
        let trac = row(&server, &format!("by=tracker&range={range}"), TRAC).await.unwrap();
        assert_eq!((&trac["good"], &trac["last_good"]), (&json!(good), &last_good), "{range}");
        assert_eq!(trac.get("p50_seconds").is_some(), good > 0, "{range}");
    }
    let since = get(&server, "/v1/summary?by=tracker").await.json()["since"].clone();
    assert_eq!(since, "2026-01-31T16:00:00Z");
    for wrong in ["", "by=peer", "by=tracker&range=2h", "by=tracker&by=caller", "by=tracker&colour=red"] {
        let answer = get(&server, &format!("/v1/summary?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn many_trackers_displace_no_other_caller() {
    let server = server();
    assert_eq!(show(&server, &token_for(&server, TRAC), TRAC).await, StatusCode::OK);
    let names = async || {
        let document = get(&server, "/v1/summary?by=tracker&range=7d").await.json();
        let rows = document["rows"].as_array().unwrap().clone();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for nth in 0..MAX_PARTIES + 50 {
        let tracker = format!("https://t{nth}.example/");
        assert_eq!(show(&server, &token_for(&server, &tracker), &tracker).await, StatusCode::OK);
    }
    assert_eq!(names().await.len(), MAX_PARTIES + 1);
    assert_eq!(row(&server, "by=tracker", "other").await.unwrap()["good"], 51);
    assert_eq!(show(&server, &token_for(&server, TRAC), TRAC).await, StatusCode::OK);
    assert_eq!(row(&server, "by=tracker", TRAC).await.unwrap()["good"], 2, "it was there first");
    let metrics = get(&server, "/metrics").await.text;
    assert!(metrics.contains(&format!(
        "countersign_tracker_handshakes_total{{tracker=\"{TRAC}\",outcome=\"accepted\"}} 2"
    )));
    assert!(
        metrics.contains("countersign_tracker_handshakes_total{tracker=\"other\",outcome=\"accepted\"} 51")
    );
    let series = metrics.lines().filter(|line| line.starts_with("countersign_tracker_")).count();
    assert!(
        series <= 15 * (MAX_PARTIES + 2),
        "docs/operating.md says some fifteen for each tracker, not {series} in all"
    );

    // A week later those that nobody asks for make room, and the others stay.
    for _ in 0..8 {
        server.clock.advance(Duration::from_hours(24));
        assert_eq!(show(&server, &token_for(&server, TRAC), TRAC).await, StatusCode::OK);
        names().await;
    }
    let late = "https://late.example/";
    assert_eq!(show(&server, &token_for(&server, late), late).await, StatusCode::OK);
    let names = names().await;
    assert!(names.iter().any(|name| name == TRAC) && names.iter().any(|name| name == late), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn summary_number_links_to_its_events() {
    let server = server();
    tokio::spawn(Arc::clone(&server.app.events).write());
    let near = format!("{TRAC}projects/a");
    let mine = issue(&server, json!({ "audience": TRAC })).await;
    for (token, tracker) in [(mine, TRAC), (token_for(&server, &near), &near), (server.token(), TRAC)] {
        show(&server, &token, tracker).await;
        assert_eq!(show(&server, &token, tracker).await, StatusCode::UNAUTHORIZED);
    }
    show(&server, "cs1forged", TRAC).await;
    let count = async |query: &str| {
        while server.app.events.counts().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let answer = get(&server, &format!("/v1/events?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["events"].as_array().unwrap().len()
    };
    for (query, events) in [
        ("kind=replay", 3),
        // Also as others spell it.
        ("kind=replay&tracker=HTTPS://Trac.Example.org:443", 1),
        ("kind=replay&tracker=unbound", 1),
        ("tracker=unbound", 1),
        ("kind=replay&caller=eu", 1),
        ("kind=replay&caller=default", 2),
        ("kind=replay&caller=eu&tracker=unbound", 0),
        ("kind=refused&caller=default", 0),
        ("kind=refused", 1),
    ] {
        assert_eq!(count(query).await, events, "{query}");
    }
    for wrong in ["tracker=here", "caller=No"] {
        assert_eq!(
            get(&server, &format!("/v1/events?{wrong}")).await.status,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    let token = server.token();
    let answer = get(&server, &format!("/v1/events?tracker=https://a.example/{token}")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(!answer.text.contains(&token[12..28]));
}
