//! A write-ahead log that is gone: answers that were given may have stood in it.

use std::fs;
use std::time::Duration;

use countersign_core::{EndResult, TokenStore};

use super::super::files::{beside, lost_log_mark, wal_of};
use super::super::inspect;
use super::{Place, Token, consume, fence_after_all, look, reason};

/// A store that has crashed with a consumption in its log only.
async fn crashed() -> (Place, Token) {
    let place = Place::new();
    let store = place.open().await;
    store.close().await;
    drop(store);
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    drop(store);
    assert!(fs::metadata(wal_of(&place.db())).unwrap().len() > 0);
    place.clock.advance(Duration::from_millis(1));
    (place, token)
}

fn remove_log(place: &Place) {
    fs::remove_file(wal_of(&place.db())).unwrap();
    fs::remove_file(beside(&place.db(), "-shm")).unwrap();
}

#[tokio::test]
async fn log_lost_in_a_crash_revives_no_token() {
    let (place, token) = crashed().await;
    remove_log(&place);
    let store = place.open().await;
    assert_eq!(consume(&store, token).await, Ok(EndResult::Fenced));
    let fence = store.stats().await.unwrap().fence;
    assert_eq!(fence, fence_after_all(&place));
    place.clock.set(fence);
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));

    // Once is enough.
    drop(store);
    assert!(!lost_log_mark(&place.db()).exists());
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(place.open().await.stats().await.unwrap().fence, fence);
}

#[tokio::test]
async fn crash_with_intact_log_moves_no_fence() {
    let (place, token) = crashed().await;
    let live = place.token();
    place.clock.advance(Duration::from_millis(1));
    let store = place.open().await;
    assert!(matches!(look(&store, token).await, EndResult::Already(_)));
    assert_eq!(consume(&store, live).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn inspection_does_not_hide_the_loss() {
    let (place, token) = crashed().await;
    remove_log(&place);
    // SQLite makes a new log for every connection.
    inspect(&place.db()).unwrap();
    assert!(wal_of(&place.db()).exists());
    assert_eq!(consume(&place.open().await, token).await, Ok(EndResult::Fenced));
}

#[tokio::test]
async fn interrupted_start_does_not_hide_the_loss() {
    let (place, token) = crashed().await;
    remove_log(&place);
    // It has connected, and dies before it has moved the fence.
    super::super::files::mark_lost_log(&place.db()).unwrap();
    drop(super::schema::connect(&place.db(), super::Access::Write).unwrap());
    fs::write(wal_of(&place.db()), b"").unwrap();
    assert_eq!(consume(&place.open().await, token).await, Ok(EndResult::Fenced));
}

#[tokio::test]
async fn unsaved_log_counts_as_lost() {
    let place = Place::new();
    let store = place.open_tampered(16, |connection| connection.busy_timeout(Duration::ZERO));
    let token = place.token();
    // Who reads an old state keeps the log from being written back.
    let reader = rusqlite::Connection::open(place.db()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM endings", (), |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    fs::remove_file(wal_of(&place.db())).unwrap();
    let reason = reason(consume(&store, place.token()).await);
    assert!(
        reason.ends_with("refuses every token issued so far, so that none can be used twice"),
        "{reason}"
    );
    drop(store);
    drop(reader);
    place.clock.advance(Duration::from_millis(1));
    let store = place.open().await;
    assert_eq!(store.stats().await.unwrap().fence, fence_after_all(&place));
    assert!(matches!(consume(&store, token).await, Ok(EndResult::Already(_) | EndResult::Fenced)));
}
