//! Waiting for an event, with a limit.

use std::time::Duration;

/// How long a test waits for anything. Far longer than anything takes.
pub const PATIENCE: Duration = Duration::from_mins(1);

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

/// Waits for what has to happen.
///
/// # Panics
///
/// With `what` if it has not happened within [`PATIENCE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, event).await;
    waited.unwrap_or_else(|_| panic!("waited {} s and did not see: {what}", PATIENCE.as_secs()))
}
