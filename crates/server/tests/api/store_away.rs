//! A store that cannot be reached: fail closed, and say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Event, EventQuery, EventStore, StoreError};
use countersign_store::events::MemoryEvents;
use countersign_testkit::{StoreCall, StoreHook};
use jiff::Timestamp;

use crate::fixture::{Fixture, JSON, Options, handshake_path, hooked, post};

#[derive(Debug)]
pub(crate) struct Away(pub(crate) StoreError);

#[async_trait]
impl StoreHook for Away {
    async fn before(&self, _: StoreCall) -> Result<(), StoreError> {
        Err(self.0.clone())
    }
}

/// A store of events that can be taken away.
#[derive(Debug)]
pub(crate) struct AwayEvents {
    inner: Arc<MemoryEvents>,
    away: AtomicBool,
}

impl AwayEvents {
    pub(crate) fn new(inner: Arc<MemoryEvents>) -> Self {
        Self { inner, away: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn there(&self) -> Result<&MemoryEvents, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("gone fishing"));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl EventStore for AwayEvents {
    async fn append(&self, events: &[Event]) -> Result<(), StoreError> {
        self.there()?.append(events).await
    }
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.there()?.events(query).await
    }
    async fn purge_events(&self, line: Timestamp) -> Result<u64, StoreError> {
        self.there()?.purge_events(line).await
    }
    async fn close_events(&self) {}
}

fn server(error: StoreError) -> Fixture {
    Fixture::with(Options { store: Some(hooked(Away(error))), ..Options::default() })
}

#[tokio::test]
async fn handshake_is_answered_503_while_issuing_continues() {
    for (error, wait, reason) in
        [(StoreError::Busy, "1", "busy"), (StoreError::unavailable("disk full"), "5", "store-unavailable")]
    {
        let server = server(error);
        let answer = server.handshake(&server.token()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, wait));
        assert!(!answer.text.contains("disk"), "the public is not told why: {}", answer.text);
        let request =
            post(&handshake_path(&server.token())).header("accept", JSON).body(Body::empty()).unwrap();
        let problem = server.public(request).await.json();
        assert_eq!(problem["type"], format!("urn:countersign:problem:{reason}"));
        assert_eq!(
            server.handshake("nonsense").await.status,
            StatusCode::NOT_FOUND,
            "arithmetic needs no store"
        );
    }
}

/// A disk that hangs: each call waits for ever.
#[derive(Debug)]
pub(crate) struct Hangs;

#[async_trait]
impl StoreHook for Hangs {
    async fn before(&self, _: StoreCall) -> Result<(), StoreError> {
        std::future::pending().await
    }
}

/// On a clock that runs ahead whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn hanging_store_counts_as_unreachable() {
    let server = Fixture::with(Options { store: Some(hooked(Hangs)), ..Options::default() });
    let ready = Request::get("/readyz").body(Body::empty()).unwrap();
    for answer in [server.handshake(&server.token()).await, server.public(ready).await] {
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    }
    assert_eq!(server.handshake("nonsense").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn private_api_gives_the_reason() {
    let server = server(StoreError::unavailable("disk full"));
    let look = Request::get(format!("/v1/tokens/{}", server.token())).body(Body::empty()).unwrap();
    let answer = server.private(look).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["detail"], "the store is not usable: disk full");
    for path in ["/v1/store/purge", "/v1/store/fence"] {
        let answer = server.private(post(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let stats = server.private(Request::get("/v1/store").body(Body::empty()).unwrap()).await;
    assert_eq!(stats.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn outage_changes_readiness_but_not_liveness() {
    let server = server(StoreError::unavailable("disk full"));
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    for answer in [server.public(get("/readyz")).await, server.private(get("/readyz")).await] {
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    }
    for answer in [server.public(get("/healthz")).await, server.private(get("/healthz")).await] {
        assert_eq!(answer.status, StatusCode::OK);
    }
}
