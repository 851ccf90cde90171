//! The stores of Countersign: where it is remembered which login tokens' lives have ended.
//!
//! [`countersign_core::TokenStore`] says what a store promises; the implementations are here, and [`open`] picks one by
//! its URL:
//!
//! | URL | store |
//! |---|---|
//! | `sqlite:`, `sqlite:PATH` | [`sqlite`]: one file on this machine, for one server. The default |
//! | `postgres://USER@HOST/DATABASE` | [`postgres`]: a PostgreSQL database, for any number of servers |
//! | `memory:` | [`memory`]: **forgets everything** when the process ends; for tests and demonstrations |
//!
//! Events, which operators look at and no handshake waits for, are kept apart: see [`events`].
//!
//! Where to look first: [`open`] for the list of stores, `sqlite/writer.rs` for how many consumptions share one
//! commit, `sqlite/records.rs` for the statement that decides who consumed a token, `postgres/sql.rs` for the one that does
//! so for many servers, `contract` for the test-suite that
//! every store passes.
//!
//! A new store is a module here, a line in `open.rs`, and a run of the contract.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod events;
pub mod memory;
pub mod moving;
mod open;
pub mod postgres;
mod sizes;
pub mod sqlite;

pub use events::open_events;
pub use memory::MemoryStore;
pub use open::{OpenError, StorePlace, StoreUrl, backup, inspect, open, open_existing};
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
