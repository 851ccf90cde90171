//! Requests to the public API, one after the other, around the same few tokens.
//!
//! An input is a script. Its steps are separated by lines `%%`; each is `WAIT` and a number of seconds, or a request:
//!
//! ```text
//! POST /token/{unbound}/+bugtracker-handshake
//! Idempotency-Key: abc
//!
//! the body
//! ```
//!
//! `{unbound}`, `{bound}` (to <https://trac.example.org/>, with claims) and `{revoked}` stand for the texts of tokens.

mod script;
mod world;

use std::sync::Arc;

use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode};
use countersign_core::{Clock, RETRY_WINDOW, RetryKeyHash, Status, TokenStore};
use countersign_store::memory::MemoryStore;
use serde_json::Value;

use script::{Sent, Step};
use world::{Answer, Known, World};

/// Makes the store of a run.
pub type NewStore = fn(&dyn Clock) -> Arc<dyn TokenStore>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, |clock| Arc::new(MemoryStore::new(clock)));
}

/// Every answer is a row of the protocol's table: a token is accepted at most once, or again with the key of its first
/// use within the time for retries; only a POST consumes, and only what is accepted; no refusal repeats a token.
pub fn check(input: &[u8], store: NewStore) {
    crate::block_on(async {
        let mut world = World::new(store).await;
        let mut before = world.look().await;
        for step in script::steps(input, &world) {
            match step {
                Step::Wait(time) => {
                    world.clock.advance(time);
                    before = world.look().await;
                }
                Step::Request(request) => {
                    let sent = Sent::of(&request);
                    let answer = world.answer(*request).await;
                    let after = world.look().await;
                    check_form(&sent, &answer, &world.tokens);
                    check_effect(&sent, &answer, &mut world, &before, &after);
                    before = after;
                }
            }
        }
    });
}

/// What every answer must be, after any sequence of requests.
fn check_form(sent: &Sent, answer: &Answer, tokens: &[Known]) {
    let status = answer.status;
    assert_eq!(answer.header("cache-control"), "no-store", "{sent:?}");
    let in_the_table = [
        StatusCode::OK,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    assert!(in_the_table.contains(&status), "{status} is not in the protocol's table: {sent:?}");
    assert_eq!(status == StatusCode::METHOD_NOT_ALLOWED, answer.headers.contains_key(ALLOW), "{sent:?}");
    assert_eq!(status == StatusCode::UNAUTHORIZED, answer.headers.contains_key(WWW_AUTHENTICATE), "{sent:?}");
    assert_eq!(status == StatusCode::TOO_MANY_REQUESTS, answer.headers.contains_key(RETRY_AFTER), "{sent:?}");
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        assert!(sent.shown(tokens).is_some(), "{status} is for those who hold a token: {sent:?}");
    }
    if status != StatusCode::OK {
        for token in tokens {
            assert!(!answer.text.contains(&token.text), "a refusal tells a token: {}", answer.text);
            let in_a_header =
                answer.headers.values().any(|value| contains(value.as_bytes(), token.text.as_bytes()));
            assert!(!in_a_header, "a header tells a token: {sent:?}");
        }
    }
    if answer.header("content-type") == "application/problem+json" && sent.method != Method::HEAD {
        let problem: Value = serde_json::from_str(&answer.text).expect("a problem in JSON");
        assert_eq!(problem["status"], status.as_u16(), "{problem}");
        assert!(
            problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:countersign:problem:")),
            "{problem}"
        );
    }
}

/// What a request may have changed.
fn check_effect(sent: &Sent, answer: &Answer, world: &mut World, before: &[Status], after: &[Status]) {
    let accepted = answer.status == StatusCode::OK && !sent.is_probe();
    let shown = if accepted { sent.shown(&world.tokens) } else { None };
    assert_eq!(accepted, shown.is_some(), "only a token can be accepted: {sent:?}");
    for (at, (before, after)) in before.iter().zip(after).enumerate() {
        if shown != Some(at) {
            assert_eq!(before, after, "{} changed a token that it did not redeem: {sent:?}", answer.status);
        }
    }
    let Some(at) = shown else { return };
    assert_eq!(sent.method, Method::POST, "{sent:?}");
    let now = world.clock.now();
    let (Some(token), Some(before), Some(Status::Consumed(after))) =
        (world.tokens.get_mut(at), before.get(at), after.get(at))
    else {
        panic!("a token that was accepted is not consumed: {sent:?}");
    };
    let key = sent.key.as_deref().map(RetryKeyHash::of);
    match before {
        Status::Live => assert_eq!((after.at, after.retry_key), (now, key), "{sent:?}"),
        Status::Consumed(first) => assert_eq!(first, after, "a retry changed the first use: {sent:?}"),
        dead => panic!("a token is accepted that was {dead:?}: {sent:?}"),
    }
    assert!(
        !token.is_bound || !sent.body_is_empty,
        "a bound token is accepted without an audience: {sent:?}"
    );
    if answer.header("content-type") == "application/json" {
        let told: Value = serde_json::from_str(&answer.text).expect("JSON");
        assert_eq!(told["token_id"], token.text.as_str(), "{told}");
    }
    // So far the store's own answers were believed. This check does not ask the store.
    match &token.first {
        None => token.first = Some((sent.key.clone(), now)),
        Some((first_key, first_time)) => {
            assert!(
                sent.key.is_some() && sent.key == *first_key,
                "accepted twice, without the first key: {sent:?}"
            );
            assert!(
                now <= countersign_core::after(*first_time, RETRY_WINDOW),
                "accepted again too late: {sent:?}"
            );
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
