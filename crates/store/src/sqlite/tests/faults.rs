//! Failing closed, and coming back.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_core::{EndResult, TokenStore, after};

use super::super::files::wal_of;
use super::{Held, Place, consume, consume_all, look, reason};

/// Makes the connection that is open now refuse to grow the database, as a full disk does.
async fn fill_the_disk(store: &super::SqliteStore) {
    store
        .writer
        .call(|batch| batch.connection().query_row("PRAGMA max_page_count = 1", (), |_| Ok(())))
        .await
        .unwrap();
}

#[tokio::test]
async fn batch_larger_than_the_disk_is_refused_whole() {
    let place = Place::new();
    let store = place.open().await;
    let kept = place.token();
    assert_eq!(consume(&store, kept).await, Ok(EndResult::Recorded));
    fill_the_disk(&store).await;

    // The first of these fit into the page that there is.
    let tokens = place.tokens(600);
    let held = Held::new(&store).await;
    let mut queued = Vec::new();
    for token in &tokens {
        queued.push(held.queue(*token).await);
    }
    held.release().await;
    for call in queued {
        let answer = call.0.await;
        let source = answer.as_ref().err().and_then(Error::source).and_then(|error| error.downcast_ref());
        let code = source.and_then(rusqlite::Error::sqlite_error_code);
        assert_eq!(code, Some(rusqlite::ErrorCode::DiskFull));
        let reason = reason(answer);
        assert!(reason.starts_with("the disk that holds "), "{reason}");
        assert!(reason.ends_with(" is full; make room, and it goes on by itself"), "{reason}");
    }
    assert_eq!(store.counts().unwrap().failures, 1);
    assert_eq!(store.stats().await.unwrap().consumed, 1, "nothing was half-written");

    // The next batch has a new connection, without the limit.
    consume_all(&store, tokens).await;
    assert!(matches!(look(&store, kept).await, EndResult::Already(_)));
}

#[tokio::test]
async fn failed_batch_leaves_no_rows() {
    let place = Place::new();
    let store = place.open_tampered(16, |_| Ok(()));
    let ((id, expires), other) = (place.token(), place.token());
    let held = Held::new(&store).await;
    let queued = held.queue(other).await;
    let mut failing = Box::pin(store.writer.call(move |batch| {
        batch.end(id, expires, &super::consumption(id.created()))?;
        Err::<(), _>(rusqlite::Error::QueryReturnedNoRows)
    }));
    assert!(super::poll_once(failing.as_mut()).await.is_pending());
    held.release().await;
    reason(failing.await);
    reason(queued.0.await);

    let program = rusqlite::Connection::open(place.db()).unwrap();
    program.busy_timeout(Duration::ZERO).unwrap();
    program.execute_batch("BEGIN IMMEDIATE; ROLLBACK").expect("nothing is left locked");
    for token in [(id, expires), other] {
        assert_eq!(look(&store, token).await, EndResult::Recorded);
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    }
}

#[tokio::test]
async fn store_recovers_from_being_read_only() {
    let place = Place::new();
    let read_only = Arc::new(AtomicBool::new(false));
    let is_read_only = Arc::clone(&read_only);
    let store = place.open_tampered(16, move |connection| {
        connection.pragma_update(None, "query_only", is_read_only.load(Ordering::SeqCst))
    });
    let (kept, token) = (place.token(), place.token());
    assert_eq!(consume(&store, kept).await, Ok(EndResult::Recorded));
    assert_eq!(store.ready().await, Ok(()));

    read_only.store(true, Ordering::SeqCst);
    store.writer.call(|batch| batch.connection().pragma_update(None, "query_only", true)).await.unwrap();
    for _ in 0..3 {
        let reason = reason(consume(&store, token).await);
        assert!(reason.contains(" cannot be written ("), "{reason}");
        assert!(super::reason(store.ready().await).contains(" cannot be written ("), "at the same moment");
        assert!(super::reason(store.move_fence(token.1).await).contains(" cannot be written ("));
        assert!(
            super::reason(store.purge(after(token.1, Duration::from_secs(1))).await)
                .contains(" cannot be written (")
        );
    }
    assert!(matches!(look(&store, kept).await, EndResult::Already(_)), "reading goes on");

    read_only.store(false, Ordering::SeqCst);
    assert_eq!(store.ready().await, Ok(()));
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    assert_eq!(store.stats().await.unwrap().consumed, 2);
}

#[tokio::test]
async fn readiness_notices_within_a_second() {
    let place = Place::new();
    let store = place.open_tampered(16, |_| Ok(()));
    assert_eq!(store.ready().await, Ok(()));
    fs::remove_dir_all(place.dir.path()).unwrap();
    place.clock.advance(Duration::from_secs(1));
    let reason = reason(store.ready().await);
    assert!(reason.contains(" is not there any more ("), "{reason}");
}

#[tokio::test]
async fn nothing_is_written_into_a_deleted_file() {
    let place = Place::new();
    let store = place.open().await;
    let (kept, token) = (place.token(), place.token());
    assert_eq!(consume(&store, kept).await, Ok(EndResult::Recorded));

    let aside = place.dir.path().join("aside.db");
    fs::rename(place.db(), &aside).unwrap();
    for _ in 0..2 {
        let reason = reason(consume(&store, token).await);
        assert!(reason.contains(" is not there any more ("), "{reason}");
    }
    fs::copy(&aside, place.db()).unwrap();
    let replaced = reason(consume(&store, token).await);
    assert!(
        replaced.ends_with(
            "was replaced while it was in use; restart the server to use the file that is there now"
        )
    );

    fs::rename(&aside, place.db()).unwrap();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    assert!(matches!(look(&store, kept).await, EndResult::Already(_)));
}

#[tokio::test]
async fn removed_log_is_saved_and_requires_a_restart() {
    let place = Place::new();
    let store = place.open().await;
    let tokens = place.tokens(300);
    consume_all(&store, tokens.clone()).await;
    fs::remove_file(wal_of(&place.db())).unwrap();
    let late = place.token();
    for _ in 0..2 {
        let reason = reason(consume(&store, late).await);
        assert!(
            reason.ends_with(
                "-wal was removed while it was in use; what was in it has been saved. Restart the server"
            ),
            "{reason}"
        );
    }
    store.close().await;
    drop(store);

    let store = place.open().await;
    for token in tokens {
        assert!(matches!(look(&store, token).await, EndResult::Already(_)));
    }
    assert_eq!(consume(&store, late).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn foreign_lock_is_named_as_the_cause() {
    let place = Place::new();
    let store = place.open_tampered(16, |connection| connection.busy_timeout(Duration::ZERO));
    let token = place.token();
    let other = rusqlite::Connection::open(place.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reason = reason(consume(&store, token).await);
    assert!(reason.starts_with("another program keeps ") && reason.contains(" locked; close it"), "{reason}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
}
