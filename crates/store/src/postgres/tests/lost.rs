//! Commits whose answers were lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_core::{Clock, End, Ending, StoreError, TokenStore};
use countersign_test_postgres::{Cut, Proxy};

use super::super::PostgresStore;
use super::{Token, World, consume, consumption, options, url};

/// A store behind a proxy, whose statements have been prepared.
async fn behind(proxy: &Proxy, world: &World) -> Arc<PostgresStore> {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let entropy = Arc::new(countersign_core::OsEntropy);
    let (url, options) = (url(proxy.url()), options(world.place.schema()));
    let store = Arc::new(PostgresStore::open(&url, &options, clock, entropy).await.unwrap());
    // The first one on each connection also prepares.
    for token in world.tokens(8) {
        assert_eq!(consume(&store, token).await, Ok(End::Recorded));
    }
    store
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_asking() {
    let world = World::new();
    let proxy = Proxy::start(world.place.url()).await;
    let store = behind(&proxy, &world).await;
    let direct = world.open().await;
    for (n, cut) in [Cut::Request, Cut::Answer, Cut::Midway].into_iter().cycle().take(12).enumerate() {
        let token = world.token();
        proxy.cut_next(cut);
        assert_eq!(consume(&store, token).await, Ok(End::Recorded), "{cut:?}");
        assert_eq!(proxy.cuts(), u64::try_from(n).unwrap() + 1);
        let expected = Ok(End::Already(consumption(token.0.created())));
        assert_eq!(consume(&store, token).await, expected, "our own row is not somebody else's");
        assert_eq!(consume(&direct, token).await, expected);
    }
    assert_eq!(store.ready().await, Ok(()), "a line that breaks is no database that is away");
}

#[tokio::test]
async fn somebody_elses_row_is_not_taken_for_ones_own_after_a_cut() {
    let world = World::new();
    let proxy = Proxy::start(world.place.url()).await;
    let store = behind(&proxy, &world).await;
    let direct = world.open().await;
    for cut in [Cut::Request, Cut::Answer, Cut::Midway] {
        let token = world.token();
        // With the same time, address and key: only the nonce tells them apart.
        assert_eq!(consume(&direct, token).await, Ok(End::Recorded));
        proxy.cut_next(cut);
        assert_eq!(consume(&store, token).await, Ok(End::Already(consumption(token.0.created()))), "{cut:?}");
    }
}

/// Two nodes fight for tokens while both their lines break all the time. Says what was promised and not held.
async fn fight(world: &World, rounds: usize, guess: bool) -> Result<u64, String> {
    let proxies = [Proxy::start(world.place.url()).await, Proxy::start(world.place.url()).await];
    let nodes = [behind(&proxies[0], world).await, behind(&proxies[1], world).await];
    let direct = world.open().await;
    for (node, proxy) in nodes.iter().zip(&proxies) {
        node.core.guesses.store(guess, Ordering::Relaxed);
        proxy.cut_one_in(5);
    }
    for _ in 0..rounds {
        let tokens = world.tokens(6);
        let mut calls = Vec::new();
        for caller in 0..4_u8 {
            for token in &tokens {
                let (node, token) = (Arc::clone(&nodes[usize::from(caller % 2)]), *token);
                calls.push((token.0, caller, tokio::spawn(end_as(node, token, caller))));
            }
        }
        let mut winners: HashMap<_, Vec<u8>> = HashMap::new();
        for (id, caller, call) in calls {
            match call.await.unwrap() {
                Ok(End::Recorded) => winners.entry(id).or_default().push(caller),
                Ok(End::Already(_)) | Err(StoreError::Unavailable(_)) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        for (id, expires) in tokens {
            let winners = winners.remove(&id).unwrap_or_default();
            let on_record = match direct.look(id, expires).await.unwrap() {
                End::Already(ending) => ending,
                other => return Err(format!("{winners:?} were told yes, and on record is {other:?}")),
            };
            match winners[..] {
                [winner] if on_record == ending_of(winner) => {}
                ref told => return Err(format!("{told:?} were told yes, and on record is {on_record:?}")),
            }
        }
    }
    Ok(proxies.iter().map(Proxy::cuts).sum())
}

fn ending_of(caller: u8) -> Ending {
    let by = Some([192, 0, 2, caller].into());
    Ending::Consumed(countersign_core::Consumption {
        at: countersign_core::from_millis(0),
        by,
        retry_key: None,
    })
}

async fn end_as(node: Arc<PostgresStore>, (id, expires): Token, caller: u8) -> Result<End, StoreError> {
    node.end(id, expires, ending_of(caller)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_break_all_the_time_lose_and_double_nothing() {
    let cuts = fight(&World::new(), 25, false).await.unwrap();
    assert!(cuts >= 10, "only {cuts} lines were cut");
}

/// The same trial finds out a store that takes a lost answer for a good one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_guesses_is_found_out() {
    let broken = fight(&World::new(), 25, true).await.unwrap_err();
    assert!(broken.contains("were told yes"), "{broken}");
}
