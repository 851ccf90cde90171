//! What a node has given up waiting for, and the database has not.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, OsEntropy, StoreError};
use countersign_test_postgres::{Cluster, Place, connect, run, seen, until};

use super::super::batch::BatchLimits;
use super::super::batch_workers::{BATCH_WORKERS, BatchWorkers, QUEUE};
use super::super::{PostgresStore, READERS, StoreInner};
use super::{World, consume, options, settled, url};
use crate::backend::IfMissing;

/// A store that gives up soon.
async fn impatient(world: &World) -> Arc<PostgresStore> {
    drop(world.open().await);
    let core = StoreInner::with_limits(
        &url(world.place.url()),
        &options(world.place.schema()),
        Arc::clone(&world.clock) as Arc<dyn Clock>,
        Arc::new(OsEntropy),
        BatchLimits { patience: Duration::from_millis(100), statement: Duration::from_millis(30) },
    )
    .unwrap();
    core.bring_up(IfMissing::Fail).await.unwrap();
    let batch_workers = BatchWorkers::start(&core, BATCH_WORKERS, QUEUE);
    Arc::new(PostgresStore { core, batch_workers })
}

/// How many sessions of the database are the store's, at work or abandoned.
const BACKENDS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'countersign'";

/// Consumes again and again, while nothing comes of it; the greatest number of sessions there were.
async fn hammer(world: &World, store: &Arc<PostgresStore>) -> i64 {
    let watch = connect(world.place.url()).await;
    let mut most = 0;
    for _ in 0..12 {
        let calls: Vec<_> = world
            .tokens(6)
            .into_iter()
            .map(|token| {
                let store = Arc::clone(store);
                tokio::spawn(async move { consume(&store, token).await })
            })
            .collect();
        for call in calls {
            assert!(matches!(call.await.unwrap(), Err(StoreError::Unavailable(_))));
        }
        most = most.max(watch.query_one(BACKENDS, &[]).await.unwrap().get(0));
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_table_uses_no_more_sessions_than_the_pool() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    let store = impatient(&world).await;
    let lock = connect(cluster.url()).await;
    lock.batch_execute(&format!("BEGIN; LOCK TABLE {}.lines", world.place.schema())).await.unwrap();
    let most = hammer(&world, &store).await;
    assert!(most <= i64::try_from(BATCH_WORKERS + 1 + READERS).unwrap(), "{most} sessions");
    lock.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(settled(&store, world.token()).await, EndResult::Recorded | EndResult::Already(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_standby_uses_no_more_sessions_than_the_pool() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    let store = impatient(&world).await;
    // Nothing may be committed without a standby that is not there; the session that says so is not asked to wait.
    run(cluster.url(), "ALTER SYSTEM SET synchronous_standby_names = 'away'").await;
    run(cluster.url(), "SELECT pg_reload_conf()").await;
    until(cluster.url(), "SHOW synchronous_standby_names", "away").await;
    let most = hammer(&world, &store).await;
    assert!(most <= i64::try_from(BATCH_WORKERS + 1 + READERS).unwrap(), "{most} sessions");
    run(cluster.url(), "ALTER SYSTEM RESET synchronous_standby_names").await;
    run(cluster.url(), "SELECT pg_reload_conf()").await;
    assert!(matches!(settled(&store, world.token()).await, EndResult::Recorded | EndResult::Already(_)));
}

/// An administrator cancels what waits for the standby: the database says that it is committed, with a warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreplicated_commit_is_not_accepted() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    let store = Arc::new(world.open().await);
    run(cluster.url(), "ALTER SYSTEM SET synchronous_standby_names = 'away'").await;
    run(cluster.url(), "SELECT pg_reload_conf()").await;
    until(cluster.url(), "SHOW synchronous_standby_names", "away").await;
    let token = world.token();
    let call = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { consume(&store, token).await })
    };
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    for _ in 0..3 {
        seen("a commit that waits for the standby is cancelled", async || {
            assert!(!call.is_finished(), "somebody was told yes");
            (run(cluster.url(), cancel).await == ["t"]).then_some(())
        })
        .await;
    }
    run(cluster.url(), "ALTER SYSTEM RESET synchronous_standby_names").await;
    run(cluster.url(), "SELECT pg_reload_conf()").await;
    assert_eq!(call.await.unwrap(), Ok(EndResult::Recorded));
    assert!(matches!(consume(&store, token).await, Ok(EndResult::Already(_))));
}
