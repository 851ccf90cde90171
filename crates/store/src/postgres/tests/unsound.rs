//! Tables that cannot keep what they are given, without a primary key or unlogged; and tables that lost it.

use std::sync::Arc;

use countersign_core::{
    Clock, EndResult, Entropy, Node, NodeId, OsEntropy, StoreError, SystemClock, TokenStore,
};
use countersign_test_postgres::{Cluster, Place, connect, run, seen};

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

/// No server sees the table while it is unlogged: the database has crashed, and is repaired before anybody connects.
#[tokio::test]
async fn used_tokens_stay_refused_after_an_emptied_table_is_logged_again_unseen() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    let used = world.token();
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    let table = Table::of(used.0);
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET UNLOGGED")).await;
    cluster.crash();
    cluster.start_again();
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET LOGGED")).await;
    assert_eq!(world.place.run(&format!("SELECT count(*)::TEXT FROM {{s}}.{table}")).await, ["0"]);
    assert_eq!(settled(&store, used).await, EndResult::Fenced);
}

/// By hand, by a tool, or from a backup of this table alone.
#[tokio::test]
async fn used_tokens_stay_refused_when_their_table_is_emptied_or_replaced() {
    for change in [
        "TRUNCATE {t}",
        "ALTER TABLE {t} RENAME TO used; CREATE TABLE {t} (LIKE {s}.used INCLUDING ALL)",
        "BEGIN; ALTER TABLE {t} SET UNLOGGED; TRUNCATE {t}; ALTER TABLE {t} SET LOGGED; COMMIT",
    ] {
        let world = World::new();
        world.clock.set(SystemClock.now());
        let (store, other) = (world.open().await, world.open().await);
        let (used, unused) = (world.token(), world.token());
        assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
        let table = Table::of(used.0);
        world.place.run(&change.replace("{t}", &format!("{{s}}.{table}"))).await;
        assert_eq!(settled(&store, used).await, EndResult::Fenced, "{change}");
        assert_eq!(settled(&other, used).await, EndResult::Fenced, "{change}");
        assert_eq!(settled(&other, unused).await, EndResult::Fenced, "{change}");
        let moved = [store.take_moved_fences(), other.take_moved_fences()].concat();
        assert_eq!(moved.len(), 1, "{change}: one node moves it: {moved:?}");
        world.clock.set(moved[0]);
        assert_eq!(settled(&other, world.token()).await, EndResult::Recorded, "{change}");
    }
}

/// Some make backups like this: they take a moment, and everything in them is as in the original, the numbers of the tables too.
#[tokio::test]
async fn used_tokens_stay_refused_when_a_copy_of_the_database_takes_its_name() {
    let cluster = Cluster::start(&[]);
    run(cluster.url(), "CREATE DATABASE tokens").await;
    let (server, _) = cluster.url().rsplit_once('/').unwrap();
    let world = World::at(Place::at(&format!("{server}/tokens")));
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    store.close().await;
    let copied = seen("nobody is connected to the database", async || {
        connect(cluster.url()).await.simple_query("CREATE DATABASE copy TEMPLATE tokens").await.ok()
    });
    copied.await;
    let store = world.open().await;
    let used = world.token();
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    store.close().await;
    let renamed = seen("nobody is connected to the database", async || {
        let client = connect(cluster.url()).await;
        client
            .simple_query("ALTER DATABASE tokens RENAME TO old; ALTER DATABASE copy RENAME TO tokens")
            .await
            .ok()
    });
    renamed.await;
    let store = world.open().await;
    assert_eq!(settled(&store, used).await, EndResult::Fenced);
    assert_eq!(store.take_moved_fences().len(), 1);
}

/// Otherwise a purge would make the emptied table the expected one.
#[tokio::test]
async fn purge_does_not_empty_a_replaced_table() {
    let world = World::new();
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    let used = world.token();
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    let table = Table::of(used.0);
    world
        .place
        .run(&format!(
            "ALTER TABLE {{s}}.{table} RENAME TO used; CREATE TABLE {{s}}.{table} (LIKE {{s}}.used INCLUDING ALL); \
             INSERT INTO {{s}}.{table} SELECT '00000000-0000-7000-8000-000000000000', 0, 0, 0, 0, NULL, NULL"
        ))
        .await;
    store.purge(world.clock.now()).await.unwrap();
    assert_eq!(settled(&store, used).await, EndResult::Fenced);
}

/// A node that is idle does not wait for the next token to notice.
#[tokio::test]
async fn node_that_checks_in_notices_an_emptied_table() {
    let world = World::new();
    world.clock.set(SystemClock.now());
    let store = world.open().await;
    let table = Table::of(world.token().0);
    store.check_in(&node(&world)).await.unwrap();
    assert!(store.take_moved_fences().is_empty());
    world.place.run(&format!("TRUNCATE {{s}}.{table}")).await;
    store.check_in(&node(&world)).await.unwrap();
    assert_eq!(store.take_moved_fences().len(), 1);
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
