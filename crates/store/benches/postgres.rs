//! How many tokens a second can be consumed through the PostgreSQL store, for how many callers at once.
//!
//! `bench/postgres/run` runs it beside pgbench. `COUNTERSIGN_TEST_POSTGRES` names the server; arguments: numbers of callers,
//! then `--seconds N`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::{
    Clock, Consumption, EndResult, Ending, OsEntropy, RetryKeyHash, SystemClock, TokenId, TokenStore, after,
};
use countersign_store::postgres::PostgresOptions;
use countersign_store::postgres::PostgresStore;
use countersign_test_postgres::Place;

fn main() {
    let mut arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let seconds = arguments.iter().position(|argument| argument == "--seconds").map_or(3, |at| {
        let seconds = arguments.remove(at + 1).parse().unwrap();
        arguments.remove(at);
        seconds
    });
    let mut callers: Vec<usize> = arguments.iter().map(|callers| callers.parse().unwrap()).collect();
    if callers.is_empty() {
        callers = vec![1, 8, 64, 512];
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for callers in callers {
        let (ends, commits) = runtime.block_on(ends(callers, Duration::from_secs(seconds)));
        println!("{callers:>4} callers: {ends:>7} ends a second, {commits:>6} commits");
    }
}

async fn ends(callers: usize, time: Duration) -> (u128, u128) {
    let place = Place::new();
    let options = PostgresOptions { schema: place.schema().parse().unwrap(), ..PostgresOptions::default() };
    let url = place.url().parse().unwrap();
    let store = Arc::new(
        PostgresStore::open(&url, &options, Arc::new(SystemClock), Arc::new(OsEntropy)).await.unwrap(),
    );
    // A new store refuses what clocks that are behind could have issued before it.
    let fence = store.stats().await.unwrap().fence;
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut ends = 0;
                while start.elapsed() < time {
                    let now = SystemClock.now().max(fence);
                    let id = TokenId::generate(now, &OsEntropy).unwrap();
                    let ending = Ending::Consumed(Consumption {
                        at: now,
                        by: Some([192, 0, 2, 1].into()),
                        retry_key: Some(RetryKeyHash::of(id.as_bytes())),
                    });
                    let end = store.end(id, after(now, Duration::from_mins(5)), ending).await;
                    assert_eq!(end, Ok(EndResult::Recorded));
                    ends += 1;
                }
                ends
            })
        })
        .collect();
    let mut ends = 0;
    for task in tasks {
        ends += task.await.unwrap();
    }
    let millis = start.elapsed().as_millis();
    let commits = store.counts().map_or(0, |counts| u128::from(counts.commits));
    store.close().await;
    (ends * 1000 / millis, commits * 1000 / millis)
}
