//! Copies of a store in use, and what becomes of them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, TokenStore, after};

use super::super::files::{beside, wal_of};
use super::super::{BackupError, backup, inspect};
use super::{Held, Place, SqliteStore, consume, consume_all, fence_after_all, look};
use crate::error::OpenError;

#[tokio::test]
async fn restored_backup_revives_no_token() {
    let place = Place::new();
    let store = place.open().await;
    let (known, unknown, unused) = (place.token(), place.token(), place.token());
    assert_eq!(consume(&store, known).await, Ok(EndResult::Recorded));
    let copy = place.dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(consume(&store, unknown).await, Ok(EndResult::Recorded));
    let fence = store.stats().await.unwrap().fence;
    // Not closed: its log stays behind, and the restored backup lacks it.
    drop(store);
    assert!(fs::metadata(wal_of(&place.db())).unwrap().len() > 0);
    fs::copy(&copy, place.db()).unwrap();
    place.clock.advance(Duration::from_secs(1));

    let store = place.open().await;
    let restored = fence_after_all(&place);
    assert!(matches!(consume(&store, known).await, Ok(EndResult::Already(_))), "it is in the backup");
    assert_eq!(consume(&store, unknown).await, Ok(EndResult::Fenced));
    assert_eq!(consume(&store, unused).await, Ok(EndResult::Fenced));
    assert_eq!(
        consume(&store, place.token()).await,
        Ok(EndResult::Fenced),
        "its server's clock may be behind"
    );
    place.clock.set(restored);
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
    assert!(restored > fence);
    assert_eq!(store.stats().await.unwrap().fence, restored);

    // Only the first opening moves it.
    store.close().await;
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(place.open().await.stats().await.unwrap().fence, restored);
}

#[tokio::test]
async fn restored_backup_moves_no_fence_back() {
    let place = Place::new();
    let store = place.open().await;
    let fence = place.token().1;
    store.move_fence(fence).await.unwrap();
    let copy = place.dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    store.close().await;
    drop(store);
    let store = SqliteStore::open(&copy, Arc::clone(&place.clock) as Arc<dyn Clock>).await.unwrap();
    assert_eq!(store.stats().await.unwrap().fence, after(fence, Duration::from_millis(1)));
}

#[tokio::test]
async fn backup_runs_beside_readers_and_writers() {
    let place = Place::new();
    let store = place.open().await;
    consume_all(&store, place.tokens(200)).await;
    let held = Held::new(&store).await;
    let waiting = held.queue(place.token()).await;
    let copy = place.dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    held.release().await;
    assert_eq!(waiting.0.await, Ok(EndResult::Recorded));
    assert_eq!(inspect(&copy).unwrap().consumed, 200);
    assert_eq!(store.stats().await.unwrap().consumed, 201);
}

#[tokio::test]
async fn failed_backup_leaves_no_file() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    consume(&store, token).await.unwrap();
    let copy = place.dir.path().join("copy.db");

    fs::write(&copy, "precious").unwrap();
    let refused = store.backup(&copy).await.unwrap_err();
    assert!(matches!(refused, BackupError::Exists(_)), "{refused}");
    assert_eq!(fs::read(&copy).unwrap(), b"precious");
    fs::remove_file(&copy).unwrap();

    let nowhere = place.dir.path().join("missing").join("copy.db");
    let refused = store.backup(&nowhere).await.unwrap_err();
    assert!(refused.to_string().contains(" cannot be written: "), "{refused}");

    // What a backup that was cut short left is no obstacle.
    fs::write(beside(&copy, ".part"), "half").unwrap();
    store.backup(&copy).await.unwrap();
    assert!(!beside(&copy, ".part").exists());
    assert!(matches!(look(&store, token).await, EndResult::Already(_)));

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn only_a_store_can_be_backed_up() {
    let place = Place::new();
    let copy = place.dir.path().join("copy.db");
    let refused = backup(&place.db(), &copy).unwrap_err();
    assert!(matches!(refused, BackupError::Source(OpenError::Missing(_))), "{refused}");
    fs::write(
        place.db(),
        "not a database, but a text that is long enough to be mistaken for one ".repeat(20),
    )
    .unwrap();
    let refused = backup(&place.db(), &copy).unwrap_err();
    assert!(matches!(refused, BackupError::Source(OpenError::Damaged { .. })), "{refused}");
    assert!(!copy.exists());
}
