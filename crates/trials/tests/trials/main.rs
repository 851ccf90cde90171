//! Every trial in small, and proof that each can fail.
//!
//! The server is the one that `COUNTERSIGN_BIN` names, or the one that `cargo build -p countersign` has built beside the
//! tests. It is never skipped.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod caught;
mod missing;
mod model;
mod promises;
mod store;
