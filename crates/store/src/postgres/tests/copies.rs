//! Copies to and from a database, and nodes that go on running on one that was handed over.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, End, OsEntropy, StoreError, TokenStore, after};
use countersign_test_postgres::Place;
use tempfile::TempDir;

use super::super::PostgresCopy;
use super::{World, consume, options, try_open, url};
use crate::OpenError;
use crate::contract::{self, CopyPlace};
use crate::copy::{CopyEnd, CopyId, CopyState, Record};
use crate::sqlite::{SqliteCopy, SqliteStore};

struct InPostgres(Place);

impl InPostgres {
    fn new() -> Self {
        Self(Place::new())
    }
}

async fn own(place: &Place, clock: Arc<dyn Clock>) -> PostgresCopy {
    let (url, options) = (url(place.url()), options(place.schema()));
    PostgresCopy::owning(&url, &options, clock, Arc::new(OsEntropy), true).await.unwrap()
}

#[async_trait]
impl CopyPlace for InPostgres {
    fn name(&self) -> String {
        PostgresCopy::name(&url(self.0.url()), &options(self.0.schema()))
    }

    async fn end(&self, clock: Arc<dyn Clock>) -> Arc<dyn CopyEnd> {
        Arc::new(own(&self.0, clock).await)
    }

    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(try_open(&self.0, clock).await?))
    }
}

struct InFile(TempDir);

impl InFile {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("some.db")
    }
}

#[async_trait]
impl CopyPlace for InFile {
    fn name(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    async fn end(&self, clock: Arc<dyn Clock>) -> Arc<dyn CopyEnd> {
        Arc::new(SqliteCopy::owning(&self.path(), clock, true).await.unwrap())
    }

    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(SqliteStore::open(&self.path(), clock).await?))
    }
}

#[tokio::test]
async fn a_copy_is_what_the_source_was() {
    contract::a_copy_is_what_the_source_was(&InPostgres::new(), &InPostgres::new()).await;
    contract::a_copy_is_what_the_source_was(&InFile::new(), &InPostgres::new()).await;
    contract::a_copy_is_what_the_source_was(&InPostgres::new(), &InFile::new()).await;
}

#[tokio::test]
async fn a_copy_comes_back() {
    contract::a_copy_comes_back(&InPostgres::new(), &InPostgres::new()).await;
    contract::a_copy_comes_back(&InFile::new(), &InPostgres::new()).await;
    contract::a_copy_comes_back(&InPostgres::new(), &InFile::new()).await;
}

#[tokio::test]
async fn a_copy_into_a_database_can_be_cut_short_anywhere() {
    contract::a_copy_can_be_cut_short_anywhere(&|| (Box::new(InFile::new()), Box::new(InPostgres::new())))
        .await;
}

#[tokio::test]
async fn a_copy_out_of_a_database_can_be_cut_short_anywhere() {
    contract::a_copy_can_be_cut_short_anywhere(&|| (Box::new(InPostgres::new()), Box::new(InFile::new())))
        .await;
}

#[tokio::test]
async fn the_wrong_order_is_refused() {
    let (from, to, third) = (InPostgres::new(), InPostgres::new(), InPostgres::new());
    contract::the_wrong_order_is_refused(&from, &to, &third).await;
}

#[tokio::test]
async fn a_store_that_receives_takes_nothing_else() {
    contract::a_store_that_receives_takes_nothing_else(&InPostgres::new(), &InPostgres::new()).await;
}

/// The tables are a ring of days, and pages go by ids.
#[tokio::test]
async fn records_of_many_days_come_in_the_order_of_their_ids() {
    let world = World::new();
    let store = world.open().await;
    let mut used = Vec::new();
    for _ in 0..10 {
        for token in world.tokens(3) {
            assert_eq!(consume(&store, token).await, Ok(End::Recorded));
            used.push(token.0);
        }
        world.clock.advance(std::time::Duration::from_hours(24));
    }
    let end = own(&world.place, Arc::clone(&world.clock) as Arc<dyn Clock>).await;
    let mut read = Vec::new();
    loop {
        let page = end.records_after(read.last().copied(), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page.into_iter().map(|Record { id, .. }| id));
    }
    used.sort_unstable();
    assert_eq!(read, used);
    assert_eq!(end.last_id().await.unwrap().as_ref(), used.last());
}

/// Whatever a running node is asked after the hand-over, it says no, and it says so until the store serves again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_store_that_was_handed_over_ends_no_more_lives() {
    let world = World::new();
    let (store, idle) = (Arc::new(world.open().await), world.open().await);
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let end = own(&world.place, Arc::clone(&clock)).await;
    let (copy, back) = (CopyId::from_text("copy".to_owned()), CopyId::from_text("back".to_owned()));

    // Callers that never stop; what they were told is what is on record, to the last one.
    let tokens = world.tokens(4000);
    let callers: Vec<_> = tokens
        .chunks(500)
        .map(|tokens| {
            let (store, tokens) = (Arc::clone(&store), tokens.to_vec());
            tokio::spawn(async move {
                let mut recorded = Vec::new();
                for token in tokens {
                    match consume(&store, token).await {
                        Ok(End::Recorded) => recorded.push(token.0),
                        Ok(other) => panic!("{other:?}"),
                        Err(StoreError::Unavailable(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                recorded
            })
        })
        .collect();
    while end.last_id().await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    end.hand_over(&copy, "elsewhere").await.unwrap();
    let at_once = end.records_after(None, tokens.len()).await.unwrap();
    let mut recorded = Vec::new();
    for caller in callers {
        recorded.extend(caller.await.unwrap());
    }
    recorded.sort_unstable();
    assert_eq!(at_once.iter().map(|record| record.id).collect::<Vec<_>>(), recorded);
    assert!(recorded.len() < tokens.len(), "it was handed over in the middle");
    assert_eq!(end.records_after(None, tokens.len()).await.unwrap(), at_once);

    let token = world.token();
    for store in [&*store, &idle] {
        for _ in 0..3 {
            let refused = consume(store, token).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        }
        assert!(store.look(token.0, token.1).await.is_err());
        assert!(store.ready().await.is_err());
        assert!(store.purge(token.1).await.is_err());
        assert!(store.move_fence(token.1).await.is_err());
    }
    loop {
        // Its first answer knows less than what is found when the store is looked for.
        let refused = consume(&store, token).await.unwrap_err().to_string();
        if refused.contains("was handed over to elsewhere: serve from there") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let refused = try_open(&world.place, Arc::clone(&clock)).await.unwrap_err();
    assert!(matches!(refused, OpenError::HandedOver { .. }), "{refused}");
    assert_eq!(end.state().await, Ok(CopyState::HandedOver { copy, to: "elsewhere".to_owned() }));

    // The copy comes back, with other lines, and the nodes go on by themselves.
    assert_eq!(end.receive(&back, "elsewhere").await, Ok(true));
    assert!(consume(&store, token).await.is_err());
    let mut lines = end.lines().await.unwrap();
    lines.fence = after(token.0.created(), std::time::Duration::from_millis(1));
    end.set_lines(&back, lines).await.unwrap();
    end.serve(&back).await.unwrap();
    for store in [&*store, &idle] {
        while store.ready().await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(consume(&store, token).await, Ok(End::Fenced));
    assert_eq!(consume(&idle, (recorded[0], token.1)).await, Ok(End::Fenced), "the records are the copy's");
    world.clock.advance(std::time::Duration::from_millis(2));
    assert_eq!(consume(&idle, world.token()).await, Ok(End::Recorded));
}

#[test]
fn a_store_has_one_name_whoever_asks_for_it() {
    let options = options("tokens");
    for (spelling, name) in [
        ("postgres://anna:hunter2@db/tokens", "postgres://db:5432/tokens (schema tokens)"),
        ("postgresql://owner@db:5432/tokens?connect_timeout=3", "postgres://db:5432/tokens (schema tokens)"),
        ("postgres://owner@a:1,b:2/tokens", "postgres://a:1,b:2/tokens (schema tokens)"),
    ] {
        assert_eq!(PostgresCopy::name(&url(spelling), &options), name);
    }
}
