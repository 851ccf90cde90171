//! What the tests of several crates share; nothing of it is shipped.
//!
//! - [`app()`] builds a server's [`App`](countersign_server::App) around any clock and store.
//! - [`Hooked`] is a store that a test holds up, cuts off, or lets answer wrongly.
//! - [`Authority`] certifies servers.
//! - [`IssuerServer`] publishes the [`SigningKey`]s of an issuer of JWTs.
//! - [`seen`] and [`until`] wait for an event, and name it if it does not happen.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod app;
mod issuer;
mod store;
mod tls;

use std::thread;

use countersign_core::{Clock, SystemClock};

pub use app::{AppBuilder, app};
pub use countersign_test_postgres::{PATIENCE, seen, soon};
pub use issuer::{IssuerServer, SigningKey, unsigned};
pub use store::{Hooked, StoreCall, StoreHook};
pub use tls::{Authority, Certified};

/// Looks again and again until there is something to see, without a runtime.
///
/// # Panics
///
/// With `what` if there is nothing within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = SystemClock.now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let waited = SystemClock.now().duration_since(began).unsigned_abs();
        assert!(waited < PATIENCE, "waited {} s and did not see: {what}", PATIENCE.as_secs());
        thread::yield_now();
    }
}
