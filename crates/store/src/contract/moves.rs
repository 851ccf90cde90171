//! Moving a store to another place: no used token is accepted again, and the two places never both serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{
    Clock, ClockError, Consumption, EndResult, Ending, ManualClock, SequenceEntropy, StoreError, StoredRing,
    TokenId, TokenStore, after,
};
use jiff::Timestamp;

use super::fixture::{LIFETIME, beginning};
use crate::error::OpenError;
use crate::moving::{Movable, MoveError, MoveId, hand_over};

/// A place for a store that can be moved from and to.
#[async_trait]
pub trait MovePlace: Send + Sync {
    /// What it is called.
    fn name(&self) -> String;

    /// Opens the store to move it, and creates it if it is missing. No other process has it open.
    async fn movable(&self, clock: Arc<dyn Clock>) -> Arc<dyn Movable>;

    /// Opens it as a server does.
    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError>;
}

type Token = (TokenId, Timestamp);

struct World {
    clock: Arc<ManualClock>,
    entropy: SequenceEntropy,
}

impl World {
    fn new() -> Self {
        Self { clock: Arc::new(ManualClock::at(beginning())), entropy: SequenceEntropy::default() }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    /// A token, and then a millisecond.
    fn token(&self) -> Token {
        let now = self.clock.now();
        self.clock.advance(Duration::from_millis(1));
        (TokenId::generate(now, &self.entropy).expect("a counter never runs dry"), after(now, LIFETIME))
    }

    async fn serve(&self, place: &dyn MovePlace) -> Arc<dyn TokenStore> {
        place.serve(self.clock()).await.expect("the store opens")
    }

    async fn consume(&self, store: &dyn TokenStore, token: Token) -> Result<EndResult, StoreError> {
        let consumption = Consumption { at: self.clock.now(), by: None, retry_key: None };
        store.end(token.0, token.1, Ending::Consumed(consumption)).await
    }

    /// Serves from a place for so long that a token is used.
    async fn use_up(&self, place: &dyn MovePlace) -> Token {
        let (store, token) = (self.serve(place).await, self.token());
        assert_eq!(self.consume(&*store, token).await, Ok(EndResult::Recorded));
        store.close().await;
        token
    }

    fn id(&self) -> MoveId {
        MoveId::generate(&self.entropy).expect("a counter never runs dry")
    }

    /// The whole command. Returns whether there was something to do.
    async fn move_store(&self, from: &dyn MovePlace, to: &dyn MovePlace) -> Result<bool, MoveError> {
        let (source, target) = (from.movable(self.clock()).await, to.movable(self.clock()).await);
        self.run((&*source, &from.name()), (&*target, &to.name())).await
    }

    async fn run(
        &self,
        source: (&dyn Movable, &str),
        target: (&dyn Movable, &str),
    ) -> Result<bool, MoveError> {
        let handed_over = hand_over(source, target, &*self.clock, &self.entropy).await?;
        let Some(handed_over) = handed_over else { return Ok(false) };
        target.0.take_over(handed_over.id, source.1, handed_over.fence, handed_over.ring.as_ref()).await?;
        Ok(true)
    }

    /// The place refuses to serve, and names the other one.
    async fn refuses(&self, place: &dyn MovePlace, to: &dyn MovePlace) {
        let refused = place.serve(self.clock()).await.expect_err("it was handed over");
        assert!(matches!(refused, OpenError::HandedOver { .. }), "{refused}");
        assert!(refused.to_string().contains(&to.name()), "{refused}");
    }
}

/// Used and purged tokens stay dead, whichever clock a server has; one that is younger than all that were used lives on.
pub async fn moved_store_refuses_used_tokens(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    let purged = world.use_up(from).await;
    world.clock.advance(LIFETIME + Duration::from_secs(1));
    let store = world.serve(from).await;
    assert_eq!(store.purge(world.clock.now()).await, Ok(1));
    let (unused, used, young) = (world.token(), world.token(), world.token());
    assert_eq!(world.consume(&*store, used).await, Ok(EndResult::Recorded));
    let revoked = world.token();
    let at = world.clock.now();
    assert_eq!(store.end(revoked.0, revoked.1, Ending::Revoked { at }).await, Ok(EndResult::Recorded));
    let live = world.token();
    store.close().await;
    drop(store);

    // The machine that the store moves to is behind, as far as a clock may be.
    world.clock.set(countersign_core::before(world.clock.now(), CLOCK_SKEW / 2));
    assert_eq!(world.move_store(from, to).await, Ok(true));
    world.refuses(from, to).await;
    let store = world.serve(to).await;
    for token in [purged, unused, used, young, revoked] {
        assert_eq!(world.consume(&*store, token).await, Ok(EndResult::Fenced));
    }
    assert_eq!(world.consume(&*store, live).await, Ok(EndResult::Recorded));
    assert!(matches!(world.consume(&*store, live).await, Ok(EndResult::Already(_))));
    store.close().await;
    drop(store);
    assert_eq!(world.move_store(from, to).await, Ok(false), "done is done");
    world.serve(to).await.close().await;
}

/// A store whose records were all purged has its horizon to tell which tokens it had records of.
pub async fn moved_store_refuses_purged_tokens(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    let purged = world.use_up(from).await;
    let store = world.serve(from).await;
    world.clock.advance(LIFETIME + Duration::from_secs(1));
    assert_eq!(store.purge(world.clock.now()).await, Ok(1));
    store.close().await;
    drop(store);
    assert_eq!(world.move_store(from, to).await, Ok(true));
    let store = world.serve(to).await;
    // The clock steps back to when it was live.
    world.clock.set(beginning());
    assert_eq!(world.consume(&*store, purged).await, Ok(EndResult::Fenced));
    store.close().await;
}

/// Back again, to the store that was handed over: what was used in either stays dead.
pub async fn store_moves_back(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    let first = world.use_up(from).await;
    assert_eq!(world.move_store(from, to).await, Ok(true));
    let second = world.use_up(to).await;
    assert_eq!(world.move_store(to, from).await, Ok(true));
    world.refuses(to, from).await;
    let store = world.serve(from).await;
    assert!(
        matches!(world.consume(&*store, first).await, Ok(EndResult::Already(_))),
        "its records are still there"
    );
    assert_eq!(world.consume(&*store, second).await, Ok(EndResult::Fenced));
    assert_eq!(world.consume(&*store, world.token()).await, Ok(EndResult::Recorded));
    store.close().await;
}

/// A move that is interrupted at any call, before or after its effect: at most one of the two stores serves, tokens used
/// meanwhile stay used, and the same command completes the move.
pub async fn move_interrupted_anywhere_is_completed(
    places: &(dyn Fn() -> (Box<dyn MovePlace>, Box<dyn MovePlace>) + Send + Sync),
) {
    let mut completed = 0;
    for cut in 0.. {
        for effect in [false, true] {
            let (from, to) = places();
            let world = World::new();
            let mut used = vec![world.use_up(&*from).await];
            let calls = Arc::new(AtomicUsize::new(cut));
            let cutting = |inner| Cutting { inner, calls: Arc::clone(&calls), effect };
            let source = cutting(from.movable(world.clock()).await);
            let target = cutting(to.movable(world.clock()).await);
            let first = world.run((&source, &from.name()), (&target, &to.name())).await;
            drop((source, target));
            completed += usize::from(first.is_ok());

            // Until the second call has had its effect, the target is an empty store like any other.
            let places = if cut == 0 || (cut == 1 && !effect) { vec![&from] } else { vec![&from, &to] };
            let mut serving = 0;
            for place in places {
                match place.serve(world.clock()).await {
                    Ok(store) => {
                        serving += 1;
                        let token = world.token();
                        assert_eq!(world.consume(&*store, token).await, Ok(EndResult::Recorded));
                        used.push(token);
                        store.close().await;
                    }
                    Err(OpenError::HandedOver { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(serving <= 1, "cut {cut}, {effect}: two stores serve");

            let again = world.move_store(&*from, &*to).await;
            assert!(again.is_ok(), "cut {cut}, {effect}: {again:?}");
            world.refuses(&*from, &*to).await;
            let store = world.serve(&*to).await;
            for token in used {
                let end = world.consume(&*store, token).await.expect("it answers");
                assert!(
                    matches!(end, EndResult::Fenced | EndResult::Already(_)),
                    "cut {cut}, {effect}: {end:?}"
                );
            }
            store.close().await;
        }
        if completed == 2 {
            assert_eq!(cut, 5, "a move has so many calls");
            return;
        }
    }
}

/// Steps in the wrong order are refused and change nothing.
pub async fn moves_in_wrong_order_are_refused(
    from: &dyn MovePlace,
    to: &dyn MovePlace,
    third: &dyn MovePlace,
) {
    let world = World::new();
    world.use_up(from).await;
    world.use_up(to).await;
    assert_eq!(world.move_store(from, to).await, Err(MoveError::TargetInUse));
    world.use_up(from).await;
    world.use_up(to).await;

    // A move that has begun.
    let target = third.movable(world.clock()).await;
    assert_eq!(target.reserve(world.id(), &from.name()).await, Ok(()));
    drop(target);
    world.refuses(third, from).await;
    assert_eq!(world.move_store(to, third).await, Err(MoveError::TargetHandedOver(from.name())));
    assert_eq!(world.move_store(third, to).await, Err(MoveError::HandedOver(from.name())));
    world.use_up(from).await;
    world.use_up(to).await;

    assert_eq!(world.move_store(from, third).await, Ok(true));
    assert_eq!(world.move_store(from, to).await, Err(MoveError::HandedOver(third.name())));
    // Only the store that has its place may move back to it: what was used there is known nowhere else.
    assert_eq!(world.move_store(to, from).await, Err(MoveError::TargetHandedOver(third.name())));
    world.use_up(third).await;
    assert_eq!(world.move_store(third, from).await, Ok(true));
    assert_eq!(world.move_store(from, third).await, Ok(true));
}

/// A move that is complete is not done again once its target was handed over to yet another store.
pub async fn first_move_is_not_repeated_after_second(
    from: &dyn MovePlace,
    to: &dyn MovePlace,
    third: &dyn MovePlace,
) {
    let world = World::new();
    world.use_up(from).await;
    assert_eq!(world.move_store(from, to).await, Ok(true));
    assert_eq!(world.move_store(to, third).await, Ok(true));
    world.use_up(third).await;
    assert_eq!(world.move_store(from, to).await, Err(MoveError::TargetHandedOver(third.name())));
    world.refuses(from, to).await;
    world.refuses(to, third).await;
    world.use_up(third).await;
}

/// A target that has served meanwhile, and does not refuse all that was used in the source, is no complete move.
pub async fn target_that_was_replaced_is_refused(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    world.use_up(to).await;
    world.use_up(from).await;
    let source = from.movable(world.clock()).await;
    let latest = after(world.clock.now(), CLOCK_SKEW);
    source.hand_over(world.id(), &to.name(), latest).await.expect("it is handed over");
    drop(source);
    assert_eq!(world.move_store(from, to).await, Err(MoveError::TargetInUse));
}

/// A fence that the present has not reached would refuse every token.
pub async fn record_from_the_future_stops_the_move(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    world.clock.advance(CLOCK_SKEW + Duration::from_secs(1));
    world.use_up(from).await;
    world.clock.set(beginning());
    let refused = world.move_store(from, to).await.expect_err("a clock is wrong");
    assert!(
        matches!(refused, MoveError::Store(StoreError::Clock(ClockError::BehindRecords(_)))),
        "{refused}"
    );
    world.serve(from).await.close().await;
    world.clock.advance(CLOCK_SKEW);
    assert_eq!(world.move_store(from, to).await, Ok(true));
}

/// Only what was reserved takes over, and the fence of a store that serves stays where it is.
pub async fn store_takes_over_only_if_reserved(from: &dyn MovePlace, to: &dyn MovePlace) {
    let world = World::new();
    let target = to.movable(world.clock()).await;
    let fence = after(beginning(), LIFETIME);
    let (id, later) = (world.id(), world.id());
    assert_eq!(target.take_over(id, &from.name(), fence, None).await, Err(MoveError::Changed));
    for _ in 0..2 {
        assert_eq!(target.reserve(id, &from.name()).await, Ok(()));
    }
    assert_eq!(target.handed_over_to().await, Ok(Some(from.name())));
    assert_eq!(target.take_over(id, "another", fence, None).await, Err(MoveError::Changed));
    // For another run of the same command; then a run in the other direction hands it over once more.
    assert_eq!(target.reserve(later, &from.name()).await, Ok(()));
    assert_eq!(target.take_over(id, &from.name(), fence, None).await, Err(MoveError::Changed));
    assert!(target.hand_over(world.id(), &from.name(), fence).await.is_ok());
    for lost in [id, later] {
        assert_eq!(target.take_over(lost, &from.name(), fence, None).await, Err(MoveError::Changed));
    }
    assert_eq!(target.handed_over_to().await, Ok(Some(from.name())));
    assert_eq!(target.reserve(id, &from.name()).await, Ok(()));
    for _ in 0..2 {
        assert_eq!(target.take_over(id, &from.name(), fence, None).await, Ok(()));
    }
    assert_eq!(target.handed_over_to().await, Ok(None));
    drop(target);
    let store = world.serve(to).await;
    assert_eq!(store.times().await.expect("it answers").fence, fence);
    store.close().await;
}

/// A store that fails from some call on, before or after the effect of the first.
struct Cutting {
    inner: Arc<dyn Movable>,
    calls: Arc<AtomicUsize>,
    effect: bool,
}

impl Cutting {
    async fn cut<T, E: From<StoreError>>(
        &self,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        let away = || E::from(StoreError::unavailable("cut"));
        let left = self.calls.load(Ordering::SeqCst);
        self.calls.store(left.saturating_sub(1), Ordering::SeqCst);
        match left {
            0 if self.effect => {
                // Only the first one has an effect.
                self.calls.store(usize::MAX, Ordering::SeqCst);
                call.await?;
                Err(away())
            }
            0 => Err(away()),
            left if left > usize::MAX / 2 => Err(away()),
            _ => call.await,
        }
    }
}

#[async_trait]
impl Movable for Cutting {
    async fn handed_over_to(&self) -> Result<Option<String>, StoreError> {
        self.cut(self.inner.handed_over_to()).await
    }
    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.cut(self.inner.ring()).await
    }
    async fn reserve(&self, id: MoveId, from: &str) -> Result<(), MoveError> {
        self.cut(self.inner.reserve(id, from)).await
    }
    async fn hand_over(&self, id: MoveId, to: &str, latest: Timestamp) -> Result<Timestamp, MoveError> {
        self.cut(self.inner.hand_over(id, to, latest)).await
    }
    async fn take_over(
        &self,
        id: MoveId,
        from: &str,
        fence: Timestamp,
        ring: Option<&StoredRing>,
    ) -> Result<(), MoveError> {
        self.cut(self.inner.take_over(id, from, fence, ring)).await
    }
}
