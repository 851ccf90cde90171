//! The queue, and many endings in one statement.

use std::sync::Arc;

use countersign_core::{Clock, EndResult, Ending, StoreError, TokenStore};
use countersign_test_postgres::{Cluster, Place, connect, run, seen, until};
use tokio_postgres::Client;

use super::super::batch_workers::BatchWorkers;
use super::super::{PostgresStore, StoreInner};
use super::{Token, World, consume, consumption, options, url};

/// A store with one worker, and a lock that keeps its batch from coming to an end.
struct Held {
    store: Arc<PostgresStore>,
    client: Client,
}

impl Held {
    /// The batch that is held consumes `token`.
    async fn new(
        world: &World,
        token: Token,
        queue: usize,
    ) -> (Self, tokio::task::JoinHandle<Result<EndResult, StoreError>>) {
        drop(world.open().await);
        let core = StoreInner::new(
            &url(world.place.url()),
            &options(world.place.schema()),
            Arc::clone(&world.clock) as Arc<dyn Clock>,
            Arc::new(countersign_core::OsEntropy),
        )
        .unwrap();
        let batch_workers = BatchWorkers::start(&core, 1, queue);
        let store = Arc::new(PostgresStore { core, batch_workers });
        let client = connect(world.place.url()).await;
        let lock = format!("BEGIN; LOCK TABLE {}.lines", world.place.schema());
        client.batch_execute(&lock).await.unwrap();
        let held = Self { store, client };
        let first = held.spawn(token);
        held.until_it_waits(world).await;
        (held, first)
    }

    fn spawn(&self, token: Token) -> tokio::task::JoinHandle<Result<EndResult, StoreError>> {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move { consume(&store, token).await })
    }

    /// Waits until the batch is at the lock.
    async fn until_it_waits(&self, world: &World) {
        let pid: i32 = self.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let waiting =
            format!("SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY(pg_blocking_pids(pid))");
        until(world.place.url(), &waiting, "1").await;
    }

    /// Waits until so many calls are in the queue.
    async fn until_queued(&self, count: usize, queue: usize) {
        let is_there = async || (self.store.batch_workers.room() == queue - count).then_some(());
        seen("the calls are in the queue", is_there).await;
    }

    async fn release(&self) {
        self.client.batch_execute("COMMIT").await.unwrap();
    }
}

/// The batches that have written, each by its nonce, and how many rows each wrote.
async fn sizes(world: &World) -> Vec<String> {
    let every: Vec<String> = (0..8).map(|n| format!("SELECT nonce FROM {{s}}.endings_{n}")).collect();
    let sizes = format!(
        "SELECT count(*) FROM ({}) AS every GROUP BY nonce ORDER BY count(*)",
        every.join(" UNION ALL ")
    );
    world.place.run(&sizes).await
}

#[tokio::test]
async fn single_call_is_its_own_batch() {
    let world = World::new();
    let store = world.open().await;
    for token in world.tokens(3) {
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    }
    assert_eq!(sizes(&world).await, ["1", "1", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_calls_share_a_batch() {
    let world = World::new();
    let (held, first) = Held::new(&world, world.token(), 4096).await;
    let calls: Vec<_> = world.tokens(100).into_iter().map(|token| held.spawn(token)).collect();
    held.until_queued(100, 4096).await;
    held.release().await;
    assert_eq!(first.await.unwrap(), Ok(EndResult::Recorded));
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(EndResult::Recorded));
    }
    assert_eq!(sizes(&world).await, ["1", "100"]);
}

#[tokio::test]
async fn same_id_twice_in_a_batch_is_decided_by_order() {
    let world = World::new();
    let (held, first) = Held::new(&world, world.token(), 4096).await;
    let (token, other) = (world.token(), world.token());
    let winner = held.spawn(token);
    held.until_queued(1, 4096).await;
    let between = held.spawn(other);
    held.until_queued(2, 4096).await;
    let store = Arc::clone(&held.store);
    let loser =
        tokio::spawn(async move { store.end(token.0, token.1, Ending::Revoked { at: token.1 }).await });
    held.until_queued(3, 4096).await;
    held.release().await;
    assert_eq!(first.await.unwrap(), Ok(EndResult::Recorded));
    assert_eq!(winner.await.unwrap(), Ok(EndResult::Recorded));
    assert_eq!(between.await.unwrap(), Ok(EndResult::Recorded));
    assert_eq!(loser.await.unwrap(), Ok(EndResult::Already(consumption(token.0.created()))));
    assert_eq!(sizes(&world).await, ["1", "2"]);
}

#[tokio::test]
async fn full_queue_is_busy_at_once_and_writes_nothing() {
    let world = World::new();
    let (held, first) = Held::new(&world, world.token(), 4).await;
    let calls: Vec<_> = world.tokens(4).into_iter().map(|token| held.spawn(token)).collect();
    held.until_queued(4, 4).await;
    let late = world.token();
    assert_eq!(consume(&held.store, late).await, Err(StoreError::Busy));
    assert_eq!(held.store.ready().await, Err(StoreError::Busy));
    held.release().await;
    assert_eq!(first.await.unwrap(), Ok(EndResult::Recorded));
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(EndResult::Recorded));
    }
    assert_eq!(held.store.ready().await, Ok(()));
    assert_eq!(consume(&held.store, late).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn disconnected_caller_consumes_nothing() {
    let world = World::new();
    let (held, first) = Held::new(&world, world.token(), 4096).await;
    let token = world.token();
    let call = held.spawn(token);
    held.until_queued(1, 4096).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    held.release().await;
    assert_eq!(first.await.unwrap(), Ok(EndResult::Recorded));
    assert_eq!(consume(&held.store, token).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn readiness_costs_at_most_one_commit_a_second() {
    let world = World::new();
    let store = world.open().await;
    for expected in 0..3 {
        for _ in 0..20 {
            assert_eq!(store.ready().await, Ok(()));
        }
        let now = countersign_core::to_millis(world.clock.now());
        assert!(store.core.counts.has_just_written(now + 999), "{expected}");
        world.clock.advance(std::time::Duration::from_millis(999));
        assert_eq!(store.ready().await, Ok(()));
        assert!(!store.core.counts.has_just_written(now + 1000), "nothing was written again");
        world.clock.advance(std::time::Duration::from_millis(1));
    }
}

/// Many rounds of two nodes that consume the same tokens in opposite orders. In a database of its own, whose count of
/// deadlocks is nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_batches_in_opposite_orders_do_not_deadlock() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    let nodes = [Arc::new(world.open().await), Arc::new(world.open().await)];
    for _ in 0..40 {
        let tokens = world.tokens(100);
        let mut calls = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            let mut order = tokens.clone();
            if n == 1 {
                order.reverse();
            }
            let of_node: Vec<_> = order
                .into_iter()
                .map(|token| {
                    let node = Arc::clone(node);
                    (token.0, tokio::spawn(async move { consume(&node, token).await }))
                })
                .collect();
            calls.extend(of_node);
        }
        let mut recorded = std::collections::HashMap::new();
        for (id, call) in calls {
            match call.await.unwrap().unwrap() {
                EndResult::Recorded => *recorded.entry(id).or_insert(0) += 1,
                EndResult::Already(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(tokens.iter().all(|(id, _)| recorded.get(id) == Some(&1)), "each exactly once");
        // Lines that move meanwhile are in nobody's way either.
        let fence = nodes[0].move_fence(world.clock.now()).await.unwrap();
        world.clock.set(fence);
    }
    for node in nodes {
        node.close().await;
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(run(cluster.url(), deadlocks).await, ["0"]);
}
