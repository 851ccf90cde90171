//! Whether the server lives, and whether it can serve.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::problem::with_retry_after;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: a token could be consumed now.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.tokens.store().ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            let answer =
                (StatusCode::SERVICE_UNAVAILABLE, "The token store is not usable; see the server's log.\n");
            with_retry_after(answer.into_response(), error.retry_after())
        }
    }
}
