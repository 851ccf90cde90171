//! The health checks: whether the server runs, and whether it can redeem tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use countersign_core::StoreError;

use crate::App;
use crate::caller::Caller;
use crate::problem::with_retry_after;

/// How long a handshake, or a question whether one would work, waits for the store; less if the request's own deadline
/// passes before ([`REQUEST_TIMEOUT`](crate::limits::REQUEST_TIMEOUT)).
pub const STORE_TIMEOUT: Duration = Duration::from_secs(20);

/// The error in place of an answer that does not come in time.
pub(crate) fn store_hangs() -> StoreError {
    StoreError::unavailable("it has not answered in time; check the disk that it is on")
}

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: a token could be issued and consumed now. A second line warns about the clock.
pub(crate) async fn ready(State(app): State<Arc<App>>, caller: Caller) -> Response {
    match app.ready(STORE_TIMEOUT).await {
        Ok(()) => {
            app.events.tally().store_answered();
            match app.tokens.clock_warning() {
                None => "ready\n".into_response(),
                Some(warning) => format!("ready\nBut {warning}.\n").into_response(),
            }
        }
        Err(StoreError::Clock(error)) => {
            let answer = (StatusCode::SERVICE_UNAVAILABLE, format!("Not ready: {error}.\n"));
            with_retry_after(answer.into_response(), StoreError::Clock(error).retry_after())
        }
        Err(error) => {
            app.events.tally().store_failed(&error);
            tracing::debug!(%error, request = caller.request.map(tracing::field::display), "not ready");
            let answer =
                (StatusCode::SERVICE_UNAVAILABLE, "The token store is not usable; see the server's log.\n");
            with_retry_after(answer.into_response(), error.retry_after())
        }
    }
}
