//! Stores of events, which operators read and no handshake waits for.
//!
//! They are apart from the stores of tokens on purpose. Beside a `sqlite:` store, events are in a database file of their
//! own. It shares neither transactions nor the log nor the sync with the one that decides handshakes; many events cannot
//! make that one grow; and if it is damaged or lost, only history is lost.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

pub use self::memory::MemoryEvents;
pub use self::sqlite::SqliteEvents;
