//! A store with millions of consumptions, faster than by consuming that many tokens.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use countersign_core::{
    Clock, EndResult, Entropy, OsEntropy, RetryKeyHash, SystemClock, TokenId, TokenStore, after, before,
    to_millis,
};
use countersign_store::sqlite::SqliteStore;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::{Value, json};

use crate::Failure;

/// How many tokens are issued in a millisecond: some 25,000 a second.
const PER_MILLISECOND: u64 = 25;

/// How many records one transaction holds, so that the log stays below 100 MiB however many there are.
const TRANSACTION: usize = 1_000_000;

const LIFETIME: std::time::Duration = std::time::Duration::from_mins(5);

/// Puts so many consumptions into the store at `database`: with an address and a retry key each. The store has to
/// know the last of them when it is opened again.
pub(crate) fn fill(database: &Path, records: u64, age: u64) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let newest = before(SystemClock.now(), std::time::Duration::from_secs(age));
    let open = || async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        SqliteStore::open(database, clock).await
    };
    runtime.block_on(async {
        open().await?.close().await;
        Ok::<_, Failure>(())
    })?;
    let last = insert(database, records, to_millis(newest))?;
    let stats = runtime.block_on(async {
        let store = open().await?;
        let found = store.look_up(last, after(newest, LIFETIME)).await?;
        if !matches!(found, EndResult::Already(_)) {
            return Err(format!("the store says of the last of these records: {found:?}").into());
        }
        let stats = store.stats().await?;
        store.close().await;
        Ok::<_, Failure>(stats)
    })?;
    Ok(json!({
        "consumed": stats.consumed,
        "bytes": database.metadata()?.len(),
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

fn insert(database: &Path, records: u64, newest: i64) -> Result<TokenId, Failure> {
    let mut id = [0; 16];
    let mut connection = Connection::open(database)?;
    // Nothing here is worth keeping if the machine stops; the store's own connections go on waiting for the disk.
    // The log stays: without one, the store would think that it was lost.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 10000")?;
    for start in (0..records).step_by(TRANSACTION) {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO endings (id, expires, early, kind, by, retry_key) VALUES (?, ?, ?, 0, ?, ?)",
            )?;
            let mut tail = [0; 10];
            for nth in (start..records).take(TRANSACTION) {
                OsEntropy.fill(&mut tail)?;
                let created = newest - i64::try_from((records - nth) / PER_MILLISECOND)?;
                for (to, from) in id.iter_mut().zip(created.to_be_bytes().iter().skip(2).chain(&tail)) {
                    *to = *from;
                }
                let expires = created + i64::try_from(LIFETIME.as_millis())?;
                let key = RetryKeyHash::of(&id);
                insert.execute((id, expires, 299_000, [192, 0, 2, 1], key.as_bytes()))?;
            }
        }
        transaction.commit()?;
    }
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(TokenId::from_bytes(id))
}
