//! Making and upgrading the tables, with and without the right to.

use std::sync::Arc;

use countersign_core::{Clock, EndResult, ManualClock, OsEntropy, TokenStore, from_millis, to_millis};
use countersign_test_postgres::{connect, new_name, run};

use super::super::schema::newest;
use super::super::{PostgresOptions, PostgresStore, inspect, migrate};
use super::{World, consume, options, try_open, url};
use crate::error::OpenError;

/// Many nodes open the same empty place at the same moment. Each round is a new place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_starts_create_one_store() {
    for _ in 0..4 {
        let world = Arc::new(World::new());
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.open().await })
            })
            .collect();
        let mut stores = Vec::new();
        for opened in opening {
            stores.push(opened.await.unwrap());
        }
        let token = world.token();
        assert_eq!(consume(&stores[0], token).await, Ok(EndResult::Recorded));
        for store in &stores[1..] {
            assert!(matches!(consume(store, token).await, Ok(EndResult::Already(_))));
        }
        assert_eq!(stores[0].stats().await.unwrap().fence, world.clock.now());
        let versions = world.place.run("SELECT version FROM {s}.migrations ORDER BY version").await;
        let expected: Vec<String> = (1..=newest()).map(|version| version.to_string()).collect();
        assert_eq!(versions, expected);
    }
}

/// The clock of the server that makes the store is wrong; the database's is not.
#[tokio::test]
async fn new_store_has_its_fence_by_the_databases_clock() {
    for wrong in [from_millis(0), from_millis(4_070_908_800_000)] {
        let world = World::new();
        let options = PostgresOptions { made_by_the_database: true, ..options(world.place.schema()) };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(wrong));
        let url = url(world.place.url());
        let store = PostgresStore::open(&url, &options, clock, Arc::new(OsEntropy)).await.unwrap();
        let times = store.times().await.unwrap();
        let ahead = times.fence.duration_since(times.clock.unwrap());
        assert!((0..=30_001).contains(&ahead.as_millis()), "{times:?}");
    }
}

/// A wrong clock had moved the old horizon to 2099, and with it every token was rejected until then.
#[tokio::test]
async fn older_horizon_far_ahead_refuses_no_later_token() {
    let world = World::new();
    let store = world.open().await;
    let outstanding = world.token();
    store.close().await;
    let far = 4_070_908_800_000_i64;
    world
        .place
        .run(&format!(
            "ALTER TABLE {{s}}.lines DROP COLUMN cleared; ALTER TABLE {{s}}.copying DROP COLUMN cleared; \
             UPDATE {{s}}.lines SET horizon = {far}; DELETE FROM {{s}}.migrations WHERE version > 5"
        ))
        .await;
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let options = options(world.place.schema());
    let seen = inspect(&url(world.place.url()), &options, clock, Arc::new(OsEntropy)).await.unwrap();
    assert_eq!(to_millis(seen.horizon), far - 1, "it can be looked at before");
    let store = world.open().await;
    assert_eq!(consume(&store, outstanding).await, Ok(EndResult::Forgotten), "it was refused before");
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn newer_schema_is_refused_unchanged() {
    let world = World::new();
    world.open().await.close().await;
    world.place.run("INSERT INTO {s}.migrations VALUES (1000, 0)").await;
    let refused = try_open(&world.place, Arc::clone(&world.clock) as Arc<dyn Clock>).await.unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found: 1000, .. }), "{refused}");
    assert!(refused.to_string().contains("install that version"), "{refused}");
}

#[tokio::test]
async fn older_schema_is_migrated() {
    let world = World::new();
    let store = world.open().await;
    let token = world.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    let older = "DROP TABLE {s}.nodes, {s}.copying, {s}.ring; ALTER TABLE {s}.lines DROP COLUMN ring, DROP COLUMN identity; \
                 DELETE FROM {s}.migrations WHERE version > 1";
    world.place.run(older).await;
    let store = world.open().await;
    assert_eq!(store.stats().await.unwrap().schema, newest());
    assert!(matches!(consume(&store, token).await, Ok(EndResult::Already(_))));
}

/// Two real roles: one owns the tables, the other serves.
#[tokio::test]
async fn role_with_only_record_rights_serves() {
    let world = World::new();
    let (owner, server) = (new_name(), new_name());
    let url_of = |role: &str| {
        let (_, rest) = world.place.url().split_once('@').unwrap();
        format!("postgres://{role}:secret@{rest}")
    };
    run(
        world.place.url(),
        &format!(
            "CREATE ROLE {owner} LOGIN PASSWORD 'secret'; CREATE ROLE {server} LOGIN PASSWORD 'secret'; \
             CREATE SCHEMA {} AUTHORIZATION {owner}",
            world.place.schema()
        ),
    )
    .await;
    let clock = || Arc::clone(&world.clock) as Arc<dyn Clock>;
    let entropy = || Arc::new(OsEntropy);
    let options = options(world.place.schema());
    let open = |role: &str| {
        let (url, options) = (url(&url_of(role)), options.clone());
        async move { PostgresStore::open(&url, &options, clock(), entropy()).await }
    };

    let refused = open(&server).await.unwrap_err().to_string();
    assert!(refused.contains("countersign store migrate --grant-to ROLE"), "{refused}");
    let migrated = migrate(&url(&url_of(&owner)), &options, clock(), entropy(), None).await.unwrap();
    assert_eq!(migrated, (0, newest()));
    let refused = open(&server).await.unwrap_err().to_string();
    assert!(refused.contains("countersign store migrate --grant-to ROLE"), "not granted yet: {refused}");
    let granted = migrate(&url(&url_of(&owner)), &options, clock(), entropy(), Some(&server)).await.unwrap();
    assert_eq!(granted, (newest(), newest()));

    let store = open(&server).await.unwrap();
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    store.move_fence(world.clock.now()).await.unwrap();
    world.clock.advance(std::time::Duration::from_hours(1));
    assert_eq!(store.purge(world.clock.now()).await, Ok(1));
    store.ready().await.unwrap();
    store.stats().await.unwrap();

    // It may do nothing else.
    let client = connect(&url_of(&server)).await;
    for forbidden in
        ["DROP TABLE {s}.lines", "CREATE TABLE {s}.mine ()", "INSERT INTO {s}.migrations VALUES (9, 9)"]
    {
        let refused =
            client.batch_execute(&forbidden.replace("{s}", world.place.schema())).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{forbidden}");
    }

    // A step that is due is not taken by a role that may not.
    world.place.run("DELETE FROM {s}.migrations WHERE version > 1").await;
    let refused = open(&server).await.unwrap_err().to_string();
    assert!(refused.contains("has schema 1") && refused.contains("countersign store migrate"), "{refused}");
}

#[tokio::test]
async fn read_only_database_is_named() {
    let world = World::new();
    world.open().await.close().await;
    let role = new_name();
    let sql = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'secret'; ALTER ROLE {role} SET default_transaction_read_only = on"
    );
    run(world.place.url(), &sql).await;
    let (_, rest) = world.place.url().split_once('@').unwrap();
    let refused = PostgresStore::open(
        &url(&format!("postgres://{role}:secret@{rest}")),
        &options(world.place.schema()),
        Arc::clone(&world.clock) as Arc<dyn Clock>,
        Arc::new(OsEntropy),
    )
    .await
    .unwrap_err()
    .to_string();
    assert!(refused.contains("is read-only") && refused.contains("target_session_attrs"), "{refused}");
    assert_eq!(to_millis(world.clock.now()), 1_767_225_600_123);
}
