//! The table of trackers on the page, and trackers at which no login works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::StatusCode;
use countersign_core::StoreError;
use countersign_testkit::{StoreCall, StoreHook};

use super::{HOST, get, page, row, server};
use crate::fixture::{FORM, Fixture, Options, TRAC, handshake_path, hooked, post};
use crate::store_away::Away;

/// A store that answers until it is switched off.
#[derive(Debug, Default)]
struct Switch(Arc<AtomicBool>);

#[async_trait]
impl StoreHook for Switch {
    async fn before(&self, _: StoreCall) -> Result<(), StoreError> {
        if self.0.load(Ordering::SeqCst) { Err(StoreError::Busy) } else { Ok(()) }
    }
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
