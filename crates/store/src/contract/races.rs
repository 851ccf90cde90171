//! Many callers at once.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, Consumption, EndResult, Ending, StoreError, after};

use super::Subject;
use super::fixture::{Fixture, LIFETIME, Token, consumed};

/// Ends all of these at the same time; the answers in the same order. A store may say that it is busy: then, as a
/// caller is told to, this asks again.
pub(super) async fn all_at_once(
    f: &Fixture,
    ends: Vec<(Token, Ending)>,
) -> Vec<Result<EndResult, StoreError>> {
    let tasks: Vec<_> = ends
        .into_iter()
        .map(|(token, ending)| {
            let store = Arc::clone(&f.store);
            tokio::spawn(async move {
                loop {
                    match store.end(token.id, token.expires, ending.clone()).await {
                        Err(StoreError::Busy) => tokio::task::yield_now().await,
                        answer => return answer,
                    }
                }
            })
        })
        .collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(task.await.expect("the task ends"));
    }
    answers
}

/// "For one id at most one call answers recorded", and all others get that call's ending.
pub async fn one_of_many_callers_wins(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    for round in 0..8_u8 {
        let tokens = [f.token(), f.token(), f.token()];
        let mut ends = Vec::new();
        for caller in 0..64_u8 {
            for token in tokens {
                let by = [192, 0, round, caller].into();
                ends.push((token, consumed(f.clock.now(), Some(by), Some(&[round, caller]))));
            }
        }
        let answers = all_at_once(&f, ends.clone()).await;
        for token in tokens {
            let of_token: Vec<_> =
                ends.iter().zip(&answers).filter(|((ended, _), _)| ended.id == token.id).collect();
            let winners: Vec<_> = of_token
                .iter()
                .filter(|(_, answer)| **answer == Ok(EndResult::Recorded))
                .map(|((_, e), _)| e)
                .collect();
            assert_eq!(winners.len(), 1, "{winners:?}");
            let first = EndResult::Already(winners[0].clone());
            assert_eq!(of_token.iter().filter(|(_, answer)| **answer == Ok(first.clone())).count(), 63);
            assert_eq!(f.look_up(token).await, first);
        }
        f.clock.advance(Duration::from_millis(1));
    }
}

/// A token is consumed or revoked, never both.
pub async fn consume_and_revoke_have_one_winner(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let tokens: Vec<_> = (0..128).map(|_| f.token()).collect();
    let mut ends = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        let mut pair = [(*token, f.consumption()), (*token, f.revocation())];
        if n % 2 == 1 {
            pair.reverse();
        }
        ends.extend(pair);
    }
    let answers = all_at_once(&f, ends.clone()).await;
    for (pair, answers) in ends.chunks(2).zip(answers.chunks(2)) {
        let (winner, loser) = if answers[0] == Ok(EndResult::Recorded) { (0, 1) } else { (1, 0) };
        assert_eq!(answers[winner], Ok(EndResult::Recorded));
        assert_eq!(answers[loser], Ok(EndResult::Already(pair[winner].1.clone())));
    }
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!(stats.consumed + stats.revoked, 128);
}

/// A purge neither loses new records nor keeps old ones, and new tokens are ended while it works.
pub async fn purge_and_end_run_concurrently(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let old: Vec<_> = (0..3000).map(|_| (f.token(), f.consumption())).collect();
    for answer in all_at_once(&f, old.clone()).await {
        assert_eq!(answer, Ok(EndResult::Recorded));
    }
    f.clock.advance(LIFETIME + Duration::from_millis(1));
    let cutoff = f.clock.now();
    let store = Arc::clone(&f.store);
    let purge = tokio::spawn(async move { store.purge(cutoff).await });
    let new: Vec<_> = (0..500).map(|_| (f.token(), f.consumption())).collect();
    for answer in all_at_once(&f, new.clone()).await {
        assert_eq!(answer, Ok(EndResult::Recorded));
    }
    assert_eq!(purge.await.expect("the task ends"), Ok(3000));
    for (token, ending) in new {
        assert_eq!(f.look_up(token).await, EndResult::Already(ending));
    }
    for (token, _) in old {
        assert_eq!(f.look_up(token).await, EndResult::Forgotten);
    }
}

/// While the fence moves, each token is either recorded before it or rejected behind it; and once it has moved, none is
/// recorded any more.
pub async fn moving_fence_lets_no_token_through(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let ends: Vec<_> = (0..512).map(|_| (f.token(), f.consumption())).collect();
    let to = after(f.clock.now(), Duration::from_millis(1));
    let store = Arc::clone(&f.store);
    let fence = tokio::spawn(async move { store.move_fence(to).await });
    let answers = all_at_once(&f, ends.clone()).await;
    assert_eq!(fence.await.expect("the task ends"), Ok(to));
    for ((token, ending), answer) in ends.into_iter().zip(answers) {
        match answer.expect("the store answers") {
            EndResult::Recorded => assert_eq!(f.look_up(token).await, EndResult::Already(ending)),
            EndResult::Fenced => assert_eq!(f.consume(token).await, EndResult::Fenced),
            other => panic!("{other:?}"),
        }
    }
    let late = f.token();
    assert_eq!(
        f.end(late, &Ending::Consumed(Consumption { at: to, by: None, retry_key: None })).await,
        Ok(EndResult::Fenced)
    );
}
