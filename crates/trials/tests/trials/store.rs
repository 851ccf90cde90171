//! The model's store answers as the real stores do.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{
    Clock, Consumption, Ending, ManualClock, RetryKeyHash, SequenceEntropy, TokenId, TokenStore, after,
    from_millis,
};
use countersign_store::memory::MemoryStore;
use countersign_store::sqlite::SqliteStore;
use countersign_trials::model::ModelStore;
use proptest::prelude::*;

/// A call of a store. Numbers are milliseconds from the beginning, and the numbers of tokens.
#[derive(Clone, Copy, Debug)]
enum Call {
    Consume { token: usize, at: u64, key: Option<u8> },
    Revoke { token: usize, at: u64 },
    Look { token: usize },
    MoveFence { line: u64 },
    Purge { line: u64 },
}

const TOKENS: usize = 4;

fn call() -> impl Strategy<Value = Call> {
    let (token, time) = (0..TOKENS, 0..50_u64);
    prop_oneof![
        4 => (token.clone(), time.clone(), any::<Option<u8>>())
            .prop_map(|(token, at, key)| Call::Consume { token, at, key }),
        1 => (token.clone(), time.clone()).prop_map(|(token, at)| Call::Revoke { token, at }),
        2 => token.prop_map(|token| Call::Look { token }),
        1 => time.clone().prop_map(|line| Call::MoveFence { line }),
        1 => time.prop_map(|line| Call::Purge { line }),
    ]
}

async fn compare(calls: Vec<Call>) {
    let start = from_millis(1_767_225_600_000);
    let moment = |millis| after(start, Duration::from_millis(millis));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(start));
    let place = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(&place.path().join("store.db"), Arc::clone(&clock)).await.unwrap();
    let real: [Box<dyn TokenStore>; 2] = [Box::new(MemoryStore::new(&*clock)), Box::new(sqlite)];
    let mut model = ModelStore::new(start);
    let entropy = SequenceEntropy::default();
    // Made at different times, and expiring at different times.
    let tokens: Vec<_> = (0..4_u64)
        .map(|n| (TokenId::generate(moment(10 * n), &entropy).unwrap(), moment(10 * n + 15)))
        .collect();
    for call in &calls {
        match *call {
            Call::Consume { token, .. } | Call::Revoke { token, .. } => {
                let (id, expires) = tokens[token];
                let ending = match *call {
                    Call::Consume { at, key, .. } => {
                        let retry_key = key.map(|key| RetryKeyHash::of(&[key]));
                        Ending::Consumed(Consumption { at: moment(at), by: None, retry_key })
                    }
                    Call::Revoke { at, .. } => Ending::Revoked { at: moment(at) },
                    _ => unreachable!(),
                };
                let expected = model.end(id, expires, &ending);
                for store in &real {
                    assert_eq!(
                        store.end(id, expires, ending.clone()).await,
                        Ok(expected.clone()),
                        "{calls:?}"
                    );
                }
            }
            Call::Look { token } => {
                let (id, expires) = tokens[token];
                for store in &real {
                    assert_eq!(store.look_up(id, expires).await, Ok(model.look_up(id, expires)), "{calls:?}");
                }
            }
            Call::MoveFence { line } => {
                let expected = model.move_fence(moment(line));
                for store in &real {
                    assert_eq!(store.move_fence(moment(line)).await, Ok(expected), "{calls:?}");
                }
            }
            Call::Purge { line } => {
                let expected = model.purge(moment(line));
                for store in &real {
                    assert_eq!(store.purge(moment(line)).await, Ok(expected), "{calls:?}");
                }
            }
        }
    }
}

#[test]
fn model_and_stores_agree() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    proptest!(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() },
        |(calls in proptest::collection::vec(call(), 1..30))| runtime.block_on(compare(calls)));
}
