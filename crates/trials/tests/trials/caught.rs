//! What is broken on purpose is found out.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{SystemClock, TokenStore};
use countersign_store::memory::MemoryStore;
use countersign_trials::broken::{InProcess, ReadThenWrite};
use countersign_trials::process::{BIN_VARIABLE, find_binary};
use countersign_trials::{TrialError, races};

const LIMIT: Duration = Duration::from_mins(2);

/// Races against a server in this process, with the product's routes and this store.
async fn race(store: Arc<dyn TokenStore>) -> Result<races::Tally, TrialError> {
    let place = tempfile::tempdir().unwrap();
    let server = InProcess::start(store, place.path()).await.unwrap();
    let options = races::Options { count: 200, clients: 6, groups: 2, limit: LIMIT, seed: 1 };
    let tally = races::run(server.target(), options, &|_| {}).await;
    server.stop().await;
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_then_write_store_is_caught() {
    let error = race(Arc::new(ReadThenWrite::default())).await.unwrap_err();
    let TrialError::Violation(violation) = error else { panic!("{error}") };
    assert!(violation.promise.contains("not linearizable"), "{violation}");
    assert!(violation.evidence.contains("answered Accepted"), "{}", violation.evidence);
    assert!(!violation.evidence.contains("cs1"), "no token's text: {}", violation.evidence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn correct_store_passes_the_same_races() {
    let tally = race(Arc::new(MemoryStore::new(&SystemClock))).await.unwrap();
    assert_eq!(tally.tokens, 200);
}

/// Also what the command does with a violation: exit code 1, and the evidence in a file.
#[test]
fn store_that_forgets_in_a_crash_is_caught() {
    let place = tempfile::tempdir().unwrap();
    let evidence = place.path().join("evidence.txt");
    let output = command()
        .env(BIN_VARIABLE, find_binary().unwrap())
        .args(["crashes", "--lose-log", "--cycles", "20", "--seed", "1", "--evidence"])
        .arg(&evidence)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("VIOLATION: "), "{said}");
    let evidence = std::fs::read_to_string(evidence).unwrap();
    assert!(
        evidence.contains("operation 0: sent Redeem") && evidence.contains("the log was removed"),
        "{evidence}"
    );
}

#[test]
fn missing_binary_is_explained() {
    let output = command().env(BIN_VARIABLE, "/nowhere/countersign").arg("races").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/nowhere/countersign") && said.contains("cargo build -p countersign"), "{said}");
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_countersign-trials"))
}
