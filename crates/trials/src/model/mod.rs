//! A model of the protocol: an issuer, its worker, honest trackers, a hostile one, and a network that loses, repeats and
//! reorders messages. [`stateright`] visits every state that can be reached.
//!
//! The rules are the product's own: whether a request is accepted is decided by
//! [`decide`](countersign_core::handshake::decide) and [`settle`](countersign_core::handshake::settle), on tokens that a
//! real [`LoginTokenSet`](countersign_core::LoginTokenSet) issued. The store is a [`ModelStore`] that a test compares
//! with the real ones.
//!
//! Left out, because the model takes them for granted: that nobody forges a token (AES-256-SIV), that nobody reads or
//! changes what two others say to each other (TLS), that a tracker's keys are its own secret unless a scenario says
//! otherwise, and that a server's requests are carried out one at a time where the store decides.

mod protocol;
mod scenarios;
mod state;
mod store;
mod words;
mod world;

pub use scenarios::{Finding, Scenario, check, defended, everything, undefended};
pub use store::ModelStore;
pub use world::{Defences, Keys, World};

/// No session of an honest tracker is opened for anybody but the worker, or by any tracker but the one it meant.
pub const ONLY_THE_WORKER: &str = "only the worker is let in, and only where it meant to go";
/// A token opens no second session.
pub const ONE_SESSION: &str = "a token opens at most one session";
/// The server says yes to no second asker.
pub const ONE_YES: &str = "the server says yes to at most one asker for each token";
/// The protocol works at all.
pub const WORKS: &str = "the worker is let in";
/// A lost answer does not lose the login.
pub const SURVIVES_LOSS: &str = "the worker is let in although an answer was lost";
