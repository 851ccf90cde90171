//! The page for operators, as a browser gets it; `tests/page/run` looks at it in one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{
    Clock, Event, EventId, EventKind, EventQuery, EventStore, ManualClock, OsEntropy, StoreError, TokenStore,
};
use countersign_server::limits::{MAX_EVENTS, MAX_EXPORTS, MAX_VIEWERS};
use countersign_store::events::MemoryEvents;
use countersign_store::memory::MemoryStore;
use countersign_testkit::{StoreCall, StoreHook, seen};
use data_encoding::BASE64;
use http_body_util::BodyExt;
use jiff::Timestamp;

use crate::fixture::{Answer, FORM, Fixture, Options, TRAC, handshake_path, hooked, post};
use crate::nodes::facts;
use crate::store_away::Away;

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

/// A store that answers until it is switched off.
#[derive(Debug, Default)]
struct Switch(Arc<AtomicBool>);

#[async_trait]
impl StoreHook for Switch {
    async fn before(&self, _: StoreCall) -> Result<(), StoreError> {
        if self.0.load(Ordering::SeqCst) { Err(StoreError::Busy) } else { Ok(()) }
    }
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
async fn events_are_filtered_and_paged() {
    let server = server();
    let token = server.token();
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(1));
        server.handshake(&token).await;
    }
    server.handshake("cs1nonsense").await;
    let usual = page(&server, "/").await;
    assert_eq!(usual.matches("<strong>replay</strong>").count(), 2);
    assert!(usual.contains("<strong>refused: unknown</strong>"));
    assert!(!usual.contains("<strong>consumed</strong>"), "what is routine hides nothing else: {usual}");
    assert!(usual.contains("Filter: every kind but issued and consumed"), "{usual}");
    let consumed = page(&server, "/?kind=consumed").await;
    assert_eq!(consumed.matches("</time></a> <strong>consumed</strong>").count(), 1);
    let replays = page(&server, "/?kind=replay&limit=1").await;
    assert_eq!(replays.matches("</time></a> <strong>").count(), 1);
    assert!(replays.contains("value=\"replay\" checked"), "{replays}");
    let (_, rest) = replays.split_once("<a href=\"?kind=replay&#38;limit=1&#38;after=").unwrap();
    let older = format!("/?kind=replay&limit=1&after={}", rest.split_once('#').unwrap().0);
    let older = page(&server, &older).await;
    assert_eq!(older.matches("<strong>replay</strong>").count(), 1);
    assert!(older.contains("<a href=\"?kind=replay&#38;limit=1#events-title\">Newest</a>"), "{older}");
    for (wrong, says) in
        [("kind=other", "no such kind"), ("id=cs1secret", "16 hexadecimal"), ("since=x", "in UTC")]
    {
        let answer = server.private(get(&format!("/?{wrong}"))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(
            answer.text.contains(says) && answer.text.contains("All is well")
                || answer.text.contains("replays")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn moved_fence_is_shown_for_an_hour() {
    let server = server();
    server.private(post("/v1/store/fence").body(Body::empty()).unwrap()).await;
    let moved = page(&server, "/").await;
    assert!(moved.contains("<p class=\"headline\">1 move of the fence in the last hour</p>"), "{moved}");
    assert!(moved.contains("href=\"./page/icon/worth-a-look\""), "{moved}");
    assert!(moved.contains("<a href=\"?kind=fence-moved&#38;within=1h#events-title\">"), "{moved}");
    server.clock.advance(Duration::from_hours(2));
    assert!(page(&server, "/").await.contains("All is well"));
}

#[tokio::test(start_paused = true)]
async fn guesses_do_not_hide_a_moved_fence() {
    let kept = Arc::new(MemoryEvents::default());
    let moved: Timestamp = "2026-01-31T11:30:00Z".parse().unwrap();
    let event = |kind| Event {
        id: EventId::generate(moved, &OsEntropy).unwrap(),
        at: moved,
        kind,
        token: None,
        audience: None,
        peer: None,
        user_agent: None,
        request: None,
        caller: None,
        count: 1,
    };
    let guess = || Event { at: moved + Duration::from_secs(1), ..event(EventKind::CredentialRejected) };
    kept.append(&[event(EventKind::FenceMoved { fence: moved })]).await.unwrap();
    kept.append(&(1..MAX_EVENTS).map(|_| guess()).collect::<Vec<_>>()).await.unwrap();
    let server = Fixture::with(Options { events: Some(kept.clone()), ..Options::default() });
    let few = page(&server, "/").await;
    assert!(few.contains("1 move of the fence in the last hour"), "{few}");
    assert!(few.contains(">999 wrong credentials in the last hour"), "{few}");
    kept.append(&[guess(), guess()]).await.unwrap();
    let many = page(&server, "/").await;
    assert!(many.contains("1 move of the fence in the last hour"), "{many}");
    assert!(many.contains("At least 1\u{202f}000 wrong credentials in the last hour"), "{many}");
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
async fn tracker_numbers_link_to_their_events() {
    let server = server();
    let token = server.token_for(TRAC);
    let shown = |token: &str| {
        let body = Body::from(format!("audience={TRAC}"));
        post(&handshake_path(token)).header("content-type", FORM).body(body).unwrap()
    };
    for _ in 0..3 {
        server.public(shown(&token)).await;
    }
    let unbound = server.token();
    for _ in 0..2 {
        server.handshake(&unbound).await;
    }
    let page_now = page(&server, "/").await;
    let trac = row(&page_now, TRAC);
    assert!(trac.contains("2026-01-31 12:00:00</time>"), "the last good one: {trac}");
    let (_, rest) = trac.split_once("<td class=\"alarming\"><a href=\"").unwrap();
    let link = rest.split_once("#events-title").unwrap().0.replace("&#38;", "&");
    assert_eq!(link, "?kind=replay&tracker=https%3A%2F%2Ftrac.example.org%2F&since=2026-01-31T11%3A59%3A59");
    assert!(rest.contains("aria-label=\"2 replays, https://trac.example.org/: see the events\""), "{rest}");
    let there = page(&server, &format!("/{link}")).await;
    assert_eq!(there.matches("<strong>replay</strong>").count(), 2, "{there}");
    assert!(
        there.contains("Filter: replay, since 2026-01-31T11:59:59, for https://trac.example.org/"),
        "{there}"
    );
    assert!(
        page_now.contains("Tokens for https://trac.example.org/ (2), any tracker (1)."),
        "the verdict says whose tokens: {page_now}"
    );
    assert!(!page_now.contains("Issued for default"), "{page_now}");
    assert!(row(&page_now, "default").contains("the caller without a name"));
}

#[tokio::test(start_paused = true)]
async fn headline_links_to_every_event_it_counts() {
    let server = server();
    server.clock.advance(Duration::from_hours(2));
    page(&server, "/").await;
    let token = server.token();
    for _ in 0..2 {
        server.handshake(&token).await;
    }
    page(&server, "/").await;
    server.clock.advance(Duration::from_mins(62));
    let tried = page(&server, "/").await;
    assert!(tried.contains("<p class=\"headline\">1 replay in the last hour</p>"), "{tried}");
    let (before, _) = tried.split_once("\">See the replay.</a>").unwrap();
    let link = before.rsplit_once("<a href=\"").unwrap().1.replace("&#38;", "&");
    let there = page(&server, &format!("/{}", link.trim_end_matches("#events-title"))).await;
    assert_eq!(there.matches("<strong>replay</strong>").count(), 1, "{link}: {there}");
}

#[tokio::test(start_paused = true)]
async fn unanswered_handshakes_link_to_no_events() {
    let is_away = Switch::default();
    let away = Arc::clone(&is_away.0);
    let server = Fixture::with(Options { store: Some(hooked(is_away)), ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).write());
    let token = server.token_for(TRAC);
    let shown = |tracker: &str| {
        let body = Body::from(format!("audience={tracker}"));
        post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()
    };
    away.store(true, Ordering::SeqCst);
    assert_eq!(server.public(shown(TRAC)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let page_now = page(&server, "/").await;
    let trac = row(&page_now, TRAC).to_owned();
    assert!(trac.contains("not answered 1") && !trac.contains("<a href"), "there are no such events: {trac}");
    server.public(post(&handshake_path(&token)).body(Body::empty()).unwrap()).await;
    let page_now = page(&server, "/").await;
    let trac = row(&page_now, TRAC).to_owned();
    assert!(trac.contains("audience-missing 1, not answered 1") && trac.contains("kind=refused"), "{trac}");
}

#[tokio::test(start_paused = true)]
async fn failing_tracker_is_the_headline() {
    let server = server();
    let tokens: Vec<_> = (0..5).map(|_| server.token_for(TRAC)).collect();
    for token in tokens {
        server.handshake(&token).await;
    }
    let tried = page(&server, "/").await;
    assert!(
        tried.contains("<p class=\"headline\">No login at https://trac.example.org/ in the last hour: 5 handshakes refused</p>"),
        "{tried}"
    );
    assert!(tried.contains("Set the base URL in its plugin"), "what to do: {tried}");
    assert!(
        tried.contains(
            "?kind=refused&#38;tracker=https%3A%2F%2Ftrac.example.org%2F&#38;since=2026-01-31T11%3A59%3A59#events-title"
        )
    );
    let token = server.token_for(TRAC);
    let body = Body::from(format!("audience={TRAC}"));
    server.public(post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()).await;
    assert!(page(&server, "/").await.contains("All is well"), "one login works");

    let silent = "https://silent.example/";
    issue_five(&server, silent).await;
    assert!(page(&server, "/").await.contains("All is well"), "they have only just been issued");
    server.clock.advance(Duration::from_mins(10));
    let asked = page(&server, "/").await;
    let says = format!("No login at {silent} in the last hour: 5 tokens issued and none shown");
    assert!(asked.contains(&says) && asked.contains("the tracker does not ask this server"), "{asked}");
}

/// Issues five tokens for a tracker.
async fn issue_five(server: &Fixture, tracker: &str) {
    for _ in 0..5 {
        let issue = post("/v1/tokens").header("host", HOST).header("content-type", "application/json");
        let body = Body::from(format!("{{\"audience\": \"{tracker}\"}}"));
        assert_eq!(server.private(issue.body(body).unwrap()).await.status, StatusCode::CREATED);
    }
}

#[tokio::test(start_paused = true)]
async fn tracker_that_once_worked_is_named_first() {
    let server = server();
    let token = server.token_for(TRAC);
    let body = Body::from(format!("audience={TRAC}"));
    server.public(post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()).await;
    page(&server, "/").await;
    server.clock.advance(Duration::from_hours(2));
    for made_up in 0..4 {
        issue_five(&server, &format!("https://a{made_up}.example/")).await;
    }
    issue_five(&server, TRAC).await;
    page(&server, "/").await;
    server.clock.advance(Duration::from_mins(10));
    let page_now = page(&server, "/").await;
    assert!(page_now.contains(&format!("<p class=\"headline\">No login at {TRAC}")), "{page_now}");
    assert_eq!(page_now.matches("<strong>No login at https://").count(), 3, "{page_now}");
    assert!(page_now.contains("No login at 2 more trackers in the last hour"), "{page_now}");
}

#[tokio::test(start_paused = true)]
async fn tracker_with_logins_just_before_the_hour_is_not_called_silent() {
    let server = server();
    issue_five(&server, TRAC).await;
    for _ in 0..5 {
        let token = server.token_for(TRAC);
        let body = Body::from(format!("audience={TRAC}"));
        server.public(post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()).await;
    }
    page(&server, "/").await;
    // They are out of the hour, but not out of the one that ended ten minutes ago.
    server.clock.advance(Duration::from_mins(66));
    issue_five(&server, TRAC).await;
    let page_now = page(&server, "/").await;
    assert!(page_now.contains("All is well"), "they have only just been issued: {page_now}");
}

#[tokio::test(start_paused = true)]
async fn headline_counts_what_the_table_does() {
    let server = server();
    let token = server.token();
    server.handshake(&token).await;
    server.handshake(&token).await;
    page(&server, "/").await;
    server.clock.advance(Duration::from_mins(62));
    let page_now = page(&server, "/").await;
    assert!(page_now.contains("<p class=\"headline\">1 replay in the last hour</p>"), "{page_now}");
    assert!(row(&page_now, "unbound").contains("1 replays, unbound"), "{page_now}");
}

#[tokio::test(start_paused = true)]
async fn tracker_that_is_answered_503_is_not_called_silent() {
    let away = hooked(Away(StoreError::Busy));
    let server = Fixture::with(Options { store: Some(away), ..Options::default() });
    issue_five(&server, TRAC).await;
    let body = Body::from(format!("audience={TRAC}"));
    let path = handshake_path(&server.token_for(TRAC));
    let answer = server.public(post(&path).header("content-type", FORM).body(body).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    server.private(get("/")).await;
    server.clock.advance(Duration::from_mins(10));
    let page_now = server.private(get("/")).await.text;
    assert!(!page_now.contains("No login at"), "{page_now}");
    assert!(row(&page_now, TRAC).contains("not answered 1"), "{page_now}");
}

#[tokio::test(start_paused = true)]
async fn tracker_that_looks_like_a_token_has_no_links() {
    let server = server();
    let tracker = format!("https://trac.example.org/cs1{}", "a".repeat(30));
    let token = server.token_for(&tracker);
    for _ in 0..2 {
        let body = Body::from(format!("audience={tracker}"));
        server.public(post(&handshake_path(&token)).header("content-type", FORM).body(body).unwrap()).await;
    }
    let page_now = page(&server, "/").await;
    let row = row(&page_now, &tracker);
    assert!(row.contains("<td class=\"alarming\">1"), "{row}");
    assert!(!row.contains("href="), "it would lead to an error: {row}");
    assert!(!page_now.contains("tracker=https"), "also among the events: {page_now}");
}

#[tokio::test(start_paused = true)]
async fn rare_event_is_found_among_many_redemptions() {
    let server = server();
    let rare = server.token();
    server.handshake(&rare).await;
    server.clock.advance(Duration::from_millis(1));
    server.handshake(&rare).await;
    for _ in 0..400 {
        server.clock.advance(Duration::from_millis(3));
        server.handshake(&server.token()).await;
    }
    let id = server.look(&rare).await["id"].as_str().unwrap().to_owned();
    let usual = page(&server, "/").await;
    assert_eq!(usual.matches("</time></a> <strong>").count(), 1, "{usual}");
    let event = usual.split_once("<dt>event</dt> <dd>").unwrap().1.split_once('<').unwrap().0.to_owned();
    for (query, kinds) in [
        (format!("id={id}"), vec!["replay", "consumed"]),
        (format!("id={event}"), vec!["replay"]),
        ("kind=replay&peer=192.0.2.7".to_owned(), vec!["replay"]),
        ("kind=replay&peer=192.0.2.8".to_owned(), vec![]),
        ("kind=consumed&until=2026-01-31T12:00:00.003Z".to_owned(), vec!["consumed"]),
        ("text=nothing".to_owned(), vec![]),
    ] {
        let found = page(&server, &format!("/?{query}")).await;
        let shown: Vec<_> =
            found.split("</time></a> <strong>").skip(1).map(|rest| rest.split_once('<').unwrap().0).collect();
        assert_eq!(shown, kinds, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn export_contains_what_the_filter_selects() {
    let server = server();
    let used = server.token();
    for agent in ["=cmd|' /C calc'!A0, \"x\"", "curl/8"] {
        server.handshake(&used).await;
        let request = post(&handshake_path(&used)).header("user-agent", agent).body(Body::empty()).unwrap();
        server.public(request).await;
    }
    for _ in 0..1_200 {
        server.handshake(&server.token()).await;
    }
    page(&server, "/").await;
    let export = async |path: &str| {
        let answer = server.private(get(path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let name = path.split('?').next().unwrap().rsplit('.').next().unwrap();
        let disposition = format!("attachment; filename=\"countersign-events.{name}\"");
        assert_eq!(answer.header("content-disposition"), disposition);
        answer.text
    };
    let lines = export("/page/events.jsonl?kind=consumed,replay").await;
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 1_201 + 3, "more than a page of the list");
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len(), "nothing twice");

    let table = export("/page/events.csv?text=calc").await;
    let rows: Vec<_> = table.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].starts_with("at,kind,reason,count,id,token,peer,"), "{table}");
    assert!(
        rows[1].contains(",replay,,1,") && rows[1].contains("\"'=cmd|' /C calc'!A0, \"\"x\"\"\""),
        "{table}"
    );
    assert_eq!(server.private(get("/page/events.csv?peer=me")).await.status, StatusCode::BAD_REQUEST);
}

/// A disk of events that hangs: whoever reads them waits for ever.
#[derive(Debug)]
struct HungEvents;

#[async_trait]
impl EventStore for HungEvents {
    async fn append(&self, _: &[Event]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn events(&self, _: &EventQuery) -> Result<Vec<Event>, StoreError> {
        std::future::pending().await
    }
    async fn purge_events(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn close_events(&self) {}
}

#[tokio::test(start_paused = true)]
async fn hung_exports_are_aborted_and_free_their_place() {
    let server = Fixture::with(Options { events: Some(Arc::new(HungEvents)), ..Options::default() });
    let open = async |path: &str| server.private_response(get(path)).await;
    let mut exports = Vec::new();
    for _ in 0..MAX_EXPORTS {
        let export = open("/page/events.csv").await;
        assert_eq!(export.status(), StatusCode::OK);
        exports.push(export.into_body());
    }
    assert_eq!(open("/page/events.jsonl").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    // The page has places of its own.
    for _ in 0..MAX_VIEWERS {
        assert_eq!(open("/page/live").await.status(), StatusCode::OK);
    }
    for export in exports {
        let broken = tokio::time::timeout(Duration::from_mins(1), export.collect()).await;
        assert!(broken.expect("it breaks off").is_err(), "nobody takes a part for the whole");
    }
    assert_eq!(open("/page/events.jsonl").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn stopping_aborts_a_running_export() {
    let server = Fixture::with(Options { events: Some(Arc::new(HungEvents)), ..Options::default() });
    let export = server.private_response(get("/page/events.csv")).await.into_body();
    let began = tokio::time::Instant::now();
    let (broken, ()) = tokio::join!(export.collect(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.app.events.end_following();
    });
    assert!(broken.is_err());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn untrusted_text_is_escaped() {
    let server = server();
    let token = server.token_for(TRAC);
    let markup = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";
    let request = post(&handshake_path(&token))
        .header("content-type", FORM)
        .header("user-agent", markup)
        .body(Body::from("audience=https://evil.example/%3Cscript%3Ealert(3)%3C/script%3E\"'"))
        .unwrap();
    assert_eq!(server.public(request).await.status, StatusCode::FORBIDDEN);
    let page = page(&server, "/").await;
    assert!(page.contains("<strong>relay</strong>"), "{page}");
    assert!(
        page.contains("&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;&#60;img src=x"),
        "{page}"
    );
    assert!(!page.contains("<img") && !page.contains("alert(1)</script>") && !page.contains("\"'"), "{page}");
    // The page's own script is the only one, and none is inline.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<script src=\"./page/script.js\" defer></script>"));
    assert!(!page.contains("style=") && !page.contains("<style"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn token_is_looked_up_and_revoked_but_never_displayed() {
    let server = server();
    let bound = send_form(&server, &server.token_for(TRAC), "look").await;
    assert!(bound.text.contains(TRAC), "{bound:?}");
    let token = server.token();
    let looked = send_form(&server, &token, "look").await;
    assert_eq!(looked.status, StatusCode::OK);
    let id = server.look(&token).await["id"].as_str().unwrap().to_owned();
    assert!(
        looked.text.contains("<dd class=\"status\">live</dd>") && looked.text.contains(&id),
        "{looked:?}"
    );
    assert!(looked.text.contains("any tracker"));

    let revoked = send_form(&server, &token, "revoke").await;
    assert!(revoked.text.contains("It is revoked"), "{revoked:?}");
    assert!(revoked.text.contains("<dd class=\"status\">revoked</dd>"));
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    let again = send_form(&server, &token, "revoke").await;
    assert!(again.text.contains("nothing to revoke"), "{again:?}");
    assert_eq!(tile(&again.text, "revoked"), 1);

    let used = server.token();
    server.handshake(&used).await;
    let consumed = send_form(&server, &used, "look").await;
    assert!(consumed.text.contains("by 192.0.2.7"), "{consumed:?}");

    let forged = format!("{token}x");
    let unknown = send_form(&server, &forged, "look").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    for (answer, token) in
        [(looked, &token), (revoked, &token), (again, &token), (consumed, &used), (unknown, &forged)]
    {
        assert!(!answer.text.contains(&token[12..28]), "{answer:?}");
    }
    let redirected = server.private(get("/page/token")).await;
    assert_eq!((redirected.status, redirected.header("location")), (StatusCode::SEE_OTHER, "../"));
    let linked = server.private(get("/page/token?kind=replay")).await;
    assert_eq!((linked.status, linked.header("location")), (StatusCode::SEE_OTHER, "../?kind=replay"));
}

#[tokio::test(start_paused = true)]
async fn token_used_as_filter_is_not_quoted() {
    let server = server();
    let token = server.token();
    for query in [
        format!("id={token}"),
        format!("text={token}"),
        format!("peer={token}&range=6h"),
        format!("{token}=1"),
    ] {
        for path in ["/", "/page/events.csv"] {
            let answer = server.private(get(&format!("{path}?{query}"))).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}?{query}");
            assert!(!answer.text.contains(&token[..28]), "{answer:?}");
        }
    }
    let answer = server.private(get(&format!("/?text={token}&peer=192.0.2.7"))).await;
    assert!(answer.text.contains("text has a token in it"), "{answer:?}");
    assert!(answer.text.contains("value=\"192.0.2.7\""), "the other fields stay: {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn page_works_below_a_path_of_a_proxy() {
    let server = server();
    let answered = send_form(&server, &server.token(), "look").await.text;
    for (html, at) in [(page(&server, "/").await, "/"), (answered, "/page/token")] {
        let here = format!("http://proxy.example/countersign{at}").parse::<url::Url>().unwrap();
        let mut linked = std::collections::BTreeSet::new();
        for attribute in [" href=\"", " src=\"", " action=\""] {
            for rest in html.split(attribute).skip(1) {
                let link = rest.split('"').next().unwrap();
                let target = here.join(link).unwrap();
                let path = target.path().strip_prefix("/countersign/");
                linked.insert(path.unwrap_or_else(|| panic!("{at}: {link} leads to {target}")).to_owned());
            }
        }
        for path in [
            "",
            "page/icon/good",
            "page/events.csv",
            "page/events.jsonl",
            "page/style.css",
            "page/script.js",
            "page/token",
            "metrics",
            "openapi.json",
        ] {
            assert!(linked.contains(path), "{at}: {path} is not among {linked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handshake_url_is_accepted_as_token() {
    let server = server();
    let token = server.token();
    let id = server.look(&token).await["id"].as_str().unwrap().to_owned();
    let path = handshake_path(&token);
    for pasted in [
        format!("https://lp.example.org{path}"),
        format!("  https://lp.example.org/prefix{path}/ "),
        format!("https://lp.example.org/tokens/{token}/%2Bbugtracker-handshake"),
        path.clone(),
        format!("{token}/+bugtracker-handshake"),
    ] {
        let typed: String = form_urlencoded::byte_serialize(pasted.as_bytes()).collect();
        let looked = send_form(&server, &typed, "look").await;
        assert!(looked.text.contains(&id), "{pasted}: {looked:?}");
        assert!(!looked.text.contains(&token[12..28]), "{looked:?}");
    }
    for pasted in ["/+bugtracker-handshake", "https://lp.example.org/token/+bugtracker-handshake", "https://"]
    {
        let typed: String = form_urlencoded::byte_serialize(pasted.as_bytes()).collect();
        assert_eq!(send_form(&server, &typed, "look").await.status, StatusCode::NOT_FOUND, "{pasted}");
    }
    let typed: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
    assert!(send_form(&server, &typed, "revoke").await.text.contains("It is revoked"));
}

/// A store that forgets nothing while it is told not to.
#[derive(Debug)]
struct Hoarder(AtomicBool);

#[async_trait]
impl StoreHook for Hoarder {
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        match call {
            StoreCall::Purge if self.0.load(Ordering::SeqCst) => Err(StoreError::unavailable("it is full")),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failing_purges_are_shown_until_one_succeeds() {
    let hoarder = hooked(Hoarder(AtomicBool::new(true)));
    let server = Fixture::with(Options { store: Some(hoarder.clone()), ..Options::default() });
    let purge = async || server.private(post("/v1/store/purge").body(Body::empty()).unwrap()).await.status;
    assert_eq!(purge().await, StatusCode::SERVICE_UNAVAILABLE);
    let one = page(&server, "/").await;
    assert!(one.contains("<p class=\"headline\">1 purge failed, the last one too</p>"), "{one}");
    assert!(one.contains("href=\"./page/icon/worth-a-look\""), "{one}");
    assert!(one.contains("the store grows until one succeeds"), "{one}");
    assert_eq!(purge().await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page(&server, "/").await.contains("2 purges failed"));
    hoarder.0.store(false, Ordering::SeqCst);
    assert_eq!(purge().await, StatusCode::OK);
    assert!(page(&server, "/").await.contains("All is well"));
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

#[tokio::test]
async fn foreign_pages_cannot_use_it() {
    let server = Fixture::new();
    let token = server.token();
    let forged = |host: &str, origin: Option<&str>, site: Option<&str>| {
        let mut request = post("/page/token").header("host", host).header("content-type", FORM);
        for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Body::from(format!("token={token}&do=revoke"))).unwrap()
    };
    for (host, origin, site) in [
        (HOST, Some("https://evil.example"), Some("cross-site")),
        (HOST, Some("null"), None),
        (HOST, Some("http://127.0.0.1:9999"), Some("same-site")),
        (HOST, Some("http://localhost:8087"), None),
        (HOST, None, None),
        (HOST, Some(ORIGIN), Some("cross-site")),
        ("evil.example:8087", Some("http://evil.example:8087"), Some("same-origin")),
    ] {
        let answer = server.private(forged(host, origin, site)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{host} {origin:?} {site:?}");
    }
    assert_eq!(server.look(&token).await["status"], "live");
    // A name that points here is nobody's way to read, either; neither the page nor the API.
    for path in ["/", "/page/live", "/v1/events", "/v1/keys", "/metrics", "/bugs"] {
        let rebound = Request::get(path).header("host", "evil.example:8087").body(Body::empty()).unwrap();
        let answer = server.private(rebound).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(answer.text.contains("foreign-host"), "{answer:?}");
    }
    for host in ["localhost:8087", "127.0.0.1", "[::1]:8087", "LOCALHOST"] {
        let request = Request::get("/").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(server.private(request).await.status, StatusCode::OK, "{host}");
    }
    let image = Request::get("/page/style.css").header("host", HOST).header("sec-fetch-site", "cross-site");
    let image = image.header("sec-fetch-mode", "no-cors").body(Body::empty()).unwrap();
    assert_eq!(server.private(image).await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.private(forged(HOST, Some(ORIGIN), Some("same-origin"))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_page_answer_restricts_the_browser() {
    let server = Fixture::new();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/script.js", "text/javascript; charset=utf-8"),
        ("/page/icon/good", "image/svg+xml"),
        ("/page/icon/worth-a-look", "image/svg+xml"),
        ("/page/icon/bad", "image/svg+xml"),
        ("/page/icon/lost", "image/svg+xml"),
    ] {
        let answer = server.private(get(path)).await;
        // The icon of a server that is gone has to be there when the server is not.
        let kept = if path.starts_with("/page/icon/") { "private, max-age=86400" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), kept, "{path}");
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, media_type), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"));
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn browser_sends_secret_as_basic_password() {
    let server = Fixture::with(Options { bearer: Some("s3cret-0f9e8d7c6b5a4321"), ..Options::default() });
    let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
    let with = |path: &str, shown: &str| {
        let request = Request::get(path).header("host", "tokens.example.org").header("authorization", shown);
        request.body(Body::empty()).unwrap()
    };
    for path in [
        "/",
        "/page/live",
        "/page/events.csv",
        "/page/events.jsonl",
        "/page/token",
        "/page/style.css",
        "/page/script.js",
    ] {
        let answer = server.private(get(path)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"countersign\", charset=\"UTF-8\"");
        assert_eq!(server.private(with(path, &basic("me:s3cre"))).await.status, StatusCode::UNAUTHORIZED);
    }
    for shown in [
        &basic("me:s3cret-0f9e8d7c6b5a4321"),
        &basic(":s3cret-0f9e8d7c6b5a4321"),
        "Bearer s3cret-0f9e8d7c6b5a4321",
    ] {
        assert_eq!(server.private(with("/", shown)).await.status, StatusCode::OK, "{shown}");
    }
    // A browser sends it along with whatever it is made to ask for, so that the API takes none of it.
    assert_eq!(
        server.private(with("/v1/keys", &basic("me:s3cret-0f9e8d7c6b5a4321"))).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(start_paused = true)]
async fn open_page_receives_only_changes() {
    let server = Fixture::new();
    let live = || Request::get("/page/live?kind=replay").body(Body::empty()).unwrap();
    let response = server.private_response(live()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        loop {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let text = String::from_utf8(frame.to_vec()).unwrap();
            if !text.starts_with(':') && !text.starts_with("event: alive\n") {
                return text;
            }
        }
    };
    for part in ["verdict", "counts", "parties", "chart", "minutes", "events", "keys", "store"] {
        let sent = next().await;
        assert!(sent.starts_with(&format!("event: {part}\ndata: ")), "{sent}");
    }
    assert_eq!(server.app.events.counts().followers, 0, "no handshake makes an event for its sake");
    server.clock.advance(Duration::from_secs(1));
    let counts = next().await;
    assert!(counts.starts_with("event: counts\n"), "only the time has changed: {counts}");
    let token = server.token();
    server.handshake(&token).await;
    server.handshake(&token).await;
    let verdict = next().await;
    assert!(verdict.starts_with("event: verdict\n") && verdict.contains("1 replay"), "{verdict}");

    let mut others = Vec::new();
    for _ in 1..MAX_VIEWERS {
        others.push(server.private_response(live()).await);
    }
    assert_eq!(server.private_response(live()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    others.pop();
    assert_eq!(server.private_response(live()).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn idle_page_receives_keepalives() {
    let server = Fixture::new();
    let live = Request::get("/page/live").body(Body::empty()).unwrap();
    let mut body = server.private_response(live).await.into_body();
    let mut told = 0;
    let began = tokio::time::Instant::now();
    // The clock stands, so that no piece changes.
    while told < 10 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        told += u64::from(frame.starts_with(b"event: alive\n"));
    }
    assert!(began.elapsed() <= Duration::from_secs(told * 5), "{:?}", began.elapsed());
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

/// Where the fence is ahead of the clock, tokens of other servers are still redeemed.
#[tokio::test(start_paused = true)]
async fn page_says_that_only_issuing_stops() {
    let server = server();
    let line = server.clock.now() + Duration::from_hours(1);
    server.app.tokens.store().move_fence(line).await.unwrap();
    server.app.tokens.keep_time().await.unwrap();
    let behind = page(&server, "/").await;
    assert!(behind.contains("<p class=\"headline\">No token can be issued</p>"), "{behind}");
    assert!(behind.contains("this machine&#39;s clock is behind the store"), "it says why: {behind}");
    assert!(behind.contains("set it right, and keep it right"), "and what to do: {behind}");
    assert!(behind.contains("Handshakes are answered, and redeem"), "{behind}");
    assert!(!behind.contains("503"), "{behind}");
}

#[tokio::test(start_paused = true)]
async fn page_says_that_a_wrong_clock_stops_everything() {
    let theirs = Arc::new(ManualClock::at("2026-01-31T13:00:00Z".parse().unwrap()));
    let theirs: Arc<dyn Clock> = theirs;
    let store = Arc::new(MemoryStore::shared(&theirs));
    let server = Fixture::with(Options { store: Some(store), ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).write());
    server.app.tokens.keep_time().await.unwrap();
    let apart = page(&server, "/").await;
    assert!(apart.contains("<p class=\"headline\">No token can be issued or redeemed</p>"), "{apart}");
    assert!(apart.contains("Handshakes are answered 503 until the clock is right"), "{apart}");
}

#[tokio::test(start_paused = true)]
async fn page_headline_is_the_unreachable_store() {
    let away = hooked(Away(StoreError::unavailable("the disk is full")));
    let server = Fixture::with(Options { store: Some(away), ..Options::default() });
    server.handshake(&server.token()).await;
    let page = page(&server, "/").await;
    assert!(page.contains("<p class=\"headline\">No token can be redeemed</p>"), "{page}");
    assert!(page.contains("1 handshake could not be answered in the last 5 minutes (503)"), "{page}");
    assert!(page.contains("The events cannot be read."), "{page}");
    assert!(page.contains("the disk is full"), "it is for the operator: {page}");
}
