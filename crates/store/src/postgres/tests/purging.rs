//! Forgetting a day at once.

use std::time::Duration;

use countersign_core::{Clock, EndResult, TokenStore, after, before, from_millis, to_millis};

use super::super::connector::take;
use super::super::rows::uuid;
use super::super::sql::{COUNTED, DAY, Query, Table};
use super::{Token, World, consume};

const HOUR: Duration = Duration::from_hours(1);

/// Fills the table of `token` with so many rows like its own, which came to be at the same time.
async fn fill(world: &World, (id, expires): Token, rows: u32) {
    let table = Table::of(id);
    let millis = to_millis(id.created());
    let insert = format!(
        "INSERT INTO {{s}}.{table} SELECT (lpad(to_hex({millis}), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::UUID, \
         {}, 0, 0, 0, NULL, NULL FROM generate_series(1, {rows}) AS n",
        to_millis(expires)
    );
    world.place.run(&insert).await;
}

/// Which file of the database server the table is in.
async fn file(world: &World, table: Table) -> String {
    world.place.run(&format!("SELECT pg_relation_filenode('{{s}}.{table}')")).await.concat()
}

async fn rows(world: &World, table: Table) -> String {
    world.place.run(&format!("SELECT count(*) FROM {{s}}.{table}")).await.concat()
}

#[tokio::test]
async fn expired_day_is_truncated_whole() {
    let world = World::new();
    let (store, other) = (world.open().await, world.open().await);
    let day = world.token();
    fill(&world, day, 30_000).await;
    assert_eq!(consume(&store, day).await, Ok(EndResult::Recorded));
    let table = Table::of(day.0);
    let before_purge = file(&world, table).await;

    // All are dead, and they are many: nothing is deleted one by one.
    world.clock.advance(HOUR);
    assert_eq!(store.purge(world.clock.now()).await, Ok(0));
    assert_eq!(rows(&world, table).await, "30001");
    assert_eq!(file(&world, table).await, before_purge);

    // A row is younger than a token may live, counted back from the horizon: still not.
    world.clock.set(after(day.0.created(), Duration::from_hours(24)));
    assert_eq!(store.purge(world.clock.now()).await, Ok(0));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(store.purge(world.clock.now()).await, Ok(30_001));
    assert_ne!(file(&world, table).await, before_purge, "it was emptied by TRUNCATE");
    assert_eq!(rows(&world, table).await, "0");
    let size = world.place.run(&format!("SELECT pg_relation_size('{{s}}.{table}')")).await;
    assert_eq!(size, ["0"], "nothing is left to clean up");
    assert_eq!(consume(&store, day).await, Ok(EndResult::Forgotten));
    assert_eq!(store.purge(world.clock.now()).await, Ok(0));
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    let next_ring = world.clock.now();
    world.clock.set(after(next_ring, Duration::from_hours(7 * 24)));
    let same_table = world.token();
    assert_eq!(Table::of(same_table.0), table);
    assert_eq!(
        consume(&other, same_table).await,
        Ok(EndResult::Recorded),
        "another node expects the new file"
    );
    assert!(store.take_moved_fences().is_empty() && other.take_moved_fences().is_empty());
}

/// Counting would take minutes for a hundred million rows, and the purge would fail each time. So of many, the database's
/// estimate is told: here one from before the last rows came.
#[tokio::test]
async fn purge_estimates_the_rows_of_a_large_table() {
    let world = World::new();
    let store = world.open().await;
    let day = world.token();
    let table = Table::of(day.0);
    world.place.run(&format!("ALTER TABLE {{s}}.{table} SET (autovacuum_enabled = off)")).await;
    fill(&world, day, COUNTED + 2).await;
    world.place.run(&format!("ANALYZE {{s}}.{table}")).await;
    assert_eq!(consume(&store, day).await, Ok(EndResult::Recorded));
    world.clock.advance(Duration::from_hours(48));
    assert_eq!(store.purge(world.clock.now()).await, Ok(u64::from(COUNTED) + 2));
    assert_eq!(rows(&world, table).await, "0");
}

/// A row of the next round of the ring is in the table: it lives, and the dead ones around it wait.
#[tokio::test]
async fn table_with_a_newer_row_is_kept() {
    let world = World::new();
    let store = world.open().await;
    let old = world.token();
    fill(&world, old, 30_000).await;
    world.clock.set(from_millis(to_millis(old.0.created()) + 8 * DAY));
    let new = world.token();
    assert_eq!(Table::of(new.0), Table::of(old.0));
    assert_eq!(consume(&store, new).await, Ok(EndResult::Recorded));
    assert_eq!(store.purge(before(world.clock.now(), HOUR)).await, Ok(0));
    assert!(matches!(consume(&store, new).await, Ok(EndResult::Already(_))));
    assert_eq!(rows(&world, Table::of(new.0)).await, "30001");
}

/// Kept for longer than the ring of tables goes round, rows are deleted one by one, however many.
#[tokio::test]
async fn purge_keeps_live_tokens_at_long_retention() {
    let world = World::new();
    let store = world.open().await;
    let old = world.token();
    fill(&world, old, 30_000).await;
    world.clock.set(from_millis(to_millis(old.0.created()) + 8 * DAY));
    let new = world.token();
    assert_eq!(consume(&store, new).await, Ok(EndResult::Recorded));
    let cutoff = before(world.clock.now(), Duration::from_hours(7 * 24));
    assert_eq!(store.purge(cutoff).await, Ok(30_000));
    assert!(matches!(consume(&store, new).await, Ok(EndResult::Already(_))));
    assert_eq!(rows(&world, Table::of(new.0)).await, "1");
}

/// Something has the table locked: the purge gives up on it soon, and handshakes go on.
#[tokio::test]
async fn locked_table_is_purged_later() {
    let world = World::new();
    let store = world.open().await;
    let old = world.token();
    fill(&world, old, 10).await;
    let table = Table::of(old.0);
    let client = countersign_test_postgres::connect(world.place.url()).await;
    let reads = format!("BEGIN; SELECT count(*) FROM {}.{table}", world.place.schema());
    client.batch_execute(&reads).await.unwrap();
    world.clock.advance(Duration::from_hours(48));
    assert_eq!(store.purge(world.clock.now()).await, Ok(0));
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    client.batch_execute("COMMIT").await.unwrap();
    for _ in 0..20 {
        if store.purge(world.clock.now()).await == Ok(10) {
            return;
        }
    }
    panic!("it was never emptied");
}

/// By the caller's clock the tokens are long dead; by the database's they are not.
#[tokio::test]
async fn purge_keeps_tokens_alive_by_the_databases_clock() {
    let world = World::new();
    let store = world.open().await;
    world.clock.set(store.times().await.unwrap().clock.unwrap());
    let token = world.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    for ahead in [Duration::from_mins(10), Duration::from_hours(72), Duration::from_hours(24 * 365 * 70)] {
        assert_eq!(store.purge(after(world.clock.now(), ahead)).await, Ok(0), "{ahead:?}");
        assert!(matches!(consume(&store, token).await, Ok(EndResult::Already(_))), "{ahead:?}");
        assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded), "{ahead:?}");
    }
}

/// A database that was put back has lost the move of the horizon: then nothing is deleted behind it.
#[tokio::test]
async fn record_outlives_the_horizon_move() {
    let world = World::new();
    let store = world.open().await;
    let token = world.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    let (id, expires) = (uuid(token.0), to_millis(token.1));
    let created = to_millis(token.0.created());
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    let mut session = take(&store.core.readers, deadline, "").await.unwrap();
    let delete = Query::Delete(Table::of(token.0));
    let mut deleted =
        async || session.execute(delete, &[&id, &id, &expires, &10_i64, &created]).await.unwrap();
    assert_eq!(deleted().await, 0);
    world.place.run(&format!("UPDATE {{s}}.lines SET cleared = {created}")).await;
    assert_eq!(deleted().await, 0);
    world.place.run(&format!("UPDATE {{s}}.lines SET horizon = {expires}")).await;
    assert_eq!(deleted().await, 1);
}
