//! The stores of Countersign, which record the login tokens whose life has ended.
//!
//! [`countersign_core::TokenStore`] says what a store promises; the implementations are here, and
//! [`StorePlace::backend`](place::StorePlace::backend) picks one by its URL:
//!
//! | URL | store |
//! |---|---|
//! | `sqlite:`, `sqlite:PATH` | [`sqlite`]: one file on this machine, for one server. The default |
//! | `postgres://USER@HOST/DATABASE` | [`postgres`]: a PostgreSQL database, for any number of servers |
//! | `memory:` | [`memory`]: **forgets everything** when the process ends; for tests and demonstrations |
//!
//! Events are kept apart, see [`events`]: operators read them, and no handshake waits for them.
//!
//! Where to look first: [`place`] for the list of stores, `sqlite/writer.rs` for how many consumptions share one
//! commit, `sqlite/records.rs` for the statement that decides who consumed a token, `postgres/sql.rs` for the one that does
//! so for many servers, `contract` for the tests that every store passes.
//!
//! A new store is a module here that implements [`countersign_core::TokenStore`], [`backend::Backend`], [`moving::Movable`]
//! and, unless it uses one that is here, [`countersign_core::EventStore`]; its URL in `place.rs`; and a run of the contract.
//! If servers can share it ([`countersign_core::TokenStore::is_shared`]), it also keeps the key ring, the nodes and a clock.

pub mod backend;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod counts;
pub mod error;
pub mod events;
pub mod memory;
pub mod moving;
pub mod place;
pub mod postgres;
pub mod sqlite;
