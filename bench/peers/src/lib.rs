//! A token server as an engineer would write it in an afternoon: the two requests of a handshake by axum, and the tokens in
//! a database. It has none of what Countersign adds: no sealed tokens, limits, events, metrics, audiences, nodes or keys.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE32_NOPAD;
use tokio::net::TcpListener;

/// How long a token lives, in seconds.
pub const LIFETIME: u32 = 300;

/// What went wrong in the database.
pub type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

/// Where tokens are kept.
pub trait Tokens: Send + Sync + 'static {
    /// Keeps a new token.
    fn keep(&self, token: String) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Uses it up; whether it was there.
    fn take(&self, token: String) -> impl Future<Output = Result<bool, DatabaseError>> + Send;
}

/// Serves on a free port of loopback, which is printed as soon as it answers, until the process ends.
pub async fn serve(tokens: impl Tokens) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&listener)?;
    let app = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/bugs", post(issue))
        .route("/token/{token}/+bugtracker-handshake", post(redeem))
        .with_state(Arc::new(tokens));
    axum::serve(listener, app).await
}

#[expect(clippy::print_stdout, reason = "who started it reads the address there")]
fn announce(listener: &TcpListener) -> io::Result<()> {
    println!("http://{}", listener.local_addr()?);
    Ok(())
}

/// `newBugTrackerToken`, and no other method.
#[expect(clippy::disallowed_methods, reason = "no test depends on what is drawn")]
async fn issue<T: Tokens>(State(tokens): State<Arc<T>>, call: String) -> Response {
    if !call.contains("<methodName>newBugTrackerToken</methodName>") {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let mut random = [0; 20];
    if getrandom::fill(&mut random).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let token = BASE32_NOPAD.encode(&random);
    match tokens.keep(token.clone()).await {
        Ok(()) => {
            let answer = format!(
                "<?xml version=\"1.0\"?><methodResponse><params><param><value><string>{token}</string></value></param>\
                 </params></methodResponse>"
            );
            ([(CONTENT_TYPE, "text/xml")], answer).into_response()
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn redeem<T: Tokens>(State(tokens): State<Arc<T>>, Path(token): Path<String>) -> Response {
    match tokens.take(token).await {
        Ok(true) => "Handshake token validated.".into_response(),
        Ok(false) => (StatusCode::UNAUTHORIZED, "Token has already been used or is invalid.").into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
