//! The token server of Countersign, around the domain of `countersign-core`.
//!
//! Where to look first:
//!
//! - [`routes`]: every route there is, on one screen;
//! - [`public`]: the handshake, for bug trackers;
//! - [`private`]: issuing, looking and revoking by XML-RPC and JSON, for the service that owns the server;
//! - [`Server`]: two listeners, limits, and a graceful stop;
//! - [`KeyFile`]: the key ring on disk.

mod app;
mod health;
mod key_file;
mod limiter;
mod listener;
pub mod private;
mod problem;
pub mod public;
pub mod routes;
mod server;

pub use app::{App, Bearer, Names, SpentStatus};
pub use key_file::{KeyFile, KeyFileError};
pub use limiter::RefusalLimiter;
pub use listener::Peer;
pub use server::{Addresses, Server, StartError};
