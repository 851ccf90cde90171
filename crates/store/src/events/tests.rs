use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{
    Event, EventId, EventKind, EventQuery, EventStore, Known, Reason, SequenceEntropy, StoreError,
    from_millis,
};
use jiff::Timestamp;
use tempfile::TempDir;

use super::{MemoryEvents, SqliteEvents};
use crate::contract::events::{EventSubject, event_contract_tests};
use crate::place::StorePlace;

struct Memory;

#[async_trait]
impl EventSubject for Memory {
    async fn open(&self) -> Arc<dyn EventStore> {
        Arc::new(MemoryEvents::default())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

mod memory {
    use super::*;
    event_contract_tests!(Memory);
}

struct InAFile(TempDir);

impl InAFile {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

#[async_trait]
impl EventSubject for InAFile {
    async fn open(&self) -> Arc<dyn EventStore> {
        Arc::new(SqliteEvents::beside(&self.0.path().join("countersign.db")))
    }

    fn is_durable(&self) -> bool {
        true
    }
}

mod sqlite {
    use super::*;
    event_contract_tests!(InAFile::new());
}

fn an_event() -> Event {
    let at = from_millis(1_767_225_600_123);
    Event::new(
        EventId::generate(at, &SequenceEntropy::default()).unwrap(),
        at,
        EventKind::Refused(Reason::Unknown),
    )
}

async fn found(store: &dyn EventStore) -> Result<usize, StoreError> {
    let all = EventQuery::newest(10);
    store.events(&all).await.map(|events| events.len())
}

#[tokio::test]
async fn event_files_are_private_beside_the_store() {
    let dir = TempDir::new().unwrap();
    let store = StorePlace::new("sqlite:", dir.path()).unwrap().backend().events();
    assert_eq!(found(&*store).await, Ok(0));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "a question makes no file");
    store.append(&[an_event()]).await.unwrap();
    let path = dir.path().join("countersign-events.db");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);

    let elsewhere = format!("sqlite:{}", dir.path().join("tokens.sqlite").display());
    StorePlace::new(&elsewhere, Path::new("/nowhere"))
        .unwrap()
        .backend()
        .events()
        .append(&[an_event()])
        .await
        .unwrap();
    assert!(dir.path().join("tokens-events.db").exists());
}

#[tokio::test]
async fn damaged_or_foreign_file_is_put_aside() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("countersign-events.db");
    let other = rusqlite::Connection::open(dir.path().join("other")).unwrap();
    other.execute_batch("CREATE TABLE a (b)").unwrap();
    drop(other);
    let contents = [b"no database".repeat(1000), fs::read(dir.path().join("other")).unwrap()];
    for content in &contents {
        fs::write(&path, content).unwrap();
        let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
        store.append(&[an_event()]).await.unwrap();
        assert_eq!(found(&store).await, Ok(1));
        store.close_events().await;
    }
    for (name, content) in
        ["countersign-events.db.aside", "countersign-events.db.aside-2"].iter().zip(&contents)
    {
        assert!(fs::read(dir.path().join(name)).unwrap() == *content, "nothing of {name} was changed");
    }
}

#[tokio::test]
async fn log_is_kept_beside_its_damaged_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("countersign-events.db");
    fs::write(&path, b"no database".repeat(1000)).unwrap();
    fs::write(dir.path().join("countersign-events.db-wal"), "a log").unwrap();
    // Existing files stay.
    fs::write(dir.path().join("countersign-events.db.aside-wal"), "an earlier log").unwrap();
    let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
    store.append(&[an_event()]).await.unwrap();
    assert_eq!(found(&store).await, Ok(1));
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("countersign-events.db.aside-wal"), "an earlier log");
    assert_eq!(read("countersign-events.db.aside-2-wal"), "a log");
    assert!(
        fs::read(dir.path().join("countersign-events.db.aside-2")).unwrap() == b"no database".repeat(1000)
    );
}

#[tokio::test]
async fn unusable_files_are_kept_up_to_a_limit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("countersign-events.db");
    let write = |nth: usize| fs::write(&path, format!("no database {nth:03} ").repeat(1000)).unwrap();
    let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
    for nth in 1..=9 {
        write(nth);
        let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
        store.append(&[an_event()]).await.unwrap();
        store.close_events().await;
    }
    write(10);
    let error = store.append(&[an_event()]).await.unwrap_err().to_string();
    assert!(error.contains("there are 9 such files already; look at them, and move them away"), "{error}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("no database 010 "), "it is left as it is");
    for nth in 1..=9 {
        let suffix = if nth == 1 { String::new() } else { format!("-{nth}") };
        let kept =
            fs::read_to_string(dir.path().join(format!("countersign-events.db.aside{suffix}"))).unwrap();
        assert!(kept.starts_with(&format!("no database {nth:03} ")), "{nth}");
    }

    fs::remove_file(dir.path().join("countersign-events.db.aside-4")).unwrap();
    store.append(&[an_event()]).await.unwrap();
    assert_eq!(found(&store).await, Ok(1));
}

#[tokio::test]
async fn file_of_a_newer_version_is_unchanged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("countersign-events.db");
    let database = dir.path().join("countersign.db");
    let written = SqliteEvents::beside(&database);
    written.append(&[an_event()]).await.unwrap();
    written.close_events().await;
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    newer.close().unwrap();
    let content = fs::read(&path).unwrap();

    let store = SqliteEvents::beside(&database);
    let refused = [
        store.append(&[an_event()]).await.unwrap_err(),
        store.purge_events(Timestamp::MAX).await.unwrap_err(),
        store.remember(&Known::default()).await.unwrap_err(),
        store.known().await.unwrap_err(),
        found(&store).await.unwrap_err(),
    ];
    for error in refused {
        let said = error.to_string();
        assert!(
            said.contains("was written by a newer version of Countersign (events 2, this version knows 1)")
                && said.contains("install that version again, or move the file away"),
            "{said}"
        );
    }
    assert!(fs::read(&path).unwrap() == content, "nothing of it was changed");
    let files =
        fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let aside: Vec<String> = files.filter(|name| name.contains("aside")).collect();
    assert!(aside.is_empty(), "{aside:?}");

    // As before it was kept what is known.
    let older = rusqlite::Connection::open(&path).unwrap();
    older.execute_batch("PRAGMA user_version = 1; DROP TABLE known").unwrap();
    older.close().unwrap();
    assert_eq!(store.known().await, Ok(None));
    assert_eq!(found(&store).await, Ok(1));
    store.remember(&Known::default()).await.unwrap();
    assert_eq!(store.known().await, Ok(Some(Known::default())));
}

#[tokio::test]
async fn file_without_caller_column_is_migrated() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("countersign-events.db");
    let write = async |event| {
        let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
        store.append(&[event]).await.unwrap();
        store.close_events().await;
    };
    write(an_event()).await;
    let older = rusqlite::Connection::open(&path).unwrap();
    older.execute_batch("ALTER TABLE events DROP COLUMN caller").unwrap();
    older.close().unwrap();
    let store = SqliteEvents::beside(&dir.path().join("countersign.db"));
    assert_eq!(
        store.events(&EventQuery::newest(10)).await,
        Ok(vec![an_event()]),
        "read before anything is written"
    );
    let text = EventQuery { text: Some("worker".to_owned()), ..EventQuery::newest(10) };
    assert_eq!(store.events(&text).await, Ok(vec![]));
    let at = from_millis(1_767_225_600_124);
    let id = EventId::generate(at, &SequenceEntropy::default()).unwrap();
    let named = Event { id, at, caller: "worker-eu".parse().ok(), ..an_event() };
    write(named.clone()).await;
    assert_eq!(store.events(&EventQuery::newest(10)).await, Ok(vec![named, an_event()]));
    // An earlier program goes on with the file, too.
    let older = rusqlite::Connection::open(&path).unwrap();
    let insert = "INSERT INTO events (id, kind, count) VALUES (zeroblob(16), 'issued', 1)";
    assert_eq!(older.execute(insert, ()).unwrap(), 1);
}

#[tokio::test]
async fn events_resume_after_their_file_was_unusable() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("place");
    let store = SqliteEvents::beside(&place.join("countersign.db"));
    let error = store.append(&[an_event()]).await.unwrap_err().to_string();
    assert!(error.contains("cannot be opened"), "{error}");
    fs::create_dir(&place).unwrap();
    store.append(&[an_event()]).await.unwrap();
    assert_eq!(found(&store).await, Ok(1));
}
