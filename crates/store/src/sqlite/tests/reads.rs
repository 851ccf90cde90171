//! Reads whose callers go away, and such as are stopped.

use std::sync::mpsc;

use countersign_core::TokenStore;
use tokio::sync::oneshot;

use super::super::reader::Readers;
use super::Place;

#[tokio::test]
async fn read_keeps_its_turn_when_its_caller_has_gone() {
    let place = Place::new();
    place.open().await.close().await;
    let readers = Readers::new(place.db(), 1);
    let (began, has_begun) = oneshot::channel();
    let (finish, may_finish) = mpsc::channel::<()>();
    let caller = tokio::spawn({
        let readers = readers.clone();
        async move {
            readers
                .read(move |_| {
                    began.send(()).unwrap();
                    may_finish.recv().unwrap();
                    Ok(())
                })
                .await
        }
    });
    has_begun.await.unwrap();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(readers.free(), 0, "another read would run beside it");
    finish.send(()).unwrap();
    readers.read(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn stop_ends_a_long_read() {
    let place = Place::new();
    place.open().await.close().await;
    let readers = Readers::new(place.db(), 1);
    let (began, has_begun) = oneshot::channel();
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let read = tokio::spawn({
        let readers = readers.clone();
        async move {
            readers
                .read(move |connection| {
                    began.send(()).unwrap();
                    connection.query_row(endless, (), |row| row.get::<_, i64>(0))
                })
                .await
        }
    });
    has_begun.await.unwrap();
    readers.stop().await;
    let error = read.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("interrupted"), "{error}");
}
