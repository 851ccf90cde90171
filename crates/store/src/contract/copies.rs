//! Copying a store to another place: every record arrives, and never do two places serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Clock, Consumption, End, Ending, Horizon, ManualClock, OsEntropy, RetryKeyHash, SequenceEntropy,
    StoreError, TokenId, TokenStore, after, before,
};
use jiff::Timestamp;

use super::fixture::{LIFETIME, beginning};
use crate::OpenError;
use crate::copy::{Begun, Copy, CopyEnd, CopyError, CopyId, CopyState, Lines, PAGE, Record, summarize};

/// A place for a store that can be copied from and to.
#[async_trait]
pub trait CopyPlace: Send + Sync {
    /// What it is called.
    fn name(&self) -> String;

    /// Opens it for copying; makes it if it is not there. Whoever had it open before has let go of it.
    async fn end(&self, clock: Arc<dyn Clock>) -> Arc<dyn CopyEnd>;

    /// Opens it as a server does.
    async fn serve(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn TokenStore>, OpenError>;
}

struct World<'w> {
    clock: Arc<ManualClock>,
    entropy: SequenceEntropy,
    from: &'w dyn CopyPlace,
    to: &'w dyn CopyPlace,
}

type Token = (TokenId, Timestamp);

impl<'w> World<'w> {
    fn new(from: &'w dyn CopyPlace, to: &'w dyn CopyPlace) -> Self {
        let clock = Arc::new(ManualClock::at(beginning()));
        Self { clock, entropy: SequenceEntropy::default(), from, to }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    fn token(&self) -> Token {
        let now = self.clock.now();
        (TokenId::generate(now, &self.entropy).expect("a counter never runs dry"), after(now, LIFETIME))
    }

    async fn serve(&self, place: &dyn CopyPlace) -> Arc<dyn TokenStore> {
        place.serve(self.clock()).await.expect("the store opens")
    }

    /// Ends the lives of so many new tokens, in all the ways there are.
    async fn use_up(&self, store: &dyn TokenStore, count: usize) -> Vec<(Token, Ending)> {
        let mut used = Vec::with_capacity(count);
        for n in 0..count {
            let token = self.token();
            let at = self.clock.now();
            let (by, retry_key) = match n % 4 {
                0 => (None, None),
                1 => (Some([192, 0, 2, 1].into()), Some(RetryKeyHash::of(b"key"))),
                _ => (Some([0xfe; 16].into()), None),
            };
            let ending = match n % 4 {
                3 => Ending::Revoked { at },
                _ => Ending::Consumed(Consumption { at, by, retry_key }),
            };
            assert_eq!(store.end(token.0, token.1, ending.clone()).await, Ok(End::Recorded));
            used.push((token, ending));
        }
        used
    }

    async fn copy(&self) -> Result<Option<crate::copy::Summary>, CopyError> {
        let (source, target) = (self.from.end(self.clock()).await, self.to.end(self.clock()).await);
        run(self, &*source, &*target).await
    }
}

/// One run of the whole command.
async fn run(
    world: &World<'_>,
    source: &dyn CopyEnd,
    target: &dyn CopyEnd,
) -> Result<Option<crate::copy::Summary>, CopyError> {
    let (from, to) = (world.from.name(), world.to.name());
    match Copy::begin(source, &from, target, &to, &OsEntropy).await? {
        Begun::Done => Ok(None),
        Begun::Copy(copy) => {
            copy.bulk(source, target, &()).await?;
            copy.finish(source, target, &()).await.map(Some)
        }
    }
}

/// Every record, both lines, and nothing else; then the source is closed for good, and the target serves.
pub async fn a_copy_is_what_the_source_was(from: &dyn CopyPlace, to: &dyn CopyPlace) {
    let world = World::new(from, to);
    let store = world.serve(from).await;
    let fenced = world.token();
    world.clock.advance(Duration::from_millis(1));
    store.move_fence(world.clock.now()).await.expect("the store answers");
    let used = world.use_up(&*store, PAGE + PAGE / 2).await;
    let live = world.token();
    store.close().await;
    drop(store);
    world.clock.advance(Duration::from_secs(9));
    let summary = world.copy().await.expect("it is copied").expect("it had not been");
    assert_eq!(usize::try_from(summary.records), Ok(used.len()));

    let refused = from.serve(world.clock()).await.expect_err("the source is closed");
    assert!(matches!(refused, OpenError::HandedOver { .. }), "{refused}");
    assert!(refused.to_string().contains(&to.name()), "{refused}");
    let store = world.serve(to).await;
    for ((id, expires), ending) in &used {
        assert_eq!(store.look(*id, *expires).await, Ok(End::Already(ending.clone())));
    }
    let consumed = Ending::Consumed(Consumption { at: world.clock.now(), by: None, retry_key: None });
    assert_eq!(
        store.end(live.0, live.1, consumed.clone()).await,
        Ok(End::Recorded),
        "it was live all the time"
    );
    assert_eq!(store.end(live.0, live.1, consumed.clone()).await, Ok(End::Already(consumed.clone())));
    assert_eq!(store.end(fenced.0, fenced.1, consumed).await, Ok(End::Fenced), "the fence came along");
    store.close().await;
    drop(store);
    assert_eq!(world.copy().await, Ok(None), "done is done");
}

/// Back again, to the store that was handed over.
pub async fn a_copy_comes_back(from: &dyn CopyPlace, to: &dyn CopyPlace) {
    let there = World::new(from, to);
    let store = there.serve(from).await;
    let old = there.use_up(&*store, 3).await;
    store.close().await;
    drop(store);
    there.copy().await.expect("it is copied");
    let store = there.serve(to).await;
    there.clock.advance(LIFETIME + Duration::from_millis(1));
    assert_eq!(store.purge(there.clock.now()).await, Ok(3));
    let new = there.use_up(&*store, 2).await;
    store.close().await;
    drop(store);

    let back = World { from: to, to: from, ..there };
    let summary = back.copy().await.expect("it is copied").expect("it had not been");
    assert_eq!(summary.records, 2);
    assert!(matches!(to.serve(back.clock()).await, Err(OpenError::HandedOver { .. })));
    let store = back.serve(from).await;
    for ((id, expires), ending) in new {
        assert_eq!(store.look(id, expires).await, Ok(End::Already(ending)));
    }
    for ((id, expires), _) in old {
        assert_eq!(store.look(id, expires).await, Ok(End::Forgotten), "the horizon came along");
    }
    store.close().await;
}

/// Whatever call a copy is cut short at, before or after its effect: at most one of the two serves, what is used
/// meanwhile is not lost, and the same command completes it.
pub async fn a_copy_can_be_cut_short_anywhere(
    places: &(dyn Fn() -> (Box<dyn CopyPlace>, Box<dyn CopyPlace>) + Send + Sync),
) {
    let mut completed = 0;
    for cut in 0.. {
        for effect in [false, true] {
            let (from, to) = places();
            let world = World::new(&*from, &*to);
            let store = world.serve(&*from).await;
            let old = world.use_up(&*store, 2).await;
            world.clock.advance(LIFETIME + Duration::from_millis(1));
            let mut used = world.use_up(&*store, 9).await;
            store.close().await;
            drop(store);

            let calls = Arc::new(AtomicUsize::new(cut));
            let cutting = |inner| Cutting { inner, calls: Arc::clone(&calls), effect };
            let source = cutting(from.end(world.clock()).await);
            let target = cutting(to.end(world.clock()).await);
            let first = run(&world, &source, &target).await;
            drop((source, target));
            completed += usize::from(first.is_ok());

            let mut serving = 0;
            for (place, is_source) in [(&from, true), (&to, false)] {
                match place.serve(world.clock()).await {
                    Ok(store) => {
                        serving += 1;
                        // A target that nobody has begun to use is an empty store like any other.
                        if is_source {
                            assert_eq!(
                                store.purge(world.clock.now()).await,
                                Ok(2),
                                "what the bulk may have copied"
                            );
                            used.extend(world.use_up(&*store, 3).await);
                        } else if store.stats().await.expect("the store answers").consumed == 0 {
                            serving -= 1;
                        }
                        store.close().await;
                    }
                    Err(OpenError::HandedOver { .. } | OpenError::Incomplete { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(serving <= 1, "cut {cut}, {effect}: two stores serve");

            world.copy().await.unwrap_or_else(|error| panic!("cut {cut}, {effect}: {error}"));
            assert!(matches!(from.serve(world.clock()).await, Err(OpenError::HandedOver { .. })));
            let store = world.serve(&*to).await;
            for ((id, expires), ending) in used {
                assert_eq!(store.look(id, expires).await, Ok(End::Already(ending)), "cut {cut}, {effect}");
            }
            for ((id, expires), ending) in old {
                let look = store.look(id, expires).await.expect("the store answers");
                assert!(look == End::Forgotten || look == End::Already(ending), "{look:?}");
            }
            store.close().await;
        }
        if completed == 2 {
            assert!(cut > 10, "it takes more calls than {cut}");
            return;
        }
    }
}

/// Whatever is done in the wrong order is refused, and changes nothing.
pub async fn the_wrong_order_is_refused(from: &dyn CopyPlace, to: &dyn CopyPlace, third: &dyn CopyPlace) {
    let world = World::new(from, to);
    for place in [from, to] {
        let store = world.serve(place).await;
        world.use_up(&*store, 1).await;
        store.close().await;
    }
    let refused = world.copy().await.expect_err("the target has records of its own");
    assert_eq!(refused, CopyError::TargetServes(to.name()));
    world.serve(from).await.close().await;
    world.serve(to).await.close().await;

    // A copy that has begun.
    let onward = World { from, to: third, ..World::new(from, third) };
    {
        let (source, target) = (from.end(onward.clock()).await, third.end(onward.clock()).await);
        let begun = Copy::begin(&*source, &from.name(), &*target, &third.name(), &OsEntropy).await;
        assert!(matches!(begun, Ok(Begun::Copy(_))), "{begun:?}");
    }
    let incomplete = third.serve(onward.clock()).await.expect_err("it is not complete");
    assert!(matches!(incomplete, OpenError::Incomplete { .. }), "{incomplete}");
    assert!(incomplete.to_string().contains("countersign store copy"), "{incomplete}");
    let other = World { from: to, to: third, ..World::new(to, third) };
    let refused = other.copy().await.expect_err("the target is another copy's");
    assert_eq!(refused, CopyError::TargetTaken { to: third.name(), from: from.name() });
    let refused = World { from: third, to, ..World::new(third, to) }.copy().await.expect_err("no source");
    assert_eq!(refused, CopyError::SourceIncomplete(third.name()));
    world.serve(from).await.close().await;

    onward.copy().await.expect("it is copied");
    let refused = world.copy().await.expect_err("the source is no more");
    assert_eq!(refused, CopyError::HandedOver { from: from.name(), to: third.name() });

    // The one that was handed over may be replaced by who has its records, and by nobody else.
    let refused =
        World { from: to, to: from, ..World::new(to, from) }.copy().await.expect_err("not its copy");
    let (to, taken_by) = (from.name(), third.name());
    assert_eq!(refused, CopyError::TargetHandedOver { to, taken_by, from: other.from.name() });
    World::new(third, from).copy().await.expect("it comes back");
}

/// Only the copy that a store receives may write to it, and a token has one ending.
pub async fn a_store_that_receives_takes_nothing_else(from: &dyn CopyPlace, to: &dyn CopyPlace) {
    let world = World::new(from, to);
    let end = to.end(world.clock()).await;
    let (mine, other) = (CopyId::from_text("mine".to_owned()), CopyId::from_text("other".to_owned()));
    let ((id, expires), at) = (world.token(), world.clock.now());
    let record = Record { id, expires, ending: Ending::Revoked { at } };
    let lines = Lines {
        fence: before(at, LIFETIME),
        horizon: Horizon { created: before(at, LIFETIME * 2), expires: before(at, LIFETIME) },
    };
    assert_eq!(end.replace(&mine, None, None, &[]).await, Err(CopyError::Changed));
    assert_eq!(end.receive(&mine, "there").await, Ok(true));
    assert_eq!(end.receive(&other, "there").await, Ok(false));
    assert_eq!(end.replace(&other, None, None, &[]).await, Err(CopyError::Changed));
    assert_eq!(end.set_lines(&other, lines).await, Err(CopyError::Changed));
    assert_eq!(end.serve(&other).await, Err(CopyError::Changed));
    assert_eq!(end.hand_over(&other, "there").await, Err(CopyError::Changed));
    for _ in 0..2 {
        assert_eq!(end.replace(&mine, None, None, std::slice::from_ref(&record)).await, Ok(()));
    }
    let ending = Ending::Consumed(Consumption { at, by: None, retry_key: None });
    let conflict = Record { ending, ..record.clone() };
    assert_eq!(end.replace(&mine, None, None, &[conflict]).await, Err(CopyError::Conflict(id)));
    assert_eq!(end.records_after(None, 9).await, Ok(vec![record.clone()]));
    assert_eq!(end.records_after(Some(id), 9).await, Ok(vec![]));
    assert_eq!(end.last_id().await, Ok(Some(id)));
    assert_eq!(end.set_lines(&mine, lines).await, Ok(()));
    assert_eq!(end.lines().await, Ok(lines));
    assert_eq!(summarize(&*end).await.map(|summary| summary.records), Ok(1));
    assert_eq!(end.replace(&mine, None, None, &[]).await, Ok(()));
    assert_eq!(end.records_after(None, 9).await, Ok(vec![]), "what the source does not have goes");
    assert_eq!(end.serve(&mine).await, Ok(()));
    assert_eq!(end.state().await, Ok(CopyState::Serving { made_by: Some(mine.clone()) }));
    assert_eq!(end.replace(&mine, None, None, &[record]).await, Err(CopyError::Changed));
    assert_eq!(end.hand_over(&other, "there").await, Ok(()));
    assert_eq!(end.hand_over(&other, "there").await, Ok(()));
    assert_eq!(end.hand_over(&mine, "there").await, Err(CopyError::Changed));
    assert_eq!(end.serve(&other).await, Err(CopyError::Changed));
}

/// An end that fails from some call on, before or after the effect of the first.
#[derive(Debug)]
struct Cutting {
    inner: Arc<dyn CopyEnd>,
    calls: Arc<AtomicUsize>,
    effect: bool,
}

impl Cutting {
    async fn cut<T, E: From<StoreError>>(
        &self,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        let away = || E::from(StoreError::Unavailable("cut".to_owned()));
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
impl CopyEnd for Cutting {
    async fn state(&self) -> Result<CopyState, StoreError> {
        self.cut(self.inner.state()).await
    }
    async fn lines(&self) -> Result<Lines, StoreError> {
        self.cut(self.inner.lines()).await
    }
    async fn records_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.cut(self.inner.records_after(after, limit)).await
    }
    async fn last_id(&self) -> Result<Option<TokenId>, StoreError> {
        self.cut(self.inner.last_id()).await
    }
    async fn receive(&self, copy: &CopyId, from: &str) -> Result<bool, CopyError> {
        self.cut(self.inner.receive(copy, from)).await
    }
    async fn replace(
        &self,
        copy: &CopyId,
        after: Option<TokenId>,
        until: Option<TokenId>,
        records: &[Record],
    ) -> Result<(), CopyError> {
        self.cut(self.inner.replace(copy, after, until, records)).await
    }
    async fn set_lines(&self, copy: &CopyId, lines: Lines) -> Result<(), CopyError> {
        self.cut(self.inner.set_lines(copy, lines)).await
    }
    async fn hand_over(&self, copy: &CopyId, to: &str) -> Result<(), CopyError> {
        self.cut(self.inner.hand_over(copy, to)).await
    }
    async fn serve(&self, copy: &CopyId) -> Result<(), CopyError> {
        self.cut(self.inner.serve(copy)).await
    }
}
