//! What a consumption takes on disk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use countersign_core::{
    Clock, Consumption, EndResult, Ending, RetryKeyHash, TokenId, TokenStore, after, before,
};

use super::{Place, consume_all};

/// The most a consumption may take, in bytes, with an `IPv6` address and a key.
const MOST: u64 = 96;

/// How many bytes each of so many consumptions takes after a checkpoint.
async fn bytes_each(all: u64, by: IpAddr) -> u64 {
    const BATCH: u64 = 500;
    let place = Place::new();
    let store = place.open().await;
    let began = place.clock.now();
    for n in 0..all / BATCH {
        let from = n * BATCH;
        let done = store
            .writer
            .call(move |batch| {
                for n in from..from + BATCH {
                    // A token a millisecond, each consumed up to two seconds after it was made.
                    let now = after(began, Duration::from_millis(2000 + n));
                    let created = before(now, Duration::from_millis(n * 7919 % 2000));
                    let mut id = [0; 16];
                    id[..6].copy_from_slice(&created.as_millisecond().to_be_bytes()[2..]);
                    id[6..].copy_from_slice(&RetryKeyHash::of(&n.to_be_bytes()).as_bytes()[..10]);
                    let key = RetryKeyHash::of(&id);
                    let ending =
                        Ending::Consumed(Consumption { at: now, by: Some(by), retry_key: Some(key) });
                    let expires = after(created, Duration::from_mins(5));
                    assert_eq!(batch.end(TokenId::from_bytes(id), expires, &ending)?, EndResult::Recorded);
                }
                Ok(())
            })
            .await;
        assert_eq!(done, Ok(()));
    }
    assert_eq!(store.stats().await.unwrap().consumed, all);
    store.close().await;
    std::fs::metadata(place.db()).unwrap().len() / all
}

#[tokio::test]
async fn consumption_needs_few_bytes() {
    let v4 = bytes_each(20_000, Ipv4Addr::new(192, 0, 2, 1).into()).await;
    let v6 = bytes_each(200_000, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()).await;
    println!("bytes for each consumption: {v4} with an IPv4 address, {v6} with an IPv6 address");
    assert!(v6 <= MOST, "{v6}");
    assert!(v4 < v6, "{v4} {v6}");
}

#[tokio::test]
async fn purged_space_is_reused() {
    let place = Place::new();
    let store = place.open().await;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        consume_all(&store, place.tokens(3000)).await;
        place.clock.advance(Duration::from_mins(10));
        assert_eq!(store.purge(place.clock.now()).await, Ok(3000));
        sizes.push(page_count(&store).await);
    }
    assert!(sizes[3] <= sizes[0] + 2, "{sizes:?}");
}

async fn page_count(store: &super::SqliteStore) -> i64 {
    store
        .readers
        .read(|connection| connection.query_row("PRAGMA page_count", (), |row| row.get(0)))
        .await
        .unwrap()
}
