//! Stores of events: what operators get to see, and what no handshake waits for.
//!
//! They are apart from the stores of tokens on purpose. Beside a `sqlite:` store, events are in a database file of their
//! own: they share neither the transactions nor the log nor the sync of the one that decides handshakes, a flood of
//! them cannot make it grow, and when their file is damaged or lost, nothing but history is.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use countersign_core::EventStore;

pub use self::memory::MemoryEvents;
pub use self::sqlite::SqliteEvents;

use crate::{OpenError, StoreUrl};

/// The store of events that goes with the store that `url` names. Never fails on account of its file: that is made, and
/// if need be replaced, when the first events are written.
pub fn open_events(url: &str, data_dir: &Path) -> Result<Arc<dyn EventStore>, OpenError> {
    let store: StoreUrl = url.parse()?;
    Ok(match store.database(data_dir) {
        Some(database) => Arc::new(SqliteEvents::beside(&database)),
        None => Arc::new(MemoryEvents::default()),
    })
}
