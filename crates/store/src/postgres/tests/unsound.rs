//! Tables that cannot keep what they are given: without a primary key, or unlogged.

use std::sync::Arc;

use countersign_core::{
    Clock, EndResult, Entropy, Node, NodeId, OsEntropy, StoreError, SystemClock, TokenStore,
};
use countersign_test_postgres::{Cluster, Place};

use super::super::examine;
use super::super::sql::Table;
use super::{Token, World, consume, options, settled, url};

fn is_unavailable(outcome: &Result<EndResult, StoreError>, needle: &str) {
    let Err(StoreError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.to_string().contains(needle), "{reason}");
}

fn node(world: &World) -> Node {
    let entropy: &dyn Entropy = &OsEntropy;
    Node {
        id: NodeId::generate(entropy).unwrap(),
        host: "alpha".to_owned(),
        private_url: "http://127.0.0.1:8087".to_owned(),
        version: "1.2.3".to_owned(),
        serving: true,
        clock: world.clock.now(),
        sealing: None,
        keys: Vec::new(),
        unlocks: Vec::new(),
        fence: None,
    }
}

/// What is wrong with the table of the token's ending, as doctor sees it.
async fn seen_in(world: &World, token: Token) -> Option<String> {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let options = options(world.place.schema());
    let found = examine(&url(world.place.url()), &options, clock, Arc::new(OsEntropy)).await.unwrap();
    let table = Table::of(token.0).to_string();
    found.unsound_tables.into_iter().find_map(|(name, what)| (name == table).then_some(what))
}

/// A dump that is put back has no keys until all of its rows are there, and a failed one never has.
#[tokio::test]
async fn table_without_primary_key_records_nothing() {
    let world = World::new();
    let store = world.open().await;
    let (used, fresh) = (world.token(), world.token());
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    assert_eq!(seen_in(&world, used).await, None);
    let table = Table::of(used.0);
    world.place.run(&format!("ALTER TABLE {{s}}.{table} DROP CONSTRAINT {table}_pkey")).await;
    is_unavailable(&consume(&store, used).await, "has lost its primary key");
    is_unavailable(&consume(&store, fresh).await, "");
    assert_eq!(seen_in(&world, used).await.as_deref(), Some("without a primary key"));
    world.place.run(&format!("ALTER TABLE {{s}}.{table} ADD PRIMARY KEY (id)")).await;
    assert!(matches!(settled(&store, used).await, EndResult::Already(_)));
    assert_eq!(settled(&store, fresh).await, EndResult::Recorded);
}

/// `ALTER TABLE … SET UNLOGGED` makes a database faster, and forgetful.
#[tokio::test]
async fn used_tokens_stay_refused_after_a_crash_emptied_an_unlogged_table() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    let (used, unused) = (world.token(), world.token());
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    let table = Table::of(used.0);
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET UNLOGGED")).await;
    cluster.crash();
    cluster.start_again();
    assert_eq!(world.place.run(&format!("SELECT count(*)::TEXT FROM {{s}}.{table}")).await, ["0"]);
    for _ in 0..2 {
        let outcome = consume(&store, used).await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET LOGGED")).await;
    assert_eq!(settled(&store, used).await, EndResult::Fenced);
    assert_eq!(settled(&store, unused).await, EndResult::Fenced);
    let moved = store.take_moved_fences();
    assert_eq!(moved.len(), 1, "{moved:?}");
    world.clock.set(moved[0]);
    assert_eq!(settled(&store, world.token()).await, EndResult::Recorded);
}

#[tokio::test]
async fn unlogged_table_is_refused_when_the_node_checks_in() {
    let world = World::new();
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    let token = world.token();
    let node = node(&world);
    store.check_in(&node).await.unwrap();
    let table = Table::of(token.0);
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET UNLOGGED")).await;
    assert_eq!(seen_in(&world, token).await.as_deref(), Some("unlogged"));
    let refused = store.check_in(&node).await.unwrap_err().to_string();
    assert!(refused.contains("is unlogged") && refused.contains("SET LOGGED"), "{refused}");
    is_unavailable(&consume(&store, token).await, "is unlogged");
    assert!(store.ready().await.is_err());
    assert!(store.take_moved_fences().is_empty(), "not before it is logged again");
}
