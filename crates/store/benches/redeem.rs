//! How many tokens a second can be consumed, for how many callers at once, and what a disk that only waits would do.
//!
//! `cargo bench -p countersign-store`; `TMPDIR` chooses the disk.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::{
    Clock, Consumption, EndResult, Ending, OsEntropy, RetryKeyHash, SystemClock, TokenId, TokenStore, after,
};
use countersign_store::sqlite::SqliteStore;

const FOR: Duration = Duration::from_secs(3);

fn main() {
    let dir = tempfile::tempdir().unwrap();
    println!(
        "one thread, one write of 4 KiB and one fdatasync each: {:>7} a second",
        waits_for_the_disk(dir.path())
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    for callers in [1, 8, 64, 512] {
        let (ends, commits) = runtime.block_on(ends(&dir.path().join(format!("{callers}.db")), callers));
        println!("{callers:>4} callers: {ends:>7} ends a second, {commits:>6} commits");
    }
}

fn waits_for_the_disk(dir: &Path) -> u128 {
    let mut file = File::create(dir.join("waits")).unwrap();
    let page = [7; 4096];
    let (start, mut waits) = (Instant::now(), 0);
    while start.elapsed() < FOR {
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        waits += 1;
    }
    waits * 1000 / start.elapsed().as_millis()
}

async fn ends(path: &Path, callers: usize) -> (u128, u128) {
    let store = Arc::new(SqliteStore::open(path, Arc::new(SystemClock)).await.unwrap());
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut ends = 0;
                while start.elapsed() < FOR {
                    let now = SystemClock.now();
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
    let (millis, commits) = (start.elapsed().as_millis(), u128::from(store.counts().unwrap().commits));
    store.close().await;
    (ends * 1000 / millis, commits * 1000 / millis)
}
