//! Stores of events, which operators read and no handshake waits for.
//!
//! They are apart from the stores of tokens on purpose. Beside a `sqlite:` store, events are in a database file of their
//! own: they share neither the transactions nor the log nor the sync of the one that decides handshakes, a flood of
//! them cannot make it grow, and when their file is damaged or lost, nothing but history is.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

pub use self::memory::MemoryEvents;
pub use self::sqlite::SqliteEvents;
