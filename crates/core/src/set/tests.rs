use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use jiff::SignedDuration;

use super::*;
use crate::handshake::{Refusal, StatedAudience};
use crate::{EndingQuery, Endings, Horizon, ManualClock, SequenceEntropy, StoreStats, StoreTimes, before};

/// The least a store can be; the real ones have a contract test-suite of their own.
#[derive(Debug, Default)]
struct TestStore {
    endings: Mutex<HashMap<TokenId, Ending>>,
    away: Mutex<bool>,
    /// What it says of the time; a shared store has a clock.
    times: Mutex<StoreTimes>,
    purged_before: Mutex<Option<Timestamp>>,
    /// How often it was asked for the time.
    asked_for_times: Mutex<u32>,
    /// A clock that goes on by so much before it answers.
    slow: Mutex<Option<(Arc<ManualClock>, Duration)>>,
}

#[async_trait]
impl TokenStore for TestStore {
    async fn end(&self, id: TokenId, _expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        if *self.away.lock().unwrap() {
            return Err(StoreError::unavailable("away"));
        }
        let mut endings = self.endings.lock().unwrap();
        if let Some(first) = endings.get(&id) {
            return Ok(EndResult::Already(first.clone()));
        }
        if id.created() < self.times.lock().unwrap().fence {
            return Ok(EndResult::Fenced);
        }
        endings.insert(id, ending);
        Ok(EndResult::Recorded)
    }

    async fn look_up(&self, id: TokenId, _expires: Timestamp) -> Result<EndResult, StoreError> {
        Ok(self.endings.lock().unwrap().get(&id).cloned().map_or(EndResult::Recorded, EndResult::Already))
    }

    async fn endings(&self, _query: &EndingQuery) -> Result<Endings, StoreError> {
        Err(StoreError::Busy)
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        self.times.lock().unwrap().fence = to;
        Ok(to)
    }

    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        *self.purged_before.lock().unwrap() = Some(cutoff);
        Ok(0)
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        *self.asked_for_times.lock().unwrap() += 1;
        let times = self.times.lock().unwrap().clone();
        if let Some((clock, by)) = &*self.slow.lock().unwrap() {
            clock.advance(*by);
        }
        Ok(times)
    }

    fn is_shared(&self) -> bool {
        self.times.lock().unwrap().clock.is_some()
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Err(StoreError::Busy)
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

struct Fixture {
    set: LoginTokenSet,
    clock: Arc<ManualClock>,
    store: Arc<TestStore>,
}

fn fixture(policy: Policy) -> Fixture {
    let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
    let entropy = Arc::new(SequenceEntropy::default());
    let keys = KeyRing::generate(clock.now(), &*entropy).unwrap();
    let store = Arc::new(TestStore::default());
    let set = LoginTokenSet::new(keys, store.clone(), clock.clone(), entropy, policy);
    Fixture { set, clock, store }
}

fn post() -> Attempt {
    Attempt { is_post: true, audience: StatedAudience::None, retry_key: None }
}

async fn verdict(set: &LoginTokenSet, text: &TokenText) -> Verdict {
    set.redeem(text.expose(), &post(), None).await.unwrap().verdict
}

#[tokio::test]
async fn token_is_redeemed_once_and_lookup_consumes_nothing() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let issued = set.issue(NewToken::default()).unwrap();
    let text = issued.text.expose();
    assert_eq!(set.get(text).await.unwrap(), Lookup { token: issued.token.clone(), status: Status::Live });
    assert_eq!(set.get(text).await.unwrap().status, Status::Live);
    let now = clock.now();
    assert_eq!(verdict(&set, &issued.text).await, Verdict::Accepted { consumed: now, again: false });
    let first = Consumption { at: now, by: None, retry_key: None };
    assert_eq!(set.get(text).await.unwrap().status, Status::Consumed(first.clone()));
    assert_eq!(verdict(&set, &issued.text).await, Verdict::Rejected(Refusal::Replay(first)));
}

#[tokio::test]
async fn consuming_one_token_leaves_the_others_alone() {
    let Fixture { set, .. } = fixture(Policy::default());
    let tokens: Vec<_> = (0..3).map(|_| set.issue(NewToken::default()).unwrap().text).collect();
    verdict(&set, &tokens[1]).await;
    assert_eq!(set.get(tokens[0].expose()).await.unwrap().status, Status::Live);
    assert_eq!(set.get(tokens[2].expose()).await.unwrap().status, Status::Live);
}

#[tokio::test]
async fn revoked_token_is_refused_and_consumed_one_stays() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let revoked = set.issue(NewToken::default()).unwrap().text;
    assert_eq!(set.revoke(revoked.expose()).await, Ok(true));
    assert_eq!(set.revoke(revoked.expose()).await, Ok(false));
    assert_eq!(verdict(&set, &revoked).await, Verdict::Rejected(Refusal::Revoked));
    assert_eq!(set.get(revoked.expose()).await.unwrap().status, Status::Revoked { at: clock.now() });
    let consumed = set.issue(NewToken::default()).unwrap().text;
    verdict(&set, &consumed).await;
    assert_eq!(set.revoke(consumed.expose()).await, Ok(false));
    let expired = set.issue(NewToken::default()).unwrap().text;
    clock.advance(set.policy().lifetime);
    assert_eq!(set.revoke(expired.expose()).await, Ok(false));
    assert_eq!(set.get(expired.expose()).await.unwrap().status, Status::Expired);
}

#[tokio::test]
async fn unreachable_store_blocks_redeeming_but_not_issuing() {
    let Fixture { set, store, .. } = fixture(Policy::default());
    *store.away.lock().unwrap() = true;
    let text = set.issue(NewToken::default()).unwrap().text;
    let error = set.redeem(text.expose(), &post(), None).await.unwrap_err();
    assert_eq!(error, RedeemError(StoreError::unavailable("away")));
    *store.away.lock().unwrap() = false;
    assert!(matches!(verdict(&set, &text).await, Verdict::Accepted { .. }));
}

#[tokio::test]
async fn foreign_tokens_never_reach_the_store() {
    let Fixture { set, store, .. } = fixture(Policy::default());
    *store.away.lock().unwrap() = true;
    let redemption = set.redeem("cs1nonsense", &post(), None).await.unwrap();
    assert_eq!(redemption, Redemption { verdict: Verdict::Rejected(Refusal::NotOurs), token: None });
    assert_eq!(set.get("cs1nonsense").await, Err(GetError::NotOurs(UnsealError)));
    assert_eq!(set.revoke("").await, Err(GetError::NotOurs(UnsealError)));
}

#[test]
fn issuing_follows_the_policy() {
    let Fixture { set, .. } = fixture(Policy { require_audience: true, ..Policy::default() });
    assert!(set.policy().require_audience);
    assert_eq!(set.issue(NewToken::default()).unwrap_err(), IssueError::AudienceRequired);
    let bound =
        NewToken { audience: Some(Audience::parse("https://a.example/").unwrap()), ..NewToken::default() };
    let token = set.issue(bound.clone()).unwrap().token;
    assert_eq!(token.expires() - token.created(), SignedDuration::from_mins(5));
    for (seconds, fine) in [(0, false), (1, true), (86_400, true), (86_401, false)] {
        let wanted = NewToken { lifetime: Some(Duration::from_secs(seconds)), ..bound.clone() };
        assert_eq!(set.issue(wanted).is_ok(), fine, "{seconds}");
    }
}

#[tokio::test]
async fn keys_rotate_under_live_tokens() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let before = set.issue(NewToken::default()).unwrap().text;
    let mut keys = KeyRing::clone(&set.keys());
    let rotate = crate::KeyChange::Rotate { activate_in: Duration::ZERO };
    keys.change(rotate, clock.now(), &crate::OsEntropy).unwrap();
    set.use_file(keys);
    let after = set.issue(NewToken::default()).unwrap().text;
    assert_ne!(before.expose()[..8], after.expose()[..8], "the key's id is in the text");
    for text in [before, after] {
        assert!(matches!(verdict(&set, &text).await, Verdict::Accepted { .. }));
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes of one store: the second one's clock is ahead of the first one's, which is the store's.
fn neighbours(ahead: Duration) -> (Fixture, Fixture) {
    let one = fixture(Policy::default());
    let clock = Arc::new(ManualClock::at(after(one.clock.now(), ahead)));
    let keys = KeyRing::clone(&one.set.keys());
    one.store.times.lock().unwrap().clock = Some(one.clock.now());
    let entropy = Arc::new(crate::OsEntropy);
    let set = LoginTokenSet::new(keys, one.store.clone(), clock.clone(), entropy, Policy::default());
    let store = Arc::clone(&one.store);
    (one, Fixture { set, clock, store })
}

/// Time passes on both nodes and in the store.
fn pass(one: &Fixture, other: &Fixture, by: Duration) {
    one.clock.advance(by);
    other.clock.advance(by);
    one.store.times.lock().unwrap().clock = Some(one.clock.now());
}

#[tokio::test]
async fn node_with_a_wrong_clock_refuses_until_corrected() {
    for wrong in [Duration::from_hours(72), Duration::from_secs(31)] {
        let (right, node) = neighbours(wrong);
        let token = right.set.issue(NewToken::default()).unwrap().text;
        node.set.keep_time().await.unwrap();
        let trouble = ClockError::Apart(SignedDuration::try_from(wrong).unwrap());
        assert_eq!(node.set.clock_trouble(), Some(trouble.clone()));
        assert_eq!(node.set.issue(NewToken::default()).unwrap_err(), IssueError::Clock(trouble.clone()));
        let refused = StoreError::Clock(trouble.clone());
        let redeemed = node.set.redeem(token.expose(), &post(), None).await;
        assert_eq!(redeemed.unwrap_err(), RedeemError(refused.clone()));
        assert_eq!(node.set.revoke(token.expose()).await.unwrap_err(), GetError::Store(refused.clone()));
        assert_eq!(node.set.purge().await.unwrap_err(), refused);
        assert_eq!(node.set.purge_waits(), Some(trouble));
        let forged = node.set.redeem("cs1nonsense", &post(), None).await.unwrap();
        assert_eq!(forged.verdict, Verdict::Rejected(Refusal::NotOurs), "arithmetic needs no clock");

        node.clock.set(right.clock.now());
        assert_eq!(node.set.clock_trouble(), None, "the steady clock tells what the store's shows");
        assert!(matches!(verdict(&node.set, &token).await, Verdict::Accepted { .. }));
    }
}

#[tokio::test]
async fn clock_set_while_serving_is_noticed_at_once() {
    let (right, node) = neighbours(Duration::ZERO);
    node.set.keep_time().await.unwrap();
    assert_eq!(node.set.clock_trouble(), None);
    node.clock.set(after(right.clock.now(), Duration::from_hours(1)));
    assert!(matches!(node.set.issue(NewToken::default()), Err(IssueError::Clock(ClockError::Apart(_)))));
    node.clock.set(before(right.clock.now(), Duration::from_hours(1)));
    assert!(matches!(node.set.issue(NewToken::default()), Err(IssueError::Clock(ClockError::Apart(_)))));
    // A machine that slept has a steady clock that slept, too; the store knows better.
    right.clock.advance(Duration::from_hours(1));
    node.clock.set(right.clock.now());
    assert!(node.set.issue(NewToken::default()).is_err());
    right.store.times.lock().unwrap().clock = Some(right.clock.now());
    node.set.keep_time().await.unwrap();
    assert!(node.set.issue(NewToken::default()).is_ok());
}

#[tokio::test]
async fn slow_store_does_not_condemn_the_clock() {
    let node = fixture(Policy::default());
    let answer_after = |by: Duration| {
        let mut times = node.store.times.lock().unwrap();
        times.clock = Some(node.clock.now());
        times.fence = node.clock.now();
        *node.store.slow.lock().unwrap() = Some((node.clock.clone(), by));
    };
    answer_after(40 * SECOND);
    node.set.keep_time().await.unwrap();
    assert_eq!((node.set.clock_trouble(), node.set.clock_offset()), (None, None), "it has told nothing yet");
    answer_after(SECOND);
    node.set.keep_time().await.unwrap();
    let offset = node.set.clock_offset();
    assert_eq!(offset, Some(SignedDuration::from_secs(1)));
    answer_after(40 * SECOND);
    let fence = node.clock.now();
    node.set.keep_time().await.unwrap();
    assert_eq!(node.set.known_fence(), Some(fence), "where the fence stands counts");
    assert_eq!((node.set.clock_trouble(), node.set.clock_offset()), (None, offset));
    // The clock is still compared with the steady clock.
    node.clock.set(after(node.clock.now(), Duration::from_hours(1)));
    assert!(matches!(node.set.clock_trouble(), Some(ClockError::Apart(_))));
}

#[tokio::test]
async fn fence_refuses_tokens_of_a_node_that_is_ahead() {
    for ahead in [Duration::ZERO, 25 * SECOND, 30 * SECOND] {
        let (one, other) = neighbours(ahead);
        for set in [&one.set, &other.set] {
            set.keep_time().await.unwrap();
        }
        let issued = other.set.issue(NewToken::default()).unwrap().token;
        let fence = one.set.fence().await.unwrap();
        assert!(issued.created() < fence, "{ahead:?}: {} {fence}", issued.created());
    }
}

#[tokio::test]
async fn refused_token_makes_the_node_reread_the_fence() {
    let (one, other) = neighbours(Duration::ZERO);
    other.set.keep_time().await.unwrap();
    let old = other.set.issue(NewToken::default()).unwrap().text;
    let fence = one.set.fence().await.unwrap();
    assert_eq!(verdict(&other.set, &old).await, Verdict::Rejected(Refusal::Fenced));
    assert_eq!(other.set.known_fence(), Some(fence));
    let new = other.set.issue(NewToken::default()).unwrap().text;
    assert!(matches!(verdict(&other.set, &new).await, Verdict::Accepted { .. }), "it is issued at the fence");
}

#[tokio::test]
async fn only_a_fenced_refusal_rereads_the_times() {
    let (_, node) = neighbours(Duration::ZERO);
    let text = node.set.issue(NewToken::default()).unwrap().text;
    assert!(matches!(verdict(&node.set, &text).await, Verdict::Accepted { .. }));
    assert!(matches!(verdict(&node.set, &text).await, Verdict::Rejected(Refusal::Replay(_))));
    assert_eq!(*node.store.asked_for_times.lock().unwrap(), 0, "each would be a round trip more");
    let alone = fixture(Policy::default());
    alone.store.times.lock().unwrap().fence = after(alone.clock.now(), SECOND);
    let text = alone.set.issue(NewToken::default()).unwrap().text;
    assert_eq!(verdict(&alone.set, &text).await, Verdict::Rejected(Refusal::Fenced));
    assert_eq!(*alone.store.asked_for_times.lock().unwrap(), 0, "no other node can have moved its fence");
}

#[tokio::test]
async fn token_issued_after_a_fence_is_good_on_every_node() {
    let (one, other) = neighbours(55 * SECOND);
    one.store.times.lock().unwrap().clock = Some(after(one.clock.now(), 27 * SECOND));
    for (fencing, verifying) in [(&one, &other), (&other, &one)] {
        let fence = fencing.set.fence().await.unwrap();
        for issuing in [&one, &other] {
            issuing.set.keep_time().await.unwrap();
            let issued = issuing.set.issue(NewToken::default()).unwrap();
            assert!(issued.token.created() >= fence, "{} {fence}", issued.token.created());
            let verdict = verdict(&verifying.set, &issued.text).await;
            assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
        }
        for node in [&one, &other] {
            node.clock.advance(SECOND);
        }
        one.store.times.lock().unwrap().clock = Some(after(one.clock.now(), 27 * SECOND));
    }
}

#[tokio::test]
async fn nodes_near_the_stores_clock_accept_each_others_tokens() {
    let (one, ahead) = neighbours(25 * SECOND);
    let behind = before(one.clock.now(), 25 * SECOND);
    let token = ahead.set.issue(NewToken::default()).unwrap().text;
    one.clock.set(behind);
    assert!(matches!(verdict(&one.set, &token).await, Verdict::Accepted { .. }), "50 s apart");
    let far = ahead.set.issue(NewToken::default()).unwrap().text;
    one.store.times.lock().unwrap().clock = Some(behind);
    one.set.keep_time().await.unwrap();
    assert_eq!(verdict(&one.set, &far).await, Verdict::Rejected(Refusal::FromTheFuture));
}

#[tokio::test]
async fn token_is_revoked_although_this_clock_says_it_has_expired() {
    let (one, ahead) = neighbours(30 * SECOND);
    let token = one.set.issue(NewToken::default()).unwrap().text;
    pass(&one, &ahead, Duration::from_secs(280));
    assert_eq!(ahead.set.revoke(token.expose()).await, Ok(false), "it has expired here");
    assert_eq!(verdict(&one.set, &token).await, Verdict::Rejected(Refusal::Revoked), "and was live there");
}

#[tokio::test]
async fn revocation_is_recorded_for_clocks_a_minute_behind() {
    for (passed, is_recorded) in [(270, true), (329, true), (330, false)] {
        let (one, ahead) = neighbours(30 * SECOND);
        let issued = one.set.issue(NewToken::default()).unwrap();
        pass(&one, &ahead, Duration::from_secs(passed));
        assert_eq!(ahead.set.revoke(issued.text.expose()).await, Ok(false), "expired here, {passed} s");
        let recorded = one.store.endings.lock().unwrap().contains_key(&issued.token.id());
        assert_eq!(recorded, is_recorded, "{passed} s");
    }
}

#[tokio::test]
async fn purge_goes_by_the_earlier_of_two_clocks() {
    let purged = |fixture: &Fixture| fixture.store.purged_before.lock().unwrap().unwrap();
    for (ahead, earlier) in [(25 * SECOND, Duration::ZERO), (Duration::ZERO, Duration::ZERO)] {
        let (one, node) = neighbours(ahead);
        node.set.purge().await.unwrap();
        assert_eq!(purged(&node), before(one.clock.now() + earlier, node.set.policy().retention));
    }
    let (one, node) = neighbours(Duration::ZERO);
    node.clock.set(before(one.clock.now(), 25 * SECOND));
    node.set.purge().await.unwrap();
    assert_eq!(purged(&node), before(node.clock.now(), node.set.policy().retention));
}

#[tokio::test]
async fn clock_that_is_set_purges_nothing_until_it_has_been_steady() {
    let Fixture { set, clock, store } = fixture(Policy::default());
    set.keep_time().await.unwrap();
    assert_eq!(set.purge_waits(), Some(ClockError::New));
    clock.advance(STEADY);
    assert_eq!(set.purge_waits(), None);
    let hour = Duration::from_hours(1);
    for set_to in [after(clock.now(), hour), before(clock.now(), hour)] {
        let by = set_to.duration_since(clock.now());
        clock.set(set_to);
        assert_eq!(set.purge().await.unwrap_err(), StoreError::Clock(ClockError::Set(by)));
        assert_eq!(set.clock_warning(), Some(ClockError::Set(by)));
        assert_eq!(set.clock_trouble(), None, "there is no second clock that could be right");
        assert_eq!(*store.purged_before.lock().unwrap(), None);
        clock.advance(STEADY.saturating_sub(SECOND));
        assert_eq!(set.purge_waits(), Some(ClockError::Set(by)));
        clock.advance(SECOND);
        assert_eq!((set.purge_waits(), set.clock_warning()), (None, None));
    }
    set.purge().await.unwrap();
    assert!(store.purged_before.lock().unwrap().is_some());
}

#[tokio::test]
async fn clock_set_by_a_tolerated_step_stays_steady() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    set.keep_time().await.unwrap();
    clock.advance(STEADY);
    clock.set(after(clock.now(), CLOCK_SKEW));
    assert_eq!(set.purge_waits(), None);
    let millisecond = Duration::from_millis(1);
    clock.set(after(clock.now(), millisecond));
    let by = SignedDuration::try_from(CLOCK_SKEW + millisecond).unwrap();
    assert_eq!(set.purge_waits(), Some(ClockError::Set(by)));
}

#[tokio::test]
async fn clock_behind_the_records_neither_purges_nor_fences() {
    let Fixture { set, clock, store } = fixture(Policy::default());
    let newest = after(clock.now(), Duration::from_secs(31));
    store.times.lock().unwrap().newest = Some(newest);
    let trouble = ClockError::BehindRecords(newest);
    assert_eq!(set.purge().await.unwrap_err(), StoreError::Clock(trouble.clone()));
    assert_eq!(set.fence().await.unwrap_err(), StoreError::Clock(trouble.clone()));
    assert_eq!((set.clock_warning(), set.clock_trouble()), (Some(trouble), None));
    clock.advance(SECOND);
    set.purge().await.unwrap();
    set.fence().await.unwrap();
    assert_eq!(set.clock_warning(), None);
}

#[tokio::test]
async fn unredeemable_token_is_not_issued() {
    let Fixture { set, clock, store } = fixture(Policy::default());
    let first = after(clock.now(), Duration::from_secs(61));
    let horizon = Horizon { created: before(first, Duration::from_millis(1)), expires: Timestamp::MAX };
    *store.times.lock().unwrap() = StoreTimes { horizon, ..StoreTimes::default() };
    set.keep_time().await.unwrap();
    let trouble = ClockError::BehindWatermark(first);
    assert_eq!(set.issue(NewToken::default()).unwrap_err(), IssueError::Clock(trouble.clone()));
    assert_eq!(set.clock_trouble(), Some(trouble));
    clock.advance(SECOND);
    assert_eq!(set.issue(NewToken::default()).unwrap().token.created(), first);
    clock.advance(60 * SECOND);
    assert_eq!(set.issue(NewToken::default()).unwrap().token.created(), clock.now());
}
