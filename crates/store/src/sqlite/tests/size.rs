//! What a consumption takes on disk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use countersign_core::{Clock, Consumption, End, Ending, RetryKeyHash, TokenId, TokenStore, after, before};

use super::Place;

/// The most a consumption may take, in bytes, with an `IPv6` address and a key.
const MOST: u64 = 96;

/// How many bytes each of 200,000 consumptions takes after a checkpoint, in batches of 64.
async fn bytes_each(by: IpAddr) -> u64 {
    const ALL: u64 = 200_000;
    let place = Place::new();
    let store = place.open().await;
    let began = place.clock.now();
    for n in 0..ALL / 64 {
        let from = n * 64;
        let done = store
            .writer
            .call(move |batch| {
                for n in from..from + 64 {
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
                    assert_eq!(batch.end(TokenId::from_bytes(id), expires, &ending)?, End::Recorded);
                }
                Ok(())
            })
            .await;
        assert_eq!(done, Ok(()));
    }
    assert_eq!(store.stats().await.unwrap().consumed, ALL);
    store.close().await;
    std::fs::metadata(place.db()).unwrap().len() / ALL
}

#[tokio::test]
async fn a_consumption_takes_little_room() {
    let v4 = bytes_each(Ipv4Addr::new(192, 0, 2, 1).into()).await;
    let v6 = bytes_each(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()).await;
    println!("bytes for each consumption: {v4} with an IPv4 address, {v6} with an IPv6 address");
    assert!(v6 <= MOST, "{v6}");
    assert!(v4 < v6, "{v4} {v6}");
}

#[tokio::test]
async fn purged_room_is_used_again() {
    let place = Place::new();
    let store = place.open().await;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let tokens = place.tokens(3000);
        let at = place.clock.now();
        store
            .writer
            .call(move |batch| {
                for (id, expires) in &tokens {
                    batch.end(*id, *expires, &super::consumption(at))?;
                }
                Ok(())
            })
            .await
            .unwrap();
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
