//! The queue and the group commit.

use std::pin::pin;
use std::time::Duration;

use countersign_core::{EndResult, Ending, StoreError, TokenStore, after, to_millis};
use tokio::time::Instant;

use super::super::PURGE_REST;
use super::super::records::first_id_at;
use super::{Held, Place, consume, consume_all, consumption, look, poll_once};

#[tokio::test]
async fn calls_that_wait_share_a_commit() {
    let place = Place::new();
    let store = place.open().await;
    let held = Held::new(&store).await;
    let mut queued = Vec::new();
    for token in place.tokens(100) {
        queued.push(held.queue(token).await);
    }
    held.release().await;
    for call in queued {
        assert_eq!(call.0.await, Ok(EndResult::Recorded));
    }
    let counts = store.counts().unwrap();
    assert_eq!((counts.calls, counts.commits, counts.failures), (101, 2, 0));
    assert_eq!(counts.batches, [1, 0, 0, 0, 0, 0, 1, 0], "one of 1 and one of 100");
}

#[tokio::test]
async fn single_call_is_its_own_batch() {
    let place = Place::new();
    let store = place.open().await;
    for token in place.tokens(10) {
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    }
    let counts = store.counts().unwrap();
    assert_eq!((counts.calls, counts.commits, counts.failures), (10, 10, 0));
}

#[tokio::test]
async fn same_id_twice_in_a_batch_is_decided_by_order() {
    let place = Place::new();
    let store = place.open().await;
    let (token, other) = (place.token(), place.token());
    let held = Held::new(&store).await;
    let first = held.queue(token).await;
    let between = held.queue(other).await;
    let mut second = Box::pin(store.end(token.0, token.1, Ending::Revoked { at: token.1 }));
    assert!(poll_once(second.as_mut()).await.is_pending());
    held.release().await;
    assert_eq!(first.0.await, Ok(EndResult::Recorded));
    assert_eq!(between.0.await, Ok(EndResult::Recorded));
    assert_eq!(second.await, Ok(EndResult::Already(consumption(token.0.created()))));
    assert_eq!(store.counts().unwrap().commits, 2);
}

#[tokio::test]
async fn fence_applies_to_later_calls_of_its_batch() {
    let place = Place::new();
    let store = place.open().await;
    let (before, behind) = (place.token(), place.token());
    let held = Held::new(&store).await;
    let first = held.queue(before).await;
    let mut fence = Box::pin(store.move_fence(before.1));
    assert!(poll_once(fence.as_mut()).await.is_pending());
    let second = held.queue(behind).await;
    held.release().await;
    assert_eq!(first.0.await, Ok(EndResult::Recorded));
    assert_eq!(fence.await, Ok(before.1));
    assert_eq!(second.0.await, Ok(EndResult::Fenced));
    assert_eq!(store.counts().unwrap().commits, 2);
}

#[tokio::test]
async fn horizon_applies_to_later_calls_of_its_batch() {
    let place = Place::new();
    let store = place.open().await;
    let (before, behind) = (place.token(), place.token());
    let cutoff = to_millis(after(before.1, Duration::from_millis(1)));
    let held = Held::new(&store).await;
    let first = held.queue(before).await;
    let purge =
        store.writer.call(move |batch| batch.purge_slice(first_id_at(0), first_id_at(cutoff), cutoff));
    let mut purge = Box::pin(purge);
    assert!(poll_once(purge.as_mut()).await.is_pending());
    let second = held.queue(behind).await;
    held.release().await;
    assert_eq!(first.0.await, Ok(EndResult::Recorded));
    assert_eq!(second.0.await, Ok(EndResult::Forgotten));
    assert_eq!(store.counts().unwrap().commits, 2);
    assert_eq!(purge.await.unwrap().removed, 1);
}

#[tokio::test]
async fn full_queue_is_busy_at_once_and_writes_nothing() {
    let place = Place::new();
    let store = place.open_tampered(4, |_| Ok(()));
    let late = place.token();
    let held = Held::new(&store).await;
    let mut queued = Vec::new();
    for token in place.tokens(4) {
        queued.push(held.queue(token).await);
    }
    assert_eq!(consume(&store, late).await, Err(StoreError::Busy));
    assert_eq!(store.ready().await, Err(StoreError::Busy));
    assert_eq!(look(&store, late).await, EndResult::Recorded, "a look does not wait for the writer");
    held.release().await;
    for call in queued {
        assert_eq!(call.0.await, Ok(EndResult::Recorded));
    }
    assert_eq!(store.ready().await, Ok(()));
    assert_eq!(consume(&store, late).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn disconnected_caller_consumes_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    let held = Held::new(&store).await;
    drop(held.queue(token).await);
    held.release().await;
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn readiness_costs_at_most_one_commit_a_second() {
    let place = Place::new();
    let store = place.open().await;
    for expected in 1..=3 {
        for _ in 0..100 {
            assert_eq!(store.ready().await, Ok(()));
        }
        assert_eq!(store.counts().unwrap().commits, expected);
        place.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
    assert_eq!(store.ready().await, Ok(()), "the consumption has just shown that it works");
    assert_eq!(store.counts().unwrap().commits, 4);
}

#[tokio::test]
async fn replay_does_not_prove_that_writes_work() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    place.clock.advance(Duration::from_secs(1));
    assert!(matches!(consume(&store, token).await, Ok(EndResult::Already(_))));
    assert_eq!(store.counts().unwrap().commits, 2);
    assert_eq!(store.ready().await, Ok(()));
    assert_eq!(store.counts().unwrap().commits, 3, "it has tried for itself");
}

#[tokio::test]
async fn empty_purge_does_not_lock_the_writer() {
    let place = Place::new();
    let store = place.open().await;
    for token in place.tokens(50) {
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    }
    let cutoff = place.token().1;
    assert_eq!(store.purge(cutoff).await, Ok(0));
    assert_eq!(store.counts().unwrap().commits, 50, "a reader sees that there is nothing");
    place.clock.advance(Duration::from_millis(1));
    assert_eq!(store.purge(place.token().1).await, Ok(50));
    assert_eq!(store.counts().unwrap().commits, 51, "one for the slice");
}

#[tokio::test(start_paused = true)]
async fn large_purge_is_split_into_slices() {
    let place = Place::new();
    let store = place.open().await;
    consume_all(&store, place.tokens(750)).await;
    place.clock.advance(Duration::from_millis(1));
    let began = Instant::now();
    assert_eq!(store.purge(place.token().1).await, Ok(750));
    assert_eq!(store.counts().unwrap().commits, 1 + 3, "the rows, and three slices");
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits for a purge that is alone");
}

#[tokio::test(start_paused = true)]
async fn purge_lets_others_write_between_its_slices() {
    let place = Place::new();
    let store = place.open().await;
    consume_all(&store, place.tokens(2000)).await;
    place.clock.advance(Duration::from_millis(1));
    let (cutoff, began) = (place.token().1, Instant::now());
    let mut fresh = place.tokens(10_000).into_iter();
    let mut purge = pin!(store.purge(cutoff));
    // Somebody writes all the time.
    let removed = loop {
        let token = fresh.next().expect("the purge comes to its end long before");
        tokio::select! {
            biased;
            removed = &mut purge => break removed,
            end = consume(&store, token) => assert_eq!(end, Ok(EndResult::Recorded)),
        }
    };
    assert_eq!(removed, Ok(2000));
    assert!(began.elapsed() >= PURGE_REST, "it has rested");
}
