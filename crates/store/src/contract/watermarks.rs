//! The fence and the horizon.

use std::time::Duration;

use countersign_core::{Clock, EndResult, Horizon, after, before};

use super::Subject;
use super::fixture::{Fixture, LIFETIME, beginning};

const HOUR: Duration = Duration::from_hours(1);
const MS: Duration = Duration::from_millis(1);

/// A new store rejects what was created before it, and takes what is created from then on.
pub async fn fence_of_a_new_store_is_its_creation(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!(stats.fence, beginning());
    let times = f.store.times().await.expect("the store answers");
    assert_eq!((times.fence, times.horizon), (beginning(), Horizon::NONE), "nothing has been purged");

    let old = f.token_at(before(beginning(), MS), LIFETIME);
    assert_eq!(f.look_up(old).await, EndResult::Fenced);
    assert_eq!(f.consume(old).await, EndResult::Fenced);
    assert_eq!(f.consume(old).await, EndResult::Fenced, "a refusal leaves no record");
    assert_eq!(f.consume(f.token()).await, EndResult::Recorded);
}

/// It goes where it is told, but never back; and what is created at the fence is not before it. Each time it moves it
/// rejects what has been created so far, at the fence itself, too.
pub async fn fence_only_moves_forward(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let issued = f.token();
    let line = after(beginning(), HOUR);
    assert_eq!(f.store.move_fence(line).await, Ok(line));
    assert_eq!(f.consume(f.token_at(line, LIFETIME)).await, EndResult::Recorded);
    let at_the_fence = f.token_at(line, LIFETIME);
    let line = after(line, MS);
    assert_eq!(f.store.move_fence(before(line, MS)).await, Ok(line));
    let line = after(line, MS);
    assert_eq!(f.store.move_fence(beginning()).await, Ok(line));
    assert_eq!(f.store.stats().await.map(|stats| stats.fence), Ok(line));

    for issued in [issued, at_the_fence] {
        assert_eq!(f.consume(issued).await, EndResult::Fenced);
        assert_eq!(f.look_up(issued).await, EndResult::Fenced);
    }
    assert_eq!(f.consume(f.token_at(before(line, MS), LIFETIME)).await, EndResult::Fenced);
    assert_eq!(f.consume(f.token_at(line, LIFETIME)).await, EndResult::Recorded);
}

/// "A record on file is reported before the watermarks are looked at."
pub async fn record_is_reported_behind_the_fence(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (token, ending) = (f.token(), f.consumption());
    assert_eq!(f.end(token, &ending).await, Ok(EndResult::Recorded));
    f.clock.advance(HOUR);
    f.store.move_fence(f.clock.now()).await.expect("the store answers");
    assert_eq!(f.consume(token).await, EndResult::Already(ending.clone()));
    assert_eq!(f.look_up(token).await, EndResult::Already(ending));
}

/// The same behind the horizon: a record that expires exactly at the cutoff is kept, and reported.
pub async fn record_is_reported_beyond_the_horizon(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (token, ending) = (f.token(), f.revocation());
    let younger = f.token_at(after(beginning(), MS), LIFETIME.saturating_sub(MS * 2));
    assert_eq!(f.end(token, &ending).await, Ok(EndResult::Recorded));
    assert_eq!(f.consume(younger).await, EndResult::Recorded);
    assert_eq!(f.store.purge(token.expires).await, Ok(1));
    assert_eq!(f.look_up(token).await, EndResult::Already(ending.clone()));
    assert_eq!(f.consume(token).await, EndResult::Already(ending));
}

/// A token behind both watermarks was rejected by the fence.
pub async fn fence_is_judged_before_the_horizon(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let token = f.token();
    let line = after(token.expires, MS);
    assert_eq!(f.consume(token).await, EndResult::Recorded);
    assert_eq!(f.store.purge(line).await, Ok(1));
    assert_eq!(f.look_up(token).await, EndResult::Forgotten);
    assert_eq!(f.consume(token).await, EndResult::Forgotten);
    f.store.move_fence(line).await.expect("the store answers");
    assert_eq!(f.look_up(token).await, EndResult::Fenced);
    assert_eq!(f.consume(token).await, EndResult::Fenced);
}

/// "Expired before `cutoff`": to the millisecond, both kinds of endings, and no more than once.
pub async fn purge_removes_endings_that_expired_before(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (early, exact, late) =
        (f.token_for(LIFETIME.saturating_sub(MS)), f.token_for(LIFETIME), f.token_for(LIFETIME + MS));
    let revoked = f.token_for(Duration::from_secs(1));
    for token in [early, exact, late] {
        assert_eq!(f.consume(token).await, EndResult::Recorded);
    }
    assert_eq!(f.end(revoked, &f.revocation()).await, Ok(EndResult::Recorded));

    let line = exact.expires;
    assert_eq!(f.store.purge(line).await, Ok(2));
    assert_eq!(f.store.purge(line).await, Ok(0), "there is nothing left to remove");
    assert_eq!(f.look_up(early).await, EndResult::Forgotten);
    assert_eq!(f.look_up(revoked).await, EndResult::Forgotten);
    assert!(matches!(f.look_up(exact).await, EndResult::Already(_)));
    assert!(matches!(f.look_up(late).await, EndResult::Already(_)));
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!((stats.consumed, stats.revoked, stats.horizon), (2, 0, early.expires));
}

/// Ids sort by creation; that a token is older than one to be purged does not mean that it has expired.
pub async fn long_lived_tokens_survive_a_purge(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    for minute in 0..60 {
        let day = f.token_for(Duration::from_hours(24));
        let short = f.token();
        assert_eq!(f.consume(day).await, EndResult::Recorded);
        assert_eq!(f.consume(short).await, EndResult::Recorded);
        kept.push(day);
        let its_fate = if minute < 30 { &mut gone } else { &mut kept };
        its_fate.push(short);
        f.clock.advance(Duration::from_mins(1));
    }
    let line = after(beginning(), Duration::from_mins(30) + LIFETIME);
    assert_eq!(f.store.purge(line).await, Ok(30));
    for token in kept {
        assert!(matches!(f.look_up(token).await, EndResult::Already(_)), "{token:?}");
    }
    for token in gone {
        assert_eq!(f.consume(token).await, EndResult::Forgotten, "{token:?}");
    }
    // Nobody has used these, and their time is not over, although younger ones have been forgotten.
    assert_eq!(f.consume(f.token_at(beginning(), HOUR)).await, EndResult::Recorded);
    assert_eq!(f.store.purge(after(line, Duration::from_hours(48))).await, Ok(91));
}

/// The record is gone, so only the horizon knows; it does not ask a clock.
pub async fn purged_token_stays_dead_when_the_clock_steps_back(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (taken, unused) = (f.token(), f.token());
    assert_eq!(f.consume(taken).await, EndResult::Recorded);
    f.clock.advance(HOUR);
    assert_eq!(f.store.purge(before(f.clock.now(), LIFETIME)).await, Ok(1));
    f.clock.set(beginning());
    for token in [taken, unused] {
        assert_eq!(f.consume(token).await, EndResult::Forgotten);
        assert_eq!(f.look_up(token).await, EndResult::Forgotten);
    }
}

/// A purge with an earlier cutoff, after the clock has stepped back, takes nothing back; nor does one that removes records
/// of which one is the youngest and another expires last.
pub async fn horizon_only_moves_forward(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (token, unused) = (f.token(), f.token());
    assert_eq!(f.consume(token).await, EndResult::Recorded);
    f.store.purge(after(token.expires, MS)).await.expect("the store answers");
    f.store.purge(beginning()).await.expect("the store answers");
    let horizon = Horizon { created: beginning(), expires: token.expires };
    assert_eq!(f.store.times().await.map(|times| times.horizon), Ok(horizon));
    assert_eq!(f.consume(unused).await, EndResult::Forgotten);

    let young = f.token_at(after(beginning(), MS), MS);
    assert_eq!(f.consume(young).await, EndResult::Recorded, "younger than what has been removed");
    f.store.purge(after(token.expires, MS)).await.expect("the store answers");
    let horizon = Horizon { created: young.id.created(), ..horizon };
    assert_eq!(f.store.times().await.map(|times| times.horizon), Ok(horizon));
    for token in [token, unused, young] {
        assert_eq!(f.consume(token).await, EndResult::Forgotten);
    }
}

/// A purge by a clock that is wrong: what was issued until then may be rejected, what is issued later is good.
pub async fn purge_by_a_wrong_clock_harms_no_later_token(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (used, outstanding) = (f.token(), f.token());
    let late = f.token_for(LIFETIME + MS);
    assert_eq!(f.consume(used).await, EndResult::Recorded);
    let far = after(beginning(), HOUR * 24 * 200);
    assert_eq!(f.store.purge(far).await, Ok(1));
    assert_eq!(f.store.purge(far).await, Ok(0), "an empty store has nothing to forget");
    assert_eq!(f.consume(used).await, EndResult::Forgotten);
    assert_eq!(f.consume(outstanding).await, EndResult::Forgotten, "it may have been the one that was used");
    // A store that forgets a day as a whole takes each of its tokens for one that lived as long as any.
    let judged = f.consume(late).await;
    assert!(
        judged == EndResult::Recorded || (judged == EndResult::Forgotten && f.store.is_shared()),
        "{judged:?}"
    );
    f.clock.advance(MS);
    assert_eq!(f.consume(f.token()).await, EndResult::Recorded);
}

/// The youngest token on record, for a store that goes by its caller's clock; the clock, for one that has its own.
pub async fn store_reports_its_times(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let times = f.store.times().await.expect("the store answers");
    assert_eq!((times.fence, times.newest), (beginning(), None));
    assert_eq!(times.clock.is_some(), f.store.is_shared());
    let (old, young) = (f.token(), f.token_at(after(beginning(), HOUR), LIFETIME));
    for token in [young, old] {
        assert_eq!(f.consume(token).await, EndResult::Recorded);
    }
    let newest = f.store.times().await.expect("the store answers").newest;
    assert!(newest == Some(young.id.created()) || (newest.is_none() && f.store.is_shared()), "{newest:?}");
}

/// More records than any slice, with survivors among them: all that expired go, and only they.
pub async fn purging_works_in_slices(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (all, long) = (4321, 4321_u64.div_ceil(7));
    let mut ends = Vec::new();
    for n in 0..all {
        ends.push((f.token_for(if n % 7 == 0 { HOUR } else { LIFETIME }), f.consumption()));
        f.clock.advance(MS);
    }
    super::races::all_at_once(&f, ends)
        .await
        .into_iter()
        .for_each(|end| assert_eq!(end, Ok(EndResult::Recorded)));
    assert_eq!(f.store.purge(after(f.clock.now(), LIFETIME)).await, Ok(all - long));
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!(stats.consumed, long);
}
