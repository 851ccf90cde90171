//! The APIs through their real routers, on a store in memory and a clock that stands still.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as tests do"
)]

mod alarms;
mod callers;
mod changes;
mod compressed;
mod events;
mod fixture;
mod handshake;
mod json;
mod keyless;
mod limits;
mod long_count;
mod nodes;
mod page;
mod routes;
mod store_away;
mod summary;
mod xmlrpc;
