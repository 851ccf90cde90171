//! The page for operators, as a browser gets it; `tests/page/run` looks at it in one.

mod browser;
mod events;
mod headline;
mod tokens;
mod trackers;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Clock, ManualClock, TokenStore};
use countersign_store::memory::MemoryStore;
use countersign_testkit::seen;

use crate::fixture::{Answer, FORM, Fixture, Options, TRAC, handshake_path, post};
use crate::nodes::facts;

const HOST: &str = "127.0.0.1:8087";

const ORIGIN: &str = "http://127.0.0.1:8087";

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", HOST).body(Body::empty()).unwrap()
}

/// Sends the form as a browser does from the page.
async fn send_form(server: &Fixture, token: &str, what: &str) -> Answer {
    let form = post("/page/token").header("host", HOST).header("origin", ORIGIN).header("content-type", FORM);
    let body = format!("token=+{token}%0A&do={what}");
    server.private(form.body(Body::from(body)).unwrap()).await
}

/// The page, once all that waits has been written.
pub(crate) async fn page(server: &Fixture, path: &str) -> String {
    let is_written = async || (server.app.events.counts().waiting == 0).then_some(());
    seen("all that waits is written", is_written).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let answer = server.private(get(path)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    answer.text
}

fn server() -> Fixture {
    let server = Fixture::new();
    tokio::spawn(Arc::clone(&server.app.events).write());
    server
}

/// The number on a tile.
fn tile(page: &str, name: &str) -> u64 {
    let (_, rest) = page.split_once(&format!("<dt>{name}</dt><dd>")).unwrap();
    let (count, _) = rest.split_once("</dd>").unwrap();
    // Without the link around it.
    count.trim_end_matches("</a>").rsplit('>').next().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn page_shows_the_state_at_a_glance() {
    let server = server();
    let quiet = page(&server, "/").await;
    assert!(quiet.contains("All is well"), "{quiet}");
    assert!(quiet.contains("There was no handshake in this time."));
    assert!(quiet.contains("seals and opens") && quiet.contains("takes tokens"));
    assert!(quiet.contains("alarm_webhook is not set"), "it says that nobody would be told");

    let token = server.token_for(TRAC);
    let stated = |audience: &str| {
        let body = Body::from(format!("audience={audience}"));
        post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()
    };
    server.public(stated(TRAC)).await;
    page(&server, "/").await;
    server.clock.advance(Duration::from_mins(1));
    server.public(stated("https://evil.example/")).await;
    server.public(stated(TRAC)).await;
    server.handshake("cs1nonsense").await;
    let tried = page(&server, "/").await;
    assert!(
        tried.contains("<p class=\"headline\">1 replay and 1 relay attempt in the last hour</p>"),
        "{tried}"
    );
    assert!(tried.contains("<title>1 replay and 1 relay attempt in the last hour · Countersign of"));
    assert!(tried.contains("href=\"./page/icon/bad\""));
    assert!(
        tried.contains(
            "<a href=\"?kind=replay&#38;since=2026-01-31T11%3A59%3A59#events-title\">See the replay.</a>"
        ),
        "{tried}"
    );
    assert!(
        tried.contains("<a href=\"?kind=relay&#38;since=2026-01-31T11%3A59%3A59#events-title\">See the relay attempt.</a>"),
        "{tried}"
    );
    for (name, count) in [
        ("consumed", 1),
        ("refused", 1),
        ("replays", 1),
        ("relay attempts", 1),
        ("unanswered", 0),
        ("unknown token", 1),
        ("expired", 0),
        ("after its revocation", 0),
    ] {
        assert_eq!(tile(&tried, name), count, "{name}");
    }
    assert!(tried.contains(": 1 accepted, 1 refused, 1 replays, 1 relay"), "{tried}");
    assert_eq!(tried.matches("<rect class=\"alarming\"").count(), 1);
    assert_eq!(
        tried.matches("<th scope=\"row\">2026-01-31 12:00</th><td>1</td><td>0</td><td>0</td>").count(),
        1
    );

    // An hour, to the beginning of five minutes.
    server.clock.advance(Duration::from_mins(65));
    let later = page(&server, "/").await;
    assert!(later.contains("All is well"), "{later}");
    assert_eq!(tile(&later, "replays"), 1, "the count stays");
    assert!(later.contains("<strong>replay</strong>"), "and so does the event");
}

#[tokio::test(start_paused = true)]
async fn charts_cover_the_chosen_range() {
    let server = server();
    server.handshake(&server.token()).await;
    page(&server, "/").await;
    server.clock.advance(Duration::from_hours(30));
    server.handshake(&server.token()).await;
    for (query, each, handshakes) in [
        ("", "minute of the last hour", 1),
        ("?range=6h", "5 minutes of the last 6 hours", 1),
        ("?range=24h", "15 minutes of the last 24 hours", 1),
        ("?range=7d&kind=replay", "2 hours of the last 7 days", 2),
    ] {
        let page = page(&server, &format!("/{query}")).await;
        assert!(page.contains(&format!("Handshakes, each {each}")), "{page}");
        assert!(page.contains(&format!("{handshakes} handshakes since 2026-0")), "{query}: {page}");
        assert!(page.contains("Half were answered within <strong>80 µs</strong> (p50)"), "{page}");
        assert_eq!(page.matches("<rect class=\"p99\"").count(), handshakes, "{query}");
        assert_eq!(page.matches("aria-current=\"true\"").count(), 2, "at the tables and at the charts");
    }
    let week = page(&server, "/?range=7d&kind=replay").await;
    assert!(
        week.contains("<a href=\"?kind=replay&#38;range=6h#chart-title\">6 hours</a>"),
        "the filter stays: {week}"
    );
    assert!(week.contains("type=\"hidden\" name=\"range\" value=\"7d\""), "so does the range: {week}");
}

/// The row of a tracker or a caller.
fn row<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("<tr><th scope=\"row\">{name}"))
        .unwrap_or_else(|| panic!("no {name}: {page}"));
    rest.split_once("</tr>").unwrap().0
}

#[tokio::test(start_paused = true)]
async fn page_names_the_server_of_its_numbers() {
    assert!(!page(&server(), "/").await.contains("share the store"));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
    let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::shared(&clock));
    let server = Fixture::with(Options { store: Some(store), ..Options::default() });
    server.app.tokens.join(facts("alpha")).await.unwrap();
    let shared = page(&server, "/").await;
    let (_, note) = shared.split_once("Several servers share the store.").unwrap();
    let (note, _) = note.split_once("</p>").unwrap();
    assert!(note.contains("those of alpha") && note.contains("are everybody's"), "{note}");
    for _ in 0..5 {
        let issue = post("/v1/tokens").header("host", HOST).header("content-type", "application/json");
        let body = Body::from(format!("{{\"audience\": \"{TRAC}\"}}"));
        assert_eq!(server.private(issue.body(body).unwrap()).await.status, StatusCode::CREATED);
    }
    let issued = page(&server, "/").await;
    assert!(issued.contains("All is well"), "another server may have redeemed them: {issued}");
    let summary = server.private(get("/v1/summary?by=tracker")).await.json();
    assert_eq!(
        (&summary["server"], &summary["rows"][0]["issued"]),
        (&"alpha (http://127.0.0.1:8087)".into(), &5.into()),
        "{summary}"
    );
}

#[tokio::test(start_paused = true)]
async fn record_count_grows_between_two_queries() {
    let server = server();
    for consumed in 1..=3 {
        server.handshake(&server.token()).await;
        // No time passes, so the store is not asked again.
        let page = server.private(get("/")).await.text;
        assert!(page.contains(&format!("<dd>{consumed} consumed, 0 revoked</dd>")), "{page}");
    }
    send_form(&server, &server.token(), "revoke").await;
    assert!(server.private(get("/")).await.text.contains("<dd>3 consumed, 1 revoked</dd>"));
}
