//! Looking for damage beside the use of the store.

use std::fs;
use std::sync::Arc;

use countersign_core::{Clock, EndResult, StoreError, TokenStore};

use super::super::schema::{self, Access};
use super::{Place, SqliteStore, consume, consume_all, reason};
use crate::backend::IfMissing;

/// Opens a store that counts as large.
fn open_large(place: &Place) -> SqliteStore {
    let path = place.db();
    let connect = Box::new(move || schema::connect(&path, Access::Write));
    let clock = Arc::clone(&place.clock) as Arc<dyn Clock>;
    SqliteStore::open_with(place.db(), clock, IfMissing::Make, connect, 16, 0).unwrap()
}

async fn filled() -> Place {
    let place = Place::new();
    let store = place.open().await;
    consume_all(&store, place.tokens(2000)).await;
    store.close().await;
    place
}

#[tokio::test]
async fn damage_found_in_use_stops_writing() {
    let place = filled().await;
    let mut damaged = fs::read(place.db()).unwrap();
    // A page that neither opening nor a new token's record comes across.
    damaged[8 * 4096..9 * 4096].fill(0xff);
    fs::write(place.db(), damaged).unwrap();

    let store = open_large(&place);
    store.checkup.as_ref().unwrap().wait();
    let reason = reason(consume(&store, place.token()).await);
    assert!(reason.contains("is damaged or not a database") && reason.contains("put a backup in its place"));
    assert_eq!(store.ready().await, Err(StoreError::unavailable(reason)));
}

#[tokio::test]
async fn intact_store_serves_during_the_check() {
    let place = filled().await;
    let store = open_large(&place);
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded), "nobody waits for the look");
    store.checkup.as_ref().unwrap().wait();
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn closing_stops_the_check_and_leaves_one_file() {
    let place = filled().await;
    let store = open_large(&place);
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
    store.close().await;
    let log = super::super::files::wal_of(&place.db());
    assert_eq!(fs::metadata(log).unwrap().len(), 0, "nobody reads any more, so all is in the database");
}
