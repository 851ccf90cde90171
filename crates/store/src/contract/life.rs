//! Opening, counting, readiness, closing and opening again.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, Horizon, StoreError, after};

use super::Subject;
use super::fixture::{Fixture, LIFETIME, beginning};

/// Both kinds, and nothing that was only asked about or rejected.
pub async fn stats_count_the_records(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    for n in 0..7 {
        let token = f.token();
        let ending = if n < 3 { f.revocation() } else { f.consumption() };
        assert_eq!(f.end(token, &ending).await, Ok(EndResult::Recorded));
        assert!(matches!(f.consume(token).await, EndResult::Already(_)));
        f.look_up(f.token()).await;
    }
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!((stats.consumed, stats.revoked), (4, 3));
    assert!(stats.schema > 0);
    assert!(!stats.kind.is_empty());
}

/// Ready from the first moment, again and again, and whether or not time passes.
pub async fn store_is_ready_until_closed(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    for _ in 0..3 {
        assert_eq!(f.store.ready().await, Ok(()));
        assert_eq!(f.store.ready().await, Ok(()));
        f.clock.advance(Duration::from_mins(1));
    }
    f.clock.set(beginning());
    assert_eq!(f.store.ready().await, Ok(()));
    f.store.close().await;
    assert!(matches!(f.store.ready().await, Err(StoreError::Unavailable(_))));
}

/// After closing, everything fails and nothing hangs; closing again does nothing.
pub async fn closed_store_is_unavailable(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let token = f.token();
    f.store.close().await;
    f.store.close().await;
    let now = f.clock.now();
    let answers = [
        f.end(token, &f.consumption()).await.map(drop),
        f.store.look_up(token.id, token.expires).await.map(drop),
        f.store.move_fence(now).await.map(drop),
        f.store.purge(now).await.map(drop),
        f.store.times().await.map(drop),
        f.store.stats().await.map(drop),
        f.store.ready().await,
    ];
    for answer in answers {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
}

/// Every call made before the store closed gets an answer, and "recorded" is always true.
pub async fn closing_answers_calls_in_flight(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let ends: Vec<_> = (0..256).map(|_| (f.token(), f.consumption())).collect();
    let store = Arc::clone(&f.store);
    let closing = tokio::spawn(async move {
        tokio::task::yield_now().await;
        store.close().await;
    });
    let answers = super::races::all_at_once(&f, ends.clone()).await;
    closing.await.expect("the task ends");
    let mut recorded = Vec::new();
    for ((token, ending), answer) in ends.into_iter().zip(answers) {
        match answer {
            Ok(EndResult::Recorded) => recorded.push((token, ending)),
            Err(StoreError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    if subject.is_durable() {
        let again = f.open_again(subject).await;
        for (token, ending) in recorded {
            assert_eq!(again.look_up(token).await, EndResult::Already(ending));
        }
    }
}

/// A durable store knows everything again, whether it was closed or just dropped; the others have a new fence, so that
/// no token lives twice.
pub async fn reopening_finds_everything(subject: &dyn Subject) {
    let mut f = Fixture::new(subject).await;
    let mut known = Vec::new();
    for orderly in [true, false, true] {
        for ending in [f.consumption(), f.revocation()] {
            let token = f.token();
            assert_eq!(f.end(token, &ending).await, Ok(EndResult::Recorded));
            known.push((token, ending));
        }
        f.clock.advance(Duration::from_secs(1));
        if orderly {
            f.store.close().await;
        }
        f = f.open_again(subject).await;
        for (token, ending) in &known {
            let expected =
                if subject.is_durable() { EndResult::Already(ending.clone()) } else { EndResult::Fenced };
            assert_eq!(f.look_up(*token).await, expected);
            assert_eq!(f.consume(*token).await, expected);
        }
        if subject.is_durable() {
            let stats = f.store.stats().await.expect("the store answers");
            assert_eq!(stats.fence, beginning(), "opening again moves no fence");
        }
    }
}

/// Both watermarks are durable.
pub async fn reopening_after_a_purge_keeps_the_horizon(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (token, unused) = (f.token(), f.token());
    let fence = after(beginning(), Duration::from_secs(1));
    let cutoff = after(token.expires, LIFETIME);
    assert_eq!(f.consume(token).await, EndResult::Recorded);
    assert_eq!(f.store.purge(cutoff).await, Ok(1));
    assert_eq!(f.store.move_fence(fence).await, Ok(fence));
    f.clock.advance(Duration::from_secs(2));
    let f = f.open_again(subject).await;
    for token in [token, unused] {
        assert_eq!(f.consume(token).await, EndResult::Fenced);
    }
    let times = f.store.times().await.expect("the store answers");
    if subject.is_durable() {
        let horizon = Horizon { created: token.id.created(), expires: token.expires };
        assert_eq!((times.fence, times.horizon), (fence, horizon));
    } else {
        assert_eq!(times.fence, f.clock.now());
    }
}
