//! Commits whose answers were lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_core::{Clock, EndResult, Ending, StoreError, TokenStore};
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
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    }
    store
}

#[tokio::test]
async fn lost_commit_is_settled_by_reading() {
    let world = World::new();
    let proxy = Proxy::start(world.place.url()).await;
    let store = behind(&proxy, &world).await;
    let direct = world.open().await;
    for (n, cut) in [Cut::Request, Cut::Answer, Cut::Midway].into_iter().cycle().take(12).enumerate() {
        let token = world.token();
        proxy.cut_next(cut);
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded), "{cut:?}");
        assert_eq!(proxy.cuts(), u64::try_from(n).unwrap() + 1);
        let expected = Ok(EndResult::Already(consumption(token.0.created())));
        assert_eq!(consume(&store, token).await, expected, "our own row is not somebody else's");
        assert_eq!(consume(&direct, token).await, expected);
    }
    assert_eq!(store.ready().await, Ok(()), "a connection that breaks is no database that is away");
}

#[tokio::test]
async fn row_of_another_server_counts_as_replay_after_a_cut() {
    let world = World::new();
    let proxy = Proxy::start(world.place.url()).await;
    let store = behind(&proxy, &world).await;
    let direct = world.open().await;
    for cut in [Cut::Request, Cut::Answer, Cut::Midway] {
        let token = world.token();
        // With the same time, address and key: only the nonce tells them apart.
        assert_eq!(consume(&direct, token).await, Ok(EndResult::Recorded));
        proxy.cut_next(cut);
        assert_eq!(
            consume(&store, token).await,
            Ok(EndResult::Already(consumption(token.0.created()))),
            "{cut:?}"
        );
    }
}

/// What came of the fight.
struct Fight {
    cuts: u64,
    tokens: usize,
    /// How many tokens somebody was told that they are theirs.
    won: usize,
}

/// Two nodes fight for tokens while both their connections break all the time. Says what was promised and not held.
///
/// A caller whose batch met too many broken connections is told that nobody knows, and then may have its token or not. So a
/// token that nobody was told to have can be on record for one of those, or for none.
async fn fight(world: &World, rounds: usize, guess: bool) -> Result<Fight, String> {
    let proxies = [Proxy::start(world.place.url()).await, Proxy::start(world.place.url()).await];
    let nodes = [behind(&proxies[0], world).await, behind(&proxies[1], world).await];
    let direct = world.open().await;
    for (node, proxy) in nodes.iter().zip(&proxies) {
        node.core.guesses.store(guess, Ordering::Relaxed);
        proxy.cut_one_in(5);
    }
    let mut won = 0;
    for _ in 0..rounds {
        let tokens = world.tokens(6);
        let mut calls = Vec::new();
        for caller in 0..4_u8 {
            for token in &tokens {
                let (node, token) = (Arc::clone(&nodes[usize::from(caller % 2)]), *token);
                calls.push((token.0, caller, tokio::spawn(end_as(node, token, caller))));
            }
        }
        let mut told: HashMap<_, Told> = HashMap::new();
        for (id, caller, call) in calls {
            let told = told.entry(id).or_default();
            match call.await.unwrap() {
                Ok(EndResult::Recorded) => told.yes.push(caller),
                Ok(EndResult::Already(ending)) => told.no.push(ending),
                Err(StoreError::Unavailable(_)) => told.nothing.push(caller),
                other => return Err(format!("{other:?}")),
            }
        }
        for (id, expires) in tokens {
            let on_record =
                direct.look_up(id, expires).await.map_err(|error| format!("a look fails: {error:?}"))?;
            let told = told.remove(&id).unwrap_or_default();
            told.fits(&on_record)
                .map_err(|why| format!("{told:?} were told so, and on record is {on_record:?}: {why}"))?;
            won += told.yes.len();
        }
    }
    Ok(Fight { cuts: proxies.iter().map(Proxy::cuts).sum(), tokens: rounds * 6, won })
}

/// Which callers were told what of one token.
#[derive(Debug, Default)]
struct Told {
    yes: Vec<u8>,
    no: Vec<Ending>,
    nothing: Vec<u8>,
}

impl Told {
    fn fits(&self, on_record: &EndResult) -> Result<(), &'static str> {
        let EndResult::Already(ending) = on_record else {
            let nobody = self.yes.is_empty() && self.no.is_empty();
            return if nobody { Ok(()) } else { Err("an answer is forgotten") };
        };
        let theirs = |callers: &[u8]| callers.iter().any(|caller| ending_of(*caller) == *ending);
        match self.yes[..] {
            [] if theirs(&self.nothing) => {}
            [_] if theirs(&self.yes) => {}
            _ => return Err("that is not the one who has it"),
        }
        if self.no.iter().all(|told| told == ending) { Ok(()) } else { Err("another one was named") }
    }
}

fn ending_of(caller: u8) -> Ending {
    let by = Some([192, 0, 2, caller].into());
    Ending::Consumed(countersign_core::Consumption {
        at: countersign_core::from_millis(0),
        by,
        retry_key: None,
    })
}

async fn end_as(node: Arc<PostgresStore>, (id, expires): Token, caller: u8) -> Result<EndResult, StoreError> {
    node.end(id, expires, ending_of(caller)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaking_connections_lose_and_double_nothing() {
    let Fight { cuts, tokens, won } = fight(&World::new(), 25, false).await.unwrap();
    assert!(cuts >= 10, "only {cuts} connections were cut");
    assert!(won > tokens / 2, "only {won} of {tokens} tokens were redeemed");
}

/// The same trial finds out a store that takes a lost answer for a good one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_store_is_caught() {
    let broken = fight(&World::new(), 25, true).await.err().unwrap();
    assert!(broken.contains("on record is"), "{broken}");
}
