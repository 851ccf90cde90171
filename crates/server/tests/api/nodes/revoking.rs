//! New and revoked keys, on the servers that share a store and on a single one.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::SETTLING;
use countersign_testkit::seen;
use serde_json::{Value, json};

use super::{
    change, facts, hand_over, keys, request, revoke, rotate, sealing, server, shared_store, status, two,
};
use crate::fixture::{Fixture, post};

fn advance(servers: [&Fixture; 2], by: Duration) {
    for server in servers {
        server.clock.advance(by);
    }
}

#[tokio::test]
async fn new_key_seals_everywhere_after_settling() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let new = rotate(&one).await;
    assert_eq!(sealing(&one).await, old);
    assert_eq!(keys(&one).await[1]["waits_for"], json!([]));
    other.app.check_in().await;
    assert_eq!(sealing(&other).await, old);
    advance([&one, &other], SETTLING);
    assert_eq!((sealing(&one).await, sealing(&other).await), (new.clone(), new));
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn revoked_key_is_refused_everywhere_at_once() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let (stolen, elsewhere) = (one.token(), other.token());
    let answer = change(&one, "/v1/keys/revoke", json!({ "id": old })).await;
    assert_eq!(
        (answer.status, &answer.json()["type"]),
        (StatusCode::CONFLICT, &json!("urn:countersign:problem:key-seals"))
    );
    assert_eq!(status(&one, &one.token()).await, StatusCode::OK, "it is still there");

    revoke(&one, &old, true).await;
    // Beta has not checked in since, and still seals with the old key.
    let late = other.token();
    for token in [&stolen, &elsewhere, &late] {
        assert_eq!(status(&other, token).await, StatusCode::NOT_FOUND);
        assert_eq!(status(&one, token).await, StatusCode::NOT_FOUND);
    }
    assert_ne!(sealing(&other).await, old, "it has found out");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);

    let again = change(&one, "/v1/keys/revoke", json!({ "id": old })).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
    assert!(again.text.contains("keys list"), "{again:?}");
    let nonsense = change(&one, "/v1/keys/revoke", json!({ "id": "stolen" })).await;
    assert_eq!(nonsense.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn revoked_key_never_returns() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let (used, live) = (one.token(), one.token());
    let attempt = |token: &str| {
        let path = crate::fixture::handshake_path(token);
        post(&path).header("idempotency-key", "the same").body(Body::empty()).unwrap()
    };
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::OK);
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::OK, "the answer was lost");
    revoke(&one, &old, true).await;
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::NOT_FOUND);
    let show = Request::get(format!("/v1/tokens/{live}")).body(Body::empty()).unwrap();
    assert_eq!(other.private(show).await.status, StatusCode::NOT_FOUND);
    let take_back = Request::delete(format!("/v1/tokens/{live}")).body(Body::empty()).unwrap();
    assert_eq!(other.private(take_back).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn revocation_holds_right_after_an_outage() {
    let (one, other, line) = two().await;
    let old = sealing(&one).await;
    let stolen = other.token();
    line.set_cut(true);
    revoke(&one, &old, true).await;
    assert_eq!(status(&other, &stolen).await, StatusCode::SERVICE_UNAVAILABLE);
    let issued = other.token();
    assert_eq!(status(&one, &issued).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&other, &one.token()).await, StatusCode::SERVICE_UNAVAILABLE, "it cannot know the key");
    line.set_cut(false);
    assert_eq!(status(&other, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn revoked_key_stays_revoked_after_a_restart() {
    let store = shared_store();
    let ((one, _), (other, _)) = (server(&store), server(&store));
    hand_over(&one, &other).await;
    one.app.tokens.join(facts("alpha")).await.unwrap();
    other.app.tokens.join(facts("beta")).await.unwrap();
    let old = sealing(&one).await;
    let stolen = one.token();
    revoke(&one, &old, true).await;
    other.app.tokens.leave().await.unwrap();
    // With the key file of before, in which the key still is.
    assert!(fs::read_to_string(other.app.key_file.path()).unwrap().contains(&old));
    let (again, _) = server(&store);
    hand_over(&other, &again).await;
    again.app.tokens.join(facts("beta")).await.unwrap();
    assert_eq!(status(&again, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&again, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn unknown_key_is_looked_up_before_refusing() {
    let (one, other, line) = two().await;
    revoke(&one, &sealing(&one).await, true).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    // What no server has sealed stays unknown, and is 404.
    let (elsewhere, _) = server(&shared_store());
    let unknown = elsewhere.token();
    assert_eq!(status(&other, &unknown).await, StatusCode::NOT_FOUND);
    line.set_cut(true);
    assert_eq!(status(&other, &unknown).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(&other, "cs1nonsense").await, StatusCode::NOT_FOUND);
    line.set_cut(false);
    assert_eq!(status(&other, &unknown).await, StatusCode::NOT_FOUND);
}

/// Anybody can write the name of a key that is not there; the store must not have to pay for it.
#[tokio::test(start_paused = true)]
async fn invented_keys_cause_few_reads() {
    let (_one, other, line) = two().await;
    let (elsewhere, _) = server(&shared_store());
    let other = Arc::new(other);
    let before = line.readings.load(Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    let callers = (0..50).map(|_| {
        let (other, token) = (Arc::clone(&other), elsewhere.token());
        tokio::spawn(async move {
            for _ in 0..20 {
                assert_eq!(status(&other, &token).await, StatusCode::NOT_FOUND);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let readings = line.readings.load(Ordering::SeqCst) - before;
    let most = usize::try_from(began.elapsed().as_millis() / 100).unwrap() + 2;
    assert!(readings <= most, "{readings} readings in {:?} for 1000 requests", began.elapsed());
}

#[tokio::test]
async fn only_key_is_revoked_together_with_a_new_one() {
    let server = Fixture::new();
    let (old, stolen) = (sealing(&server).await, server.token());
    revoke(&server, &old, true).await;
    assert_ne!(sealing(&server).await, old);
    assert_eq!(status(&server, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&server, &server.token()).await, StatusCode::OK);
}

/// The events on record, as the private API shows them.
async fn events(server: &Fixture) -> String {
    server.private(Request::get("/v1/events").body(Body::empty()).unwrap()).await.text
}

/// A caller that asks and is gone before the answer.
async fn ask_and_hang_up(server: &Fixture, path: &str, body: &Value) {
    let asked = server.private(request(path, body));
    tokio::pin!(asked);
    // As far as the request is read and the change begins.
    let hung_up = tokio::time::timeout(Duration::from_millis(1), &mut asked).await;
    assert!(hung_up.is_err(), "the caller was not fast enough: {hung_up:?}");
}

#[tokio::test]
async fn change_completes_when_its_caller_disconnects() {
    let server = Fixture::new();
    tokio::spawn(Arc::clone(&server.app.events).write());
    let stolen = server.token();
    let old = sealing(&server).await;
    let directory = fs::File::open(server.app.key_file.path().parent().unwrap()).unwrap();
    directory.lock().unwrap();
    ask_and_hang_up(&server, "/v1/keys/revoke", &json!({ "id": old, "rotate": true })).await;
    assert_eq!(sealing(&server).await, old);
    drop(directory);
    seen("another key seals", async || (sealing(&server).await != old).then_some(())).await;
    assert_eq!(status(&server, &stolen).await, StatusCode::NOT_FOUND);
    for kind in ["key-rotated", "key-revoked"] {
        seen(kind, async || events(&server).await.contains(kind).then_some(())).await;
    }
    let on_disk = fs::read_to_string(server.app.key_file.path()).unwrap();
    assert!(on_disk.contains(&format!("revoked = [\"{old}\"]")), "{old}");
}

#[tokio::test]
async fn locked_key_file_is_reported_and_unchanged() {
    let server = Fixture::new();
    let directory = fs::File::open(server.app.key_file.path().parent().unwrap()).unwrap();
    directory.lock().unwrap();
    let before = keys(&server).await;
    let answer = change(&server, "/v1/keys/rotate", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.text.contains("holds the lock"), "{answer:?}");
    assert_eq!(keys(&server).await, before);
    drop(directory);
    rotate(&server).await;
}
