//! Stores of events: what operators get to see, and what no handshake waits for.
//!
//! They are apart from the stores of tokens on purpose. Beside a `sqlite:` store, events are in a database file of their
//! own: they share neither the transactions nor the log nor the sync of the one that decides handshakes, a flood of
//! them cannot make it grow, and when their file is damaged or lost, nothing but history is.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use countersign_core::EventStore;

pub use self::memory::MemoryEvents;
pub use self::sqlite::SqliteEvents;

use crate::sqlite::FILE_NAME;
use crate::{StorePlace, StoreUrl};

/// The store of events that goes with the store at `place`; with a PostgreSQL store, each server keeps the events that it
/// has seen itself, in its data directory. Never fails on account of its file: that is made, and
/// if need be replaced, when the first events are written.
pub fn open_events(place: &StorePlace) -> Arc<dyn EventStore> {
    match (&place.url, place.url.database(&place.data_dir)) {
        (_, Some(database)) => Arc::new(SqliteEvents::beside(&database)),
        (StoreUrl::Postgres(_), None) => Arc::new(SqliteEvents::beside(&place.data_dir.join(FILE_NAME))),
        (StoreUrl::Sqlite(_) | StoreUrl::Memory, None) => Arc::new(MemoryEvents::default()),
    }
}
