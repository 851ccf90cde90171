//! The private API: for the service that owns the server, and for its operators.
//!
//! XML-RPC (`xmlrpc`) and JSON (`tokens`) are two protocols for the same three operations (issue, show, revoke). `admin`,
//! `keys` and `server` have what operators need beyond them, `events` the events, `summary` counts by tracker and caller,
//! and `page` shows all of it to people. Every request passes `guard` first.

pub(crate) mod admin;
mod body;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod keys;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod server;
pub(crate) mod summary;
pub(crate) mod tokens;
pub(crate) mod xmlrpc;

pub use body::MAX_BODY_BYTES;
pub use events::{MAX_EVENTS, MAX_PAGE_BYTES};
pub use page::{MAX_EXPORTED, MAX_EXPORTS, MAX_VIEWERS};
pub use xmlrpc::MULTICALL_TIME;
