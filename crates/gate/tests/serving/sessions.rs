//! Sessions: when they end, how many there are, and what happens when they cannot be read or written.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Clock;
use countersign_gate::WhichSessions;
use tempfile::TempDir;

use super::{Issuer, Running, allowed};

#[tokio::test]
async fn session_ends_by_expiry_or_removed_issuer() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let lifetime = "session_lifetime = \"1h\"";
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", lifetime)).await;
    let answer = gate.log_in("/bugs/one/good").await;
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=3600"), "{}", answer.head);
    let cookie = answer.cookie().unwrap();
    gate.clock.advance(Duration::from_secs(3599));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    gate.clock.advance(Duration::from_secs(1));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (401, None));

    let cookie = gate.log_in("/bugs/one/good2").await.cookie().unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    let unchanged = issuer.table("one", lifetime);
    gate.stop().await;
    for (tables, expected) in [
        (unchanged.clone(), allowed("one-user")),
        (unchanged.replace("one-user", "another"), (401, None)),
        (unchanged.replace("\"one\"", "\"other\""), (401, None)),
    ] {
        let gate = Running::start_in(Arc::clone(&directory), "", &tables).await;
        assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, expected, "{tables}");
        gate.stop().await;
    }
}

#[tokio::test]
async fn unreadable_sessions_reject_every_request() {
    let issuer = Issuer::start().await;
    let gate = Running::start("anonymous = true", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good1").await.cookie().unwrap();
    assert_eq!(gate.ask("GET", "/healthz", &[], "").await.status, 200);
    let file = gate.directory.path().join("data/gate-sessions.db");
    rusqlite::Connection::open(file).unwrap().execute("ALTER TABLE sessions RENAME TO gone", []).unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (503, None));
    assert_eq!(gate.ask("GET", "/healthz", &[], "").await.status, 503);
    let answer = gate.log_in("/bugs/one/good2").await;
    assert_eq!((answer.status, answer.cookie()), (401, None));
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"not_kept\"}";
    assert_eq!(gate.metric(counted).await, Some(1));
}

/// As with a full disk. The sessions that there are go on, so the status stays: a proxy would take the gate for dead.
#[tokio::test]
async fn health_says_that_sessions_cannot_be_written() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let health = || gate.ask("GET", "/healthz", &[], "");
    assert_eq!(health().await.body, "The gate works.\n");
    let writer = rusqlite::Connection::open(gate.directory.path().join("data/gate-sessions.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let hindered = health().await;
    assert_eq!(hindered.status, 200);
    assert!(hindered.body.contains("no session can be made or ended"), "{}", hindered.body);
    writer.execute_batch("ROLLBACK").unwrap();
    assert_eq!(health().await.body, "The gate works.\n");
}

#[tokio::test]
async fn sessions_of_an_issuer_are_bounded() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 0", &issuer.table("one", "max_sessions = 2")).await;
    let mut cookies = Vec::new();
    for number in 0..4 {
        cookies.push(gate.log_in(&format!("/bugs/one/good{number}")).await.cookie().unwrap());
    }
    let mut answers = Vec::new();
    for cookie in &cookies {
        answers.push(gate.check(cookie, "GET", "/bugs/one/1").await.0);
    }
    assert_eq!(answers, [401, 401, 204, 204]);
    assert_eq!(gate.metric("countersign_gate_sessions{issuer=\"one\"}").await, Some(2));
    assert_eq!(gate.sessions().end(WhichSessions::All, gate.clock.now()).await.unwrap().number, 2);
    assert_eq!(gate.check(&cookies[3], "GET", "/bugs/one/1").await.0, 401);
}
