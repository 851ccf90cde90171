//! Which files are opened, and what is said about the others.

use std::fs;
use std::sync::Arc;

use countersign_core::{Clock, EndResult, TokenStore, to_millis};

use super::super::files::{beside, ensure_log, wal_of};
use super::super::lock::LOCK_FILE;
use super::super::{inspect, schema};
use super::{Place, SqliteStore, consume, consume_all, fence_after_all, look};
use crate::backend::IfMissing;
use crate::error::OpenError;

#[cfg(unix)]
#[tokio::test]
async fn new_store_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

    let place = Place::new();
    let dir = place.dir.path().join("state").join("countersign");
    let path = dir.join("countersign.db");
    let store = SqliteStore::open(&path, Arc::clone(&place.clock) as Arc<dyn Clock>).await.unwrap();
    consume(&store, place.token()).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&wal_of(&path)), 0o600);
    assert_eq!(mode(&beside(&path, "-shm")), 0o600);
}

#[tokio::test]
async fn closing_leaves_one_file_and_frees_the_lock() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    store.close().await;
    assert_eq!(fs::metadata(wal_of(&place.db())).map_or(0, |log| log.len()), 0, "all is in the database");
    let other = place.open().await;
    assert!(matches!(look(&other, token).await, EndResult::Already(_)));
}

#[tokio::test]
async fn directory_in_use_is_refused() {
    let place = Place::new();
    let store = place.open().await;
    let refused = place.try_open().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "the data directory {} is in use by this very process ({}); stop that process, or give this one another \
             --data-dir",
            place.dir.path().display(),
            std::process::id()
        )
    );
    drop(store);
    drop(place.open().await);
    // The lock of a process that is gone is only a text.
    fs::write(place.dir.path().join(LOCK_FILE), "4194304999").unwrap();
    drop(place.open().await);
    fs::write(place.dir.path().join(LOCK_FILE), "no number").unwrap();
    drop(place.open().await);
}

#[tokio::test]
async fn offline_commands_create_no_store() {
    let place = Place::new();
    let clock = Arc::clone(&place.clock) as Arc<dyn Clock>;
    let missing = SqliteStore::open_or(&place.db(), Arc::clone(&clock), IfMissing::Fail).await.unwrap_err();
    assert!(matches!(missing, OpenError::Missing(_)), "{missing}");
    assert!(matches!(inspect(&place.db()), Err(OpenError::Missing(_))));
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 0);
    drop(place.open().await);
    SqliteStore::open_or(&place.db(), clock, IfMissing::Fail).await.unwrap();
}

#[tokio::test]
async fn store_in_use_can_be_inspected() {
    let place = Place::new();
    let store = place.open().await;
    for token in place.tokens(3) {
        consume(&store, token).await.unwrap();
    }
    assert_eq!(inspect(&place.db()).unwrap(), store.stats().await.unwrap());
    assert_eq!(inspect(&place.db()).unwrap().consumed, 3);
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn foreign_database_is_refused_unchanged() {
    let place = Place::new();
    let other = rusqlite::Connection::open(place.db()).unwrap();
    other.execute_batch("CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('bread')").unwrap();
    other.close().unwrap();
    let before = fs::read(place.db()).unwrap();
    let refused = place.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
    assert!(refused.to_string().ends_with("some other program's database; name another path"));
    assert_eq!(fs::read(place.db()).unwrap(), before);
    assert!(matches!(inspect(&place.db()), Err(OpenError::Foreign(_))));
}

#[tokio::test]
async fn newer_schema_is_refused_unchanged() {
    let place = Place::new();
    let store = place.open().await;
    store.close().await;
    let newer = rusqlite::Connection::open(place.db()).unwrap();
    newer.pragma_update(None, "user_version", schema::newest() + 1).unwrap();
    newer.close().unwrap();
    let before = fs::read(place.db()).unwrap();
    let refused = place.try_open().await.unwrap_err();
    assert!(
        refused.to_string().ends_with(
            "was written by a newer version of Countersign (schema 5, this version knows up to 4); install that \
             version again"
        ),
        "{refused}"
    );
    assert_eq!(fs::read(place.db()).unwrap(), before);
}

#[tokio::test]
async fn damaged_store_is_refused_with_a_remedy() {
    let place = Place::new();
    let store = place.open().await;
    consume_all(&store, place.tokens(500)).await;
    store.close().await;
    drop(store);
    let whole = fs::read(place.db()).unwrap();
    assert!(whole.len() > 8 * 4096);

    let mut scribbled = whole.clone();
    scribbled[5 * 4096..6 * 4096].fill(0xff);
    let cut = whole[..4 * 4096].to_vec();
    let mut bare = whole.clone();
    bare[100..4096].fill(0);
    for damaged in
        [scribbled, cut, bare, b"This is a note, not a database; and it is long enough.".repeat(20)]
    {
        fs::write(place.db(), &damaged).unwrap();
        let refused = place.try_open().await.unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("put a backup in its place, or move it away"), "{refused}");
    }
    fs::write(place.db(), &whole).unwrap();
    assert_eq!(place.open().await.stats().await.unwrap().consumed, 500);
}

#[tokio::test]
async fn emptied_file_becomes_a_new_fenced_store() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    drop(store);
    fs::write(place.db(), b"").unwrap();
    place.clock.advance(std::time::Duration::from_millis(1));
    let store = place.open().await;
    assert_eq!(consume(&store, token).await, Ok(EndResult::Fenced));
}

#[tokio::test]
async fn commit_waits_for_the_disk() {
    let place = Place::new();
    let store = place.open().await;
    let pragma = |name: &'static str| {
        store.writer.call(move |batch| {
            batch.connection().pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        })
    };
    // 2 is FULL: the log is synced at each commit. Killing a process cannot show the difference; a power cut would.
    assert_eq!(pragma("synchronous").await, Ok(2.into()));
    assert_eq!(pragma("fullfsync").await, Ok(1.into()));
    assert_eq!(pragma("checkpoint_fullfsync").await, Ok(1.into()));
    assert_eq!(pragma("journal_mode").await, Ok("wal".to_owned().into()));
}

#[tokio::test]
async fn first_schema_is_migrated() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    store.close().await;
    drop(store);
    let old = rusqlite::Connection::open(place.db()).unwrap();
    old.execute_batch("DROP TABLE nodes; DROP TABLE copying; ALTER TABLE store DROP COLUMN cleared; PRAGMA user_version = 1").unwrap();
    old.close().unwrap();
    let store = place.open().await;
    assert_eq!(store.stats().await.unwrap().schema, schema::newest());
    assert!(matches!(look(&store, token).await, EndResult::Already(_)));
    assert!(store.node_list(place.clock.now()).await.unwrap().nodes.is_empty());
}

/// A wrong clock had moved the old horizon to 2099, and with it every token was rejected until then.
#[tokio::test]
async fn older_horizon_far_ahead_refuses_no_later_token() {
    let place = Place::new();
    let store = place.open().await;
    let outstanding = place.token();
    store.close().await;
    drop(store);
    let old = rusqlite::Connection::open(place.db()).unwrap();
    let far = 4_070_908_800_000_i64;
    old.execute_batch(&format!(
        "ALTER TABLE store DROP COLUMN cleared; UPDATE store SET horizon = {far}; PRAGMA user_version = 3"
    ))
    .unwrap();
    old.close().unwrap();
    ensure_log(&place.db()).unwrap();
    assert_eq!(to_millis(inspect(&place.db()).unwrap().horizon), far - 1, "it can be looked at before");
    let store = place.open().await;
    assert_eq!(look(&store, outstanding).await, EndResult::Forgotten, "it was refused before");
    place.clock.set(fence_after_all(&place));
    assert_eq!(look(&store, place.token()).await, EndResult::Forgotten, "another clock may have been ahead");
    place.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(consume(&store, place.token()).await, Ok(EndResult::Recorded));
}

/// `SQLite` follows a symlink and puts the log beside the database; the store did not, took the log for lost, and moved the
/// fence of the real database.
#[cfg(unix)]
#[tokio::test]
async fn symlink_to_a_database_is_followed_once() {
    let place = Place::new();
    let store = place.open().await;
    let token = place.token();
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    let fence = store.stats().await.unwrap().fence;
    drop(store);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("tokens.db");
    std::os::unix::fs::symlink(place.db(), &link).unwrap();
    let names = |dir: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(place.dir.path());
    assert_eq!(inspect(&link).unwrap().consumed, 1);
    assert_eq!(names(elsewhere.path()), ["tokens.db"], "a look leaves nothing behind");
    assert_eq!(names(place.dir.path()), before);

    let clock = Arc::clone(&place.clock) as Arc<dyn Clock>;
    let store = SqliteStore::open(&link, Arc::clone(&clock)).await.unwrap();
    assert_eq!(store.path(), place.db().canonicalize().unwrap());
    assert!(matches!(look(&store, token).await, EndResult::Already(_)));
    assert_eq!(store.stats().await.unwrap().fence, fence, "no log is missing");
    assert_eq!(names(elsewhere.path()), ["tokens.db"]);
    assert!(matches!(place.try_open().await, Err(OpenError::InUse { .. })), "by whatever name");
    drop(store);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("nowhere.db", &link).unwrap();
    assert!(SqliteStore::open(&link, clock).await.is_err(), "it leads nowhere");
    assert_eq!(names(elsewhere.path()), ["tokens.db"]);
}

/// Each name has a directory with a log of its own, in which the other server does not look.
#[cfg(unix)]
#[tokio::test]
async fn hard_link_in_another_directory_is_in_use() {
    let place = Place::new();
    let store = place.open().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("tokens.db");
    fs::hard_link(place.db(), &link).unwrap();
    let clock = Arc::clone(&place.clock) as Arc<dyn Clock>;
    let refused = SqliteStore::open(&link, Arc::clone(&clock)).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUseElsewhere(_)), "{refused}");
    drop(store);
    SqliteStore::open(&link, clock).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn lock_that_is_a_symlink_is_refused() {
    let place = Place::new();
    let other = tempfile::tempdir().unwrap();
    let precious = other.path().join("precious");
    let lock = place.dir.path().join(LOCK_FILE);
    let link: [fn(&std::path::Path, &std::path::Path) -> std::io::Result<()>; 2] =
        [|from, to| std::os::unix::fs::symlink(from, to), |from, to| fs::hard_link(from, to)];
    for link in link {
        for text in ["a short one", "a text that is longer than any process id"] {
            fs::write(&precious, text).unwrap();
            link(&precious, &lock).unwrap();
            let refused = place.try_open().await.unwrap_err().to_string();
            assert!(refused.contains("it is a link, or not a lock"), "{refused}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), text);
            assert!(!place.db().exists(), "before anything is made");
            fs::remove_file(&lock).unwrap();
        }
    }
    std::os::unix::fs::symlink(other.path().join("not there"), &lock).unwrap();
    assert!(place.try_open().await.is_err());
    assert!(!other.path().join("not there").exists());
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "something that is not a process id").unwrap();
    assert!(place.try_open().await.is_err());
    fs::remove_file(&lock).unwrap();
    place.open().await;
}
