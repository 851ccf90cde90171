//! Another database in the place of the one that it was.

use std::sync::Arc;

use countersign_core::{Clock, End, OsEntropy, StoreError, TokenStore};
use countersign_test_postgres::{Cluster, Place, run};

use super::super::PostgresStore;
use super::{Token, World, consume, options, url};

async fn open_at(world: &World, text: &str) -> PostgresStore {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let options = options(world.place.schema());
    PostgresStore::open(&url(text), &options, clock, Arc::new(OsEntropy)).await.unwrap()
}

async fn settled(store: &PostgresStore, token: Token) -> End {
    loop {
        match consume(store, token).await {
            Ok(end) => return end,
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Tokens are used until the moment of the promotion, with a standby that follows; whatever it had received, none that was
/// answered is good again, nor one that was issued before.
async fn promote(synchronous: bool) {
    let primary = Cluster::start(&[]);
    let world = World::at(Place::at(primary.url()));
    world.clock.set(countersign_core::SystemClock.now());
    let standby = Cluster::standby_of(&primary);
    let both = both(&primary, &standby);
    let store = Arc::new(open_at(&world, &both).await);
    let other = Arc::new(open_at(&world, &both).await);
    assert!(store.take_moved_fences().is_empty());
    let unused = world.token();
    if synchronous {
        primary.wait_for_standby().await;
    } else {
        // Once it has the tables, it falls behind, as an asynchronous standby may at any time.
        let tables =
            format!("SELECT count(*) FROM {}.lines WHERE identity IS NOT NULL", world.place.schema());
        let has = format!("SELECT to_regclass('{}.lines') IS NOT NULL", world.place.schema());
        while run(standby.url(), &has).await != ["t"] {}
        while run(standby.url(), &tables).await != ["64"] {}
        standby.stop_following().await;
    }
    let tokens = world.tokens(20);
    for &token in &tokens {
        assert_eq!(settled(&store, token).await, End::Recorded);
    }
    primary.crash();
    standby.promote();
    for &token in &tokens {
        let end = settled(&store, token).await;
        assert!(matches!(end, End::Already(_) | End::Fenced), "used twice: {end:?}");
        assert!(!synchronous || matches!(end, End::Already(_)), "a synchronous standby has it: {end:?}");
    }
    assert_eq!(settled(&other, unused).await, End::Fenced);
    let moved = [store.take_moved_fences(), other.take_moved_fences()].concat();
    assert_eq!(moved.len(), 1, "one of the nodes moved it, and tells: {moved:?}");
    world.clock.set(moved[0]);
    let fresh = world.token();
    assert_eq!(settled(&store, fresh).await, End::Recorded);
    assert!(matches!(settled(&other, fresh).await, End::Already(_)));
    assert!(store.take_moved_fences().is_empty());

    // The old primary comes back, in which nobody has moved anything: who has seen its successor does not use it.
    primary.start_again();
    standby.stop();
    let refused = loop {
        match consume(&store, unused).await {
            Err(StoreError::Unavailable(reason)) if reason.contains("succeeded") => break reason,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Ok(end) => panic!("{end:?}"),
        }
    };
    assert!(refused.contains("store's URL"), "{refused}");
}

/// A URL that names both, and means the one that takes writes.
fn both(primary: &Cluster, standby: &Cluster) -> String {
    let host = |cluster: &Cluster| {
        let (_, rest) = cluster.url().split_once('@').unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    format!(
        "postgres://postgres:postgres@{},{}/postgres?target_session_attrs=read-write",
        host(primary),
        host(standby)
    )
}

#[tokio::test]
async fn a_standby_that_was_behind_makes_no_token_good_again() {
    promote(false).await;
}

#[tokio::test]
async fn a_synchronous_standby_has_what_was_answered() {
    promote(true).await;
}

#[tokio::test]
async fn a_dump_that_is_put_back_moves_the_fence() {
    let world = World::new();
    world.clock.set(countersign_core::SystemClock.now());
    let store = world.open().await;
    let (used, unused) = (world.token(), world.token());
    // As pg_dump and psql would: the table is another one, with the rows of then.
    let s = world.place.schema();
    let dump = format!(
        "CREATE TABLE {s}.backup (LIKE {s}.lines INCLUDING ALL); INSERT INTO {s}.backup SELECT * FROM {s}.lines"
    );
    world.place.run(&dump).await;
    assert_eq!(consume(&store, used).await, Ok(End::Recorded));
    let restore = format!(
        "DROP TABLE {s}.lines; ALTER TABLE {s}.backup RENAME TO lines; \
         DELETE FROM {s}.{}",
        super::super::sql::Table::of(used.0)
    );
    world.place.run(&restore).await;
    assert_eq!(consume(&store, used).await, Ok(End::Fenced));
    assert_eq!(consume(&store, unused).await, Ok(End::Fenced));
    let moved = store.take_moved_fences();
    assert_eq!(moved.len(), 1);
    world.clock.set(moved[0]);
    assert_eq!(consume(&store, world.token()).await, Ok(End::Recorded));
}

#[tokio::test]
async fn a_role_that_may_not_ask_which_server_it_is_serves() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    world.open().await.close().await;
    let s = world.place.schema();
    let grants = format!(
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public; CREATE ROLE serves LOGIN PASSWORD 'secret'; \
         GRANT USAGE ON SCHEMA {s} TO serves; GRANT ALL ON ALL TABLES IN SCHEMA {s} TO serves"
    );
    run(cluster.url(), &grants).await;
    let (_, rest) = cluster.url().split_once('@').unwrap();
    let store = open_at(&world, &format!("postgres://serves:secret@{rest}")).await;
    assert_eq!(consume(&store, world.token()).await, Ok(End::Recorded));
    assert!(store.take_moved_fences().is_empty(), "that is no other server");
    // The others may.
    let told = world.open().await;
    assert_eq!(consume(&told, world.token()).await, Ok(End::Recorded));
    assert!(told.take_moved_fences().is_empty(), "nor is that");
}
