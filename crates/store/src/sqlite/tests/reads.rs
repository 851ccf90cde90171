//! Reads whose callers go away, and reads that are stopped.

use std::sync::mpsc;

use countersign_core::{StoreError, TokenStore};
use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::reader::Readers;
use super::Place;

/// Begins a read, in a task of its own, with the only connection.
async fn begin<T: Send + 'static>(
    place: &Place,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> (Readers, JoinHandle<Result<T, StoreError>>) {
    place.open().await.close().await;
    let readers = Readers::new(place.db(), 1);
    let (began, has_begun) = oneshot::channel();
    let read = tokio::spawn({
        let readers = readers.clone();
        async move {
            readers
                .read(move |connection| {
                    began.send(()).unwrap();
                    work(connection)
                })
                .await
        }
    });
    has_begun.await.unwrap();
    (readers, read)
}

#[tokio::test]
async fn read_keeps_its_turn_when_its_caller_has_gone() {
    let place = Place::new();
    let (finish, may_finish) = mpsc::channel::<()>();
    let (readers, caller) = begin(&place, move |_| {
        may_finish.recv().unwrap();
        Ok(())
    })
    .await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(readers.free(), 0, "another read would run beside it");
    finish.send(()).unwrap();
    readers.read(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn stop_ends_a_long_read() {
    let place = Place::new();
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let (readers, read) =
        begin(&place, move |connection| connection.query_row(endless, (), |row| row.get::<_, i64>(0))).await;
    readers.stop().await;
    let error = read.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("interrupted"), "{error}");
}
