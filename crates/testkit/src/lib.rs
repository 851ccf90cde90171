//! What the tests of several crates share; nothing of it is shipped.
//!
//! - [`app()`] builds a server's [`App`](countersign_server::App) around any clock and store.
//! - [`Hooked`] is a store that a test holds up, cuts off, or lets answer wrongly.
//! - [`Authority`] certifies servers.
//! - [`seen`] and [`until`] wait for an event, and say what they waited for in vain.

#![expect(clippy::expect_used, clippy::panic, reason = "a test's helpers fail as tests do")]

mod app;
mod store;
mod tls;

use std::thread;
use std::time::Duration;

use countersign_core::{Clock, SystemClock};

pub use app::{AppBuilder, app};
pub use store::{Hooked, StoreCall, StoreHook};
pub use tls::{Authority, Certified};

/// How long a test waits for anything. Far longer than anything takes.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// Looks again and again until there is something to see.
///
/// # Panics
///
/// With `what` if there is nothing within [`PATIENCE`].
pub async fn seen<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            // Between two looks others may do what is waited for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, looking).await
}

/// The same for a test without a runtime.
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
        assert!(waited < PATIENCE, "in vain for {} s: {what}", PATIENCE.as_secs());
        thread::yield_now();
    }
}

/// Waits for what has to happen.
///
/// # Panics
///
/// With `what` if it has not happened within [`PATIENCE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, event).await;
    waited.unwrap_or_else(|_| panic!("in vain for {} s: {what}", PATIENCE.as_secs()))
}
