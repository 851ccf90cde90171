//! The headline of the page: what is wrong, since when, and what to do about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::StatusCode;
use countersign_core::{Clock, Event, EventId, EventKind, EventStore, ManualClock, OsEntropy, StoreError};
use countersign_server::limits::MAX_EVENTS;
use countersign_store::events::MemoryEvents;
use countersign_store::memory::MemoryStore;
use countersign_testkit::{StoreCall, StoreHook};
use jiff::Timestamp;

use super::{page, row, server};
use crate::fixture::{Fixture, Options, hooked, post};
use crate::store_away::Away;

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
    let event = |kind| Event::new(EventId::generate(moved, &OsEntropy).unwrap(), moved, kind);
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
