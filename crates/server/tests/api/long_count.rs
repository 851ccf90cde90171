//! A store with so many records that counting them takes longer than a request may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::StatusCode;
use countersign_core::{Clock, StoreError};
use countersign_testkit::{StoreCall, StoreHook};
use tokio::sync::Semaphore;

use crate::fixture::{Fixture, Options, hooked, post};
use crate::page::{get, page};

/// A store whose records take long to count.
#[derive(Debug)]
struct LongCount {
    counts: AtomicUsize,
    may_end: Semaphore,
}

#[async_trait]
impl StoreHook for LongCount {
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        if call == StoreCall::Stats {
            self.counts.fetch_add(1, Ordering::Relaxed);
            self.may_end.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}

/// A hundred million records take longer to count than a page waits.
#[tokio::test(start_paused = true)]
async fn long_count_goes_on_from_page_to_page() {
    let long = hooked(LongCount { counts: AtomicUsize::new(0), may_end: Semaphore::new(0) });
    let server = Fixture::with(Options { store: Some(Arc::clone(&long) as _), ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).write());
    let counts = || long.counts.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert!(!page(&server, "/").await.contains("0 consumed, 0 revoked"));
        server.clock.advance(Duration::from_secs(10));
        assert_eq!(counts(), 1, "it is not begun again");
    }
    long.may_end.add_permits(1);
    assert!(page(&server, "/").await.contains("0 consumed, 0 revoked"));
    server.handshake(&server.token()).await;
    server.clock.advance(Duration::from_mins(14));
    assert!(page(&server, "/").await.contains("1 consumed, 0 revoked"), "with what was added since");
    assert_eq!(counts(), 1, "it took half a minute, so it holds for long");
    server.clock.advance(Duration::from_mins(14));
    assert!(page(&server, "/").await.contains("1 consumed, 0 revoked"), "the last one is shown meanwhile");
    assert_eq!(counts(), 2);
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_long_count() {
    let long = hooked(LongCount { counts: AtomicUsize::new(0), may_end: Semaphore::new(0) });
    let server = Fixture::with(Options { store: Some(Arc::clone(&long) as _), ..Options::default() });
    let began = server.clock.now();
    let ask = async || server.private(get("/v1/store")).await;
    for _ in 0..3 {
        let early = ask().await;
        assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(early.text.contains("still being counted; ask again"), "{}", early.text);
    }
    long.may_end.add_permits(1);
    assert_eq!(ask().await.json()["consumed"], 0);
    server.handshake(&server.token()).await;
    assert_eq!(ask().await.json()["consumed"], 1);
    server.clock.advance(Duration::from_hours(30));
    let purged = server.private(post("/v1/store/purge").body(Body::empty()).unwrap()).await;
    assert_eq!(purged.json()["purged"], 1);
    server.clock.set(began);
    assert_eq!(ask().await.json()["consumed"], 0, "without what was purged since");
    assert_eq!(long.counts.load(Ordering::Relaxed), 1);
}
