//! Moves to and from a database, and nodes that go on running on one that was handed over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{
    Clock, EndResult, OsEntropy, StoreError, StoredRing, TokenId, TokenStore, after, from_millis,
};
use countersign_test_postgres::{Place, seen};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::super::MovablePostgres;
use super::super::sql::Table;
use super::{World, consume, options, try_open, url};
use crate::backend::IfMissing;
use crate::contract::{self, MovePlace};
use crate::error::OpenError;
use crate::moving::{Movable, MoveError, MoveId, hand_over};
use crate::sqlite::tests::SqlitePlace;

struct InPostgres(Place);

impl InPostgres {
    fn new() -> Self {
        Self(Place::new())
    }
}

async fn movable(place: &Place, clock: Arc<dyn Clock>) -> MovablePostgres {
    let (url, options) = (url(place.url()), options(place.schema()));
    MovablePostgres::open(&url, &options, clock, Arc::new(OsEntropy), IfMissing::Make).await.unwrap()
}

fn id() -> MoveId {
    MoveId::generate(&OsEntropy).unwrap()
}

#[async_trait]
impl MovePlace for InPostgres {
    fn name(&self) -> String {
        MovablePostgres::name(&url(self.0.url()), &options(self.0.schema()))
    }

    async fn movable(&self, clock: Arc<dyn Clock>) -> Arc<dyn Movable> {
        Arc::new(movable(&self.0, clock).await)
    }

    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError> {
        Ok(Arc::new(try_open(&self.0, clock).await?))
    }
}

#[tokio::test]
async fn moved_store_refuses_used_tokens() {
    contract::moved_store_refuses_used_tokens(&InPostgres::new(), &InPostgres::new()).await;
    contract::moved_store_refuses_used_tokens(&SqlitePlace::new(), &InPostgres::new()).await;
    contract::moved_store_refuses_used_tokens(&InPostgres::new(), &SqlitePlace::new()).await;
    contract::moved_store_refuses_purged_tokens(&InPostgres::new(), &InPostgres::new()).await;
}

#[tokio::test]
async fn store_moves_back() {
    contract::store_moves_back(&InPostgres::new(), &InPostgres::new()).await;
    contract::store_moves_back(&SqlitePlace::new(), &InPostgres::new()).await;
    contract::store_moves_back(&InPostgres::new(), &SqlitePlace::new()).await;
}

#[tokio::test]
async fn interrupted_move_into_a_database_is_completed() {
    contract::move_interrupted_anywhere_is_completed(&|| {
        (Box::new(SqlitePlace::new()), Box::new(InPostgres::new()))
    })
    .await;
}

#[tokio::test]
async fn interrupted_move_out_of_a_database_is_completed() {
    contract::move_interrupted_anywhere_is_completed(&|| {
        (Box::new(InPostgres::new()), Box::new(SqlitePlace::new()))
    })
    .await;
}

#[tokio::test]
async fn moves_in_wrong_order_are_refused() {
    let places = || (InPostgres::new(), InPostgres::new(), InPostgres::new());
    let (from, to, third) = places();
    contract::moves_in_wrong_order_are_refused(&from, &to, &third).await;
    let (from, to, third) = places();
    contract::first_move_is_not_repeated_after_second(&from, &to, &third).await;
    contract::target_that_was_replaced_is_refused(&InPostgres::new(), &InPostgres::new()).await;
    contract::store_takes_over_only_if_reserved(&InPostgres::new(), &InPostgres::new()).await;
}

#[tokio::test]
async fn record_from_the_future_stops_the_move() {
    contract::record_from_the_future_stops_the_move(&InPostgres::new(), &InPostgres::new()).await;
}

/// One run of the command, which makes each of its calls when it is told to.
struct Run {
    may_call: Arc<Semaphore>,
    /// A permit for each call that was made; closed when the run has ended.
    has_called: Arc<Semaphore>,
}

impl Run {
    fn new() -> Self {
        Self { may_call: Arc::new(Semaphore::new(0)), has_called: Arc::new(Semaphore::new(0)) }
    }

    fn paced<'a>(&'a self, inner: &'a MovablePostgres) -> Paced<'a> {
        Paced { run: self, inner }
    }

    async fn go(
        &self,
        (source, from): (&MovablePostgres, &str),
        (target, to): (&MovablePostgres, &str),
        clock: &dyn Clock,
    ) -> Result<(), MoveError> {
        let (source, target) = (self.paced(source), self.paced(target));
        let run = async {
            let handed_over = hand_over((&source, from), (&target, to), clock, &OsEntropy).await?;
            let Some(handed_over) = handed_over else { return Ok(()) };
            target.take_over(handed_over.id, from, handed_over.fence, handed_over.ring.as_ref()).await
        };
        let outcome = run.await;
        self.has_called.close();
        outcome
    }

    /// Lets it make its next call, if there is one, and waits until that has had its effect.
    async fn step(&self) {
        self.may_call.add_permits(1);
        if let Ok(made) = self.has_called.acquire().await {
            made.forget();
        }
    }
}

#[derive(Clone, Copy)]
struct Paced<'a> {
    run: &'a Run,
    inner: &'a MovablePostgres,
}

impl std::fmt::Debug for Paced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Paced<'_> {
    async fn call<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.run.may_call.acquire().await.unwrap().forget();
        let outcome = call.await;
        self.run.has_called.add_permits(1);
        outcome
    }
}

#[async_trait]
impl Movable for Paced<'_> {
    async fn handed_over_to(&self) -> Result<Option<String>, StoreError> {
        self.call(self.inner.handed_over_to()).await
    }
    /// Together with the call before it: nothing changes the ring of a store that was handed over.
    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.inner.ring().await
    }
    async fn reserve(&self, id: MoveId, from: &str) -> Result<(), MoveError> {
        self.call(self.inner.reserve(id, from)).await
    }
    async fn hand_over(&self, id: MoveId, to: &str, latest: Timestamp) -> Result<Timestamp, MoveError> {
        self.call(self.inner.hand_over(id, to, latest)).await
    }
    async fn take_over(
        &self,
        id: MoveId,
        from: &str,
        fence: Timestamp,
        ring: Option<&StoredRing>,
    ) -> Result<(), MoveError> {
        self.call(self.inner.take_over(id, from, fence, ring)).await
    }
}

/// Two stores in a database, of which the first has been used.
struct Pair {
    world: World,
    names: [String; 2],
    stores: [MovablePostgres; 2],
    other: InPostgres,
}

impl Pair {
    async fn new() -> Self {
        let (world, other) = (World::new(), InPostgres::new());
        let store = world.open().await;
        assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
        store.close().await;
        let clock = || Arc::clone(&world.clock) as Arc<dyn Clock>;
        let stores = [movable(&world.place, clock()).await, movable(&other.0, clock()).await];
        let name = MovablePostgres::name(&url(world.place.url()), &options(world.place.schema()));
        Self { names: [name, other.name()], world, stores, other }
    }

    async fn go(&self, run: &Run, from: usize, to: usize) -> Result<(), MoveError> {
        let end = |which: usize| (&self.stores[which], &*self.names[which]);
        run.go(end(from), end(to), &*self.world.clock).await
    }

    /// The whole command, at once.
    async fn move_store(&self, from: usize, to: usize) -> Result<(), MoveError> {
        let run = Run::new();
        run.may_call.add_permits(CALLS);
        self.go(&run, from, to).await
    }

    async fn serve(&self) -> [bool; 2] {
        let serves = async |which: usize| self.stores[which].handed_over_to().await.unwrap().is_none();
        [serves(0).await, serves(1).await]
    }
}

/// A run looks at the source, reserves the target, hands the source over, and has the target take over.
const CALLS: usize = 4;

#[tokio::test]
async fn delayed_move_after_a_move_back_is_refused() {
    let pair = Pair::new().await;
    let held_up = Run::new();
    let operator = async {
        for _ in 0..CALLS - 1 {
            held_up.step().await;
        }
        assert_eq!(pair.serve().await, [false, false]);
        assert_eq!(pair.move_store(1, 0).await, Ok(()));
        assert_eq!(pair.serve().await, [true, false]);
        held_up.step().await;
    };
    let (outcome, ()) = tokio::join!(pair.go(&held_up, 0, 1), operator);
    assert_eq!(outcome, Err(MoveError::Changed));
    assert_eq!(pair.serve().await, [true, false]);
}

#[tokio::test]
async fn opposite_moves_leave_one_serving_store() {
    try_every_order((1, 0)).await;
}

#[tokio::test]
async fn repeated_move_leaves_one_serving_store() {
    try_every_order((0, 1)).await;
}

/// A move from the first store to the second and another move, with their calls in every order. An invariant that holds after
/// each call also holds wherever one of them is interrupted.
async fn try_every_order(second: (usize, usize)) {
    let pair = Pair::new().await;
    assert_eq!(pair.move_store(0, 1).await, Ok(()));
    pair.world.clock.advance(Duration::from_millis(2));
    let store = try_open(&pair.other.0, Arc::clone(&pair.world.clock) as Arc<dyn Clock>).await.unwrap();
    assert_eq!(consume(&store, pair.world.token()).await, Ok(EndResult::Recorded));
    store.close().await;
    assert_eq!(pair.move_store(1, 0).await, Ok(()));
    // A bit for each call: which of the two makes it. If they are alike, it does not matter which one begins.
    let begins = u32::from(second != (0, 1));
    for order in (0_u32..1 << (2 * CALLS)).filter(|order| order.count_ones() as usize == CALLS) {
        if order & 1 > begins {
            continue;
        }
        let runs = [Run::new(), Run::new()];
        let operator = async {
            for step in 0..2 * CALLS {
                runs[usize::from(order >> step & 1 == 1)].step().await;
                assert_ne!(pair.serve().await, [true, true], "{order:b}, step {step}");
            }
        };
        let _ = tokio::join!(pair.go(&runs[0], 0, 1), pair.go(&runs[1], second.0, second.1), operator);
        // Either direction is completed by the command for it, given once.
        let target = usize::from(order & 1 == 1);
        assert_eq!(pair.move_store(1 - target, target).await, Ok(()), "{order:b}");
        assert!(pair.serve().await[target], "{order:b}");
        assert_eq!(pair.move_store(1, 0).await, Ok(()), "{order:b}");
        assert_eq!(pair.serve().await, [true, false], "{order:b}");
    }
}

/// Version 0.1 copied records into a target that was in state 1 meanwhile.
#[tokio::test]
async fn copy_begun_by_the_previous_version_is_completed() {
    let world = World::new();
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let target = movable(&world.place, Arc::clone(&clock)).await;
    let older = "UPDATE {s}.copying SET state = 1, copy = 'c', peer = 'there', fence = l.fence, cleared = l.cleared, \
         horizon = l.horizon FROM {s}.lines AS l WHERE l.stripe = 0; DELETE FROM {s}.lines";
    world.place.run(older).await;
    assert_eq!(target.handed_over_to().await, Ok(Some("there".to_owned())));
    let refused = try_open(&world.place, Arc::clone(&clock)).await.unwrap_err();
    assert!(matches!(refused, OpenError::HandedOver { .. }), "{refused}");
    let id = id();
    target.reserve(id, "there").await.unwrap();
    target.take_over(id, "there", after(clock.now(), Duration::from_millis(1)), None).await.unwrap();
    let store = world.open().await;
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Fenced));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
}

/// The tables are a ring of days: the youngest record may be in any of them.
#[tokio::test]
async fn fence_precedes_the_youngest_record() {
    let world = World::new();
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let store = world.open().await;
    let mut youngest = None;
    for _ in 0..10 {
        for token in world.tokens(3) {
            assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
            youngest = youngest.max(Some(token.0.created()));
        }
        let end = movable(&world.place, Arc::clone(&clock)).await;
        let fence = end.hand_over(id(), "elsewhere", after(clock.now(), CLOCK_SKEW)).await.unwrap();
        assert_eq!(Some(fence), youngest.map(|created| after(created, Duration::from_millis(1))));
        let back = id();
        end.reserve(back, "elsewhere").await.unwrap();
        end.take_over(back, "elsewhere", from_millis(0), None).await.unwrap();
        world.clock.advance(Duration::from_hours(24));
        seen("the store serves again", async || store.ready().await.ok()).await;
    }
}

/// A running node rejects everything after the hand-over, until the store serves again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_of_a_handed_over_store_records_nothing() {
    let world = World::new();
    let (store, idle) = (Arc::new(world.open().await), world.open().await);
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let end = movable(&world.place, Arc::clone(&clock)).await;

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
                        Ok(EndResult::Recorded) => recorded.push(token.0),
                        Ok(other) => panic!("{other:?}"),
                        Err(StoreError::Unavailable(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                recorded
            })
        })
        .collect();
    seen("a consumption", async || (store.stats().await.unwrap().consumed > 0).then_some(())).await;
    let fence = end.hand_over(id(), "elsewhere", after(clock.now(), CLOCK_SKEW)).await.unwrap();
    let at_once = records(&world.place).await;
    let mut recorded = Vec::new();
    for caller in callers {
        recorded.extend(caller.await.unwrap());
    }
    recorded.sort_unstable();
    assert_eq!(at_once, recorded);
    assert!(recorded.iter().all(|id| id.created() < fence));
    assert!(recorded.len() < tokens.len(), "it was handed over in the middle");
    assert_eq!(records(&world.place).await, at_once);

    let token = world.token();
    for store in [&*store, &idle] {
        for _ in 0..3 {
            let refused = consume(store, token).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        }
        assert!(store.look_up(token.0, token.1).await.is_err());
        assert!(store.ready().await.is_err());
        assert!(store.purge(token.1).await.is_err());
        assert!(store.move_fence(token.1).await.is_err());
    }
    // Its first answer knows less than what is found when the store is looked for.
    seen("the refusal names the successor", async || {
        let refused = consume(&store, token).await.unwrap_err().to_string();
        refused.contains("was handed over to elsewhere: serve from there").then_some(())
    })
    .await;
    let refused = try_open(&world.place, Arc::clone(&clock)).await.unwrap_err();
    assert!(matches!(refused, OpenError::HandedOver { .. }), "{refused}");
    assert_eq!(end.handed_over_to().await, Ok(Some("elsewhere".to_owned())));

    // The store comes back, with a later fence, and the nodes go on by themselves.
    let back = id();
    assert_eq!(end.reserve(back, "elsewhere").await, Ok(()));
    assert!(consume(&store, token).await.is_err());
    let fence = after(token.0.created(), Duration::from_millis(1));
    end.take_over(back, "elsewhere", fence, None).await.unwrap();
    for store in [&*store, &idle] {
        seen("the store serves again", async || store.ready().await.ok()).await;
    }
    assert_eq!(consume(&store, token).await, Ok(EndResult::Fenced));
    assert!(matches!(consume(&idle, (recorded[0], token.1)).await, Ok(EndResult::Already(_))));
    world.clock.advance(Duration::from_millis(2));
    assert_eq!(consume(&idle, world.token()).await, Ok(EndResult::Recorded));
}

/// The ids on record, in their order.
async fn records(place: &Place) -> Vec<TokenId> {
    let tables = Table::all().map(|table| format!("SELECT id FROM {{s}}.{table}")).collect::<Vec<_>>();
    let ids =
        place.run(&format!("SELECT id FROM ({}) AS every ORDER BY id", tables.join(" UNION ALL "))).await;
    ids.iter().map(|id| TokenId::from_bytes(*uuid::Uuid::parse_str(id).unwrap().as_bytes())).collect()
}

#[test]
fn store_has_one_name_in_every_spelling() {
    let options = options("tokens");
    for (spelling, name) in [
        ("postgres://anna:hunter2@db/tokens", "postgres://db:5432/tokens (schema tokens)"),
        ("postgresql://owner@db:5432/tokens?connect_timeout=3", "postgres://db:5432/tokens (schema tokens)"),
        ("postgres://owner@a:1,b:2/tokens", "postgres://a:1,b:2/tokens (schema tokens)"),
    ] {
        assert_eq!(MovablePostgres::name(&url(spelling), &options), name);
    }
}
