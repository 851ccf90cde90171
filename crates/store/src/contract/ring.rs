//! The key ring that a shared store keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_core::{EndResult, KeyRing, OsEntropy, StoreError, StoredRing};

use super::Subject;
use super::fixture::{Fixture, Token, beginning};

/// A ring of this version; what is in it is nothing to a store.
fn ring(version: u64) -> StoredRing {
    let file = KeyRing::generate(beginning(), &OsEntropy).expect("there is randomness");
    let ring = file.clone().at_version(version);
    StoredRing::seal(&ring, &file.keys()[0]).expect("it is short enough")
}

impl Fixture {
    async fn put(&self, from: u64, ring: &StoredRing) -> bool {
        self.store.replace_ring(from, ring).await.expect("the store answers")
    }

    async fn consume_under(&self, token: Token, version: u64) -> Result<EndResult, StoreError> {
        self.store.end_with_ring(token.id, token.expires, self.consumption(), version).await
    }

    async fn look_up_with_ring(&self, token: Token, version: u64) -> Result<EndResult, StoreError> {
        self.store.look_up_with_ring(token.id, token.expires, version).await
    }
}

/// A ring takes the place of the one that it was made from, and of no other.
pub async fn ring_replaces_only_its_own_predecessor(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    assert_eq!(f.store.ring().await, Ok(None));
    if !f.store.is_shared() {
        assert!(f.store.replace_ring(0, &ring(7)).await.is_err(), "it keeps none");
        return;
    }
    let (first, other, next) = (ring(7), ring(5), ring(3));
    assert!(f.put(0, &first).await);
    assert!(!f.put(0, &other).await, "there is one already");
    assert!(!f.put(5, &next).await);
    assert_eq!(f.store.ring().await, Ok(Some(first.clone())));
    assert!(f.put(7, &next).await);
    assert!(!f.put(7, &other).await);
    let f = f.open_again(subject).await;
    assert_eq!(f.store.ring().await, Ok(subject.is_durable().then_some(next)));
}

/// What was opened with another ring than the store's ends nothing, and learns nothing.
pub async fn another_ring_ends_no_token(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    if !f.store.is_shared() {
        return;
    }
    let (before, consumed, live) = (f.token(), f.token(), f.token());
    assert_eq!(f.consume(before).await, EndResult::Recorded, "as long as there is no ring");
    assert!(f.put(0, &ring(7)).await);
    assert_eq!(f.consume_under(consumed, 7).await, Ok(EndResult::Recorded));
    assert!(f.put(7, &ring(3)).await);
    for version in [0, 7, 4] {
        for token in [before, consumed, live] {
            assert_eq!(f.consume_under(token, version).await, Err(StoreError::OtherRing), "{version}");
            assert_eq!(f.look_up_with_ring(token, version).await, Err(StoreError::OtherRing), "{version}");
        }
    }
    assert_eq!(f.store.end(live.id, live.expires, f.consumption()).await, Err(StoreError::OtherRing));
    assert_eq!(f.store.look_up(live.id, live.expires).await, Err(StoreError::OtherRing));
    assert_eq!(f.look_up_with_ring(live, 3).await, Ok(EndResult::Recorded), "nothing was written");
    assert!(matches!(f.look_up_with_ring(consumed, 3).await, Ok(EndResult::Already(_))));
    assert!(matches!(f.consume_under(before, 3).await, Ok(EndResult::Already(_))));
    assert_eq!(f.consume_under(live, 3).await, Ok(EndResult::Recorded));
}

/// Of several changes that were made from the same ring one is taken.
pub async fn one_of_concurrent_ring_changes_wins(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    if !f.store.is_shared() {
        return;
    }
    let changes = (1..=8).map(|version| {
        let store = Arc::clone(&f.store);
        tokio::spawn(async move { store.replace_ring(0, &ring(version)).await.map(|made| (version, made)) })
    });
    let mut made = Vec::new();
    for change in changes.collect::<Vec<_>>() {
        let (version, is_made) = change.await.expect("the task ends").expect("the store answers");
        made.extend(is_made.then_some(version));
    }
    let there = f.store.ring().await.expect("the store answers").map(|ring| ring.version);
    assert_eq!(made, Vec::from_iter(there));
}

/// Callers go on with the old ring while it is replaced: from the moment at which that has returned, none is told that its
/// call was recorded, and what they were told is what is on record.
pub async fn replaced_ring_redeems_nothing(subject: &dyn Subject) {
    let f = Arc::new(Fixture::new(subject).await);
    if !f.store.is_shared() {
        return;
    }
    assert!(f.put(0, &ring(7)).await);
    let replaced = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (f, replaced) = (Arc::clone(&f), Arc::clone(&replaced));
            tokio::spawn(async move {
                let mut recorded = Vec::new();
                loop {
                    let (token, late) = (f.token(), replaced.load(Ordering::SeqCst));
                    match f.consume_under(token, 7).await {
                        Ok(EndResult::Recorded) => {
                            assert!(!late, "a call that began later was recorded");
                            recorded.push(token);
                        }
                        Err(StoreError::OtherRing) if late => return (recorded, token),
                        Err(StoreError::OtherRing | StoreError::Busy) => tokio::task::yield_now().await,
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    while f.store.stats().await.map_or(0, |stats| stats.consumed) < 100 {
        tokio::task::yield_now().await;
    }
    assert!(f.put(7, &ring(3)).await);
    replaced.store(true, Ordering::SeqCst);
    for caller in callers {
        let (recorded, refused) = caller.await.expect("the caller ends");
        assert_eq!(f.look_up_with_ring(refused, 3).await, Ok(EndResult::Recorded));
        for token in recorded {
            assert!(matches!(f.look_up_with_ring(token, 3).await, Ok(EndResult::Already(_))));
        }
    }
}
