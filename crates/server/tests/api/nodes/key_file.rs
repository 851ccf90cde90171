//! The key file that unlocks the ring of a shared store: the wrong one, a new one, and servers that start together.

use std::fs;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Clock, KeyChange, KeyRing, OsEntropy, RingChange, RingError, change_ring, read_ring};
use countersign_server::KeyFile;
use serde_json::json;

use super::{change, facts, hand_over, keys, rotate, server, shared_store, status, two};
use crate::fixture::Fixture;

#[tokio::test]
async fn wrong_key_file_is_refused_without_loss() {
    let store = shared_store();
    let ((one, _), (stranger, _)) = (server(&store), server(&store));
    one.app.tokens.join(facts("alpha")).await.unwrap();
    let refused = stranger.app.tokens.join(facts("beta")).await.unwrap_err();
    assert!(matches!(refused, RingError::Locked(_)), "{refused}");
    assert!(refused.to_string().contains("copy the key file of a server"), "{refused}");
    hand_over(&one, &stranger).await;
    stranger.app.tokens.join(facts("beta")).await.unwrap();
    assert_eq!(status(&stranger, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn servers_that_start_at_once_agree_on_one_ring() {
    for _ in 0..20 {
        let store = shared_store();
        let ((one, _), (other, _)) = (server(&store), server(&store));
        let (first, second) =
            tokio::join!(one.app.tokens.join(facts("alpha")), other.app.tokens.join(facts("beta")));
        assert!(first.is_ok() != second.is_ok(), "{first:?}, {second:?}");
        hand_over(if first.is_ok() { &one } else { &other }, if first.is_ok() { &other } else { &one }).await;
        for (server, host) in [(&one, "alpha"), (&other, "beta")] {
            server.app.tokens.join(facts(host)).await.unwrap();
        }
        assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    }
}

/// After a theft of the file: a new key in it, the file handed around, the ring locked with it.
#[tokio::test]
async fn file_key_is_replaced_without_interruption() {
    let (one, other, _) = two().await;
    let thief = fs::read_to_string(one.app.key_file.path()).unwrap();
    let thief = KeyRing::parse(&thief).unwrap();
    let file = KeyFile::new(one.app.key_file.path().to_owned());
    file.change(KeyChange::Add, one.clock.now(), &OsEntropy, drop).unwrap();
    one.app.reload_keys(false).await;
    let before = keys(&one).await;
    let early = change(&one, "/v1/keys/rewrap", json!({})).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "{early:?}");
    assert!(early.text.contains("beta") && early.text.contains("copy the key file there first"), "{early:?}");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);

    hand_over(&one, &other).await;
    let rewrapped = change(&one, "/v1/keys/rewrap", json!({})).await;
    assert_eq!(rewrapped.status, StatusCode::OK, "{rewrapped:?}");
    assert_eq!(keys(&one).await, before, "the keys are the same");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);
    let store = one.app.tokens.store();
    assert!(matches!(read_ring(&**store, &thief).await, Err(RingError::Locked(_))));
    // The old file again, by mistake: what unlocks the ring stays in memory.
    fs::write(other.app.key_file.path(), thief.to_text().as_bytes()).unwrap();
    other.app.reload_keys(true).await;
    rotate(&one).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn server_that_cannot_read_the_ring_is_not_ready_until_it_has_the_file() {
    let (one, other, line) = two().await;
    // Beta does not hear of the new file, nor is it heard of.
    line.set_cut(true);
    other.app.tokens.leave().await.unwrap_err();
    let file = KeyFile::new(one.app.key_file.path().to_owned());
    file.change(KeyChange::Add, one.clock.now(), &OsEntropy, drop).unwrap();
    one.app.reload_keys(false).await;
    let store = one.app.tokens.store();
    let rewrap = RingChange::Rewrap;
    change_ring(&**store, &file.load().unwrap(), rewrap, one.clock.now(), &OsEntropy).await.unwrap();
    line.set_cut(false);
    assert_eq!(status(&other, &one.token()).await, StatusCode::SERVICE_UNAVAILABLE);
    let ready = || other.public(Request::get("/readyz").body(Body::empty()).unwrap());
    assert_eq!(ready().await.status, StatusCode::SERVICE_UNAVAILABLE);
    hand_over(&one, &other).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    other.app.tokens.join(facts("beta")).await.unwrap();
    other.app.check_in().await;
    assert_eq!(ready().await.status, StatusCode::OK);
}

#[tokio::test]
async fn relocking_a_file_ring_is_refused() {
    let answer = change(&Fixture::new(), "/v1/keys/rewrap", json!({})).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.text.contains("in the key file"), "{answer:?}");
}
