//! Trials: evidence that a token is redeemed exactly once, also after crashes, races, lost answers and attacks.
//!
//! Two kinds, neither of which is shipped:
//!
//! - the built server as a process, driven over HTTP: [`races`], [`crashes`], [`clocks`], [`lost_log`],
//!   [`lost_answers`], [`disconnects`]. What
//!   callers saw is a [`history`], and a linearizability checker says whether it can be explained;
//! - a [`model`] of the whole protocol, hostile trackers and a bad network included, of which every reachable state is
//!   looked at.
//!
//! A trial that cannot fail proves nothing: [`broken`] is a store with the classical bug, and the model has a switch for
//! each defence; the tests show that both are found out.
//!
//! `docs/reliability.md` has the results and the commands that reproduce them.

pub mod broken;
pub mod client;
pub mod clocks;
pub mod crashes;
pub mod disconnects;
mod error;
pub mod history;
pub mod keys;
pub mod lost_answers;
pub mod lost_log;
pub mod model;
pub mod process;
mod proxy;
pub mod races;
pub mod shared_store;
mod trial_token;

pub use error::{TrialError, Violation};

/// Where a trial says how far it is.
pub type ProgressSink<'a> = &'a (dyn Fn(&str) + Send + Sync);
