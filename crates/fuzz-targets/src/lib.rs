//! The assertions of the fuzzers: for each kind of input from outside, a function that takes any bytes, drives the real
//! code with them, and panics if the result breaks a promise.
//!
//! Two runs feed these functions. `cargo fuzz` does so for as long as one likes, guided by coverage (see the README of
//! the package `fuzz`); the tests of this crate do so for a few seconds with the seed corpus and random changes of it, on
//! the stable toolchain.
//!
//! Each module has a `target`, which is what is fuzzed, and a `check` that takes the code under test as an argument, so
//! that a test can put in something broken and see it caught.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a panic is how a target reports a fault"
)]

pub mod callers;
pub mod configuration;
mod cursor;
pub mod gate_request;
pub mod handshake_request;
pub mod jwt;
pub mod key_ring;
pub mod names;
pub mod token_text;
pub mod tracker_answer;
pub mod xmlrpc_body;

use std::time::Duration;

use countersign_core::{KeyChange, KeyRing, SequenceEntropy};
use jiff::Timestamp;
use tokio::runtime::Builder;

/// A target's name, which is also that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: [Target; 10] = [
    ("callers", callers::target),
    ("configuration", configuration::target),
    ("gate_request", gate_request::target),
    ("handshake_request", handshake_request::target),
    ("jwt", jwt::target),
    ("key_ring", key_ring::target),
    ("names", names::target),
    ("token_text", token_text::target),
    ("tracker_answer", tracker_answer::target),
    ("xmlrpc_body", xmlrpc_body::target),
];

/// The time at which every run begins.
fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().expect("a time")
}

/// The ring of every run: two keys that are always the same, so that a sealed token can stand in a corpus.
pub fn ring() -> KeyRing {
    let entropy = SequenceEntropy::default();
    let mut ring = KeyRing::generate(noon(), &entropy).expect("a key");
    let rotate = KeyChange::Rotate { activate_in: Duration::from_mins(1) };
    ring.change(rotate, noon(), &entropy).expect("another key");
    ring
}

/// The same of what opens sockets.
fn block_on_all<T>(answer: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(answer)
}

/// Waits for an answer. Nothing that is fuzzed waits for anything outside.
fn block_on<T>(answer: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(answer)
}
