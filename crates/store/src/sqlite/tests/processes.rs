//! Tests with a second process: this same test binary, which the environment tells to play the other part.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, OsEntropy, SystemClock, TokenId, TokenStore, after};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::files::wal_of;
use super::{FILE_NAME, SqliteStore, consume};

/// Names the directory that the other process is to work in; without it, a test is the first process.
const DIR: &str = "COUNTERSIGN_TEST_CHILD_DIR";

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Starts the other process, in which `test` runs with [`child_dir`].
fn start(test: &str, dir: &Path) -> Child {
    // A process that reaches its limit of file size is sent SIGXFSZ; ignored, it gets an error instead.
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join(FILE_NAME), Arc::new(SystemClock)).await.unwrap()
}

fn token() -> super::Token {
    let now = SystemClock.now();
    (TokenId::generate(now, &OsEntropy).unwrap(), after(now, Duration::from_mins(5)))
}

fn say(words: &str) {
    // Not println!, which a test harness may capture, and in one piece.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{words}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[tokio::test]
async fn second_process_learns_who_has_the_directory() {
    if let Some(dir) = child_dir() {
        let refused = SqliteStore::open(&dir.join(FILE_NAME), Arc::new(SystemClock)).await.unwrap_err();
        return say(&format!("refused: {refused}"));
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let child = start("sqlite::tests::processes::second_process_learns_who_has_the_directory", dir.path());
    let output = child.wait_with_output().unwrap();
    let sentence = format!(
        "\nrefused: the data directory {} is in use by process {}; stop that process, or give this one another \
         --data-dir\n",
        dir.path().display(),
        std::process::id()
    );
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains(&sentence), "{output}");
    assert_eq!(consume(&store, token()).await, Ok(EndResult::Recorded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_answered_record() {
    if let Some(dir) = child_dir() {
        let store = Arc::new(open(&dir).await);
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    // Many more than the other process waits for, but not without end, in case this one is not killed.
                    for _ in 0..100_000 {
                        let token = token();
                        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
                        say(&format!("recorded {:?}.", token.0.as_bytes()));
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = start("sqlite::tests::processes::killed_server_loses_no_answered_record", dir.path());
    let mut answered = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The last line may have been cut off.
        if let Some(id) = line.unwrap().strip_prefix("recorded [").and_then(|line| line.strip_suffix("].")) {
            let bytes: Vec<u8> = id.split(", ").map(|byte| byte.parse().unwrap()).collect();
            answered.push(TokenId::from_bytes(bytes.try_into().unwrap()));
        }
        if answered.len() == 500 {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(answered.len() >= 500);
    let store = open(dir.path()).await;
    for id in answered {
        let again = (id, after(id.created(), Duration::from_mins(5)));
        assert!(matches!(consume(&store, again).await, Ok(EndResult::Already(_))), "{id}");
    }
}

/// How large a file this process may make.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

#[tokio::test]
async fn full_disk_is_survived() {
    if let Some(dir) = child_dir() {
        let store = open(&dir).await;
        let log = wal_of(store.path());
        let mut known = Vec::new();
        // The limit is for all files of the process, and the log's index alone is 32 KiB.
        while log.metadata().unwrap().len() < 128 * 1024 {
            known.push(token());
            assert_eq!(consume(&store, known[known.len() - 1]).await, Ok(EndResult::Recorded));
        }
        limit_files(Some(log.metadata().unwrap().len() + 1000));
        let refused: Vec<_> = (0..20).map(|_| token()).collect();
        for token in &refused {
            let reason = super::reason(consume(&store, *token).await);
            assert!(reason.contains("; check the disk and its limits, and it goes on by itself"), "{reason}");
            assert!(super::reason(store.ready().await).contains("; check the disk"));
            let other = rusqlite::Connection::open(store.path()).unwrap();
            other.busy_timeout(Duration::ZERO).unwrap();
            other.execute_batch("BEGIN IMMEDIATE; ROLLBACK").expect("a failed commit leaves nothing locked");
        }
        assert_eq!(store.stats().await.unwrap().consumed, known.len() as u64);
        limit_files(None);
        assert_eq!(store.ready().await, Ok(()));
        for token in &refused {
            assert_eq!(consume(&store, *token).await, Ok(EndResult::Recorded), "nothing of it was kept");
        }
        drop(store);
        let store = open(&dir).await;
        for token in known.iter().chain(&refused) {
            assert!(matches!(consume(&store, *token).await, Ok(EndResult::Already(_))));
        }
        return say("survived");
    }
    let dir = tempfile::tempdir().unwrap();
    let child = start("sqlite::tests::processes::full_disk_is_survived", dir.path());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("\nsurvived\n"), "{text}");
}
