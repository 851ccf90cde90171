//! A bug tracker with a page for everybody, and one for those who logged in with a token.
//!
//! Settings: `TRACKER_LISTEN` (port 0 takes a free one), `TRACKER_ISSUER` (a token server's public URL), and
//! `TRACKER_URL`, by which the issuer knows this tracker.

use std::error::Error;
use std::io::{Write, stdout};

use axum::http::StatusCode;
use axum::{Extension, Router, routing::get};
use countersign_verifier::{Login, LoginLayer, Verifier};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(setting("TRACKER_LISTEN", "127.0.0.1:8000")).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let verifier = Verifier::builder(setting("TRACKER_ISSUER", "http://127.0.0.1:8080"))
        .audience(setting("TRACKER_URL", &address))
        .build()?;
    let tracker = tracker(LoginLayer::builder(verifier).build()?);
    writeln!(stdout(), "tracker {address}")?;
    Ok(axum::serve(listener, tracker).await?)
}

/// The tracker itself: `login` adds the place to log in at, and tells the pages who did.
pub(crate) fn tracker(login: LoginLayer) -> Router {
    Router::new().route("/", get(bugs)).route("/private", get(private_bugs)).layer(login)
}

async fn bugs() -> &'static str {
    "Bug 1: Microsoft has a majority market share.\n"
}

async fn private_bugs(login: Option<Extension<Login>>) -> Result<String, StatusCode> {
    let Extension(login) = login.ok_or(StatusCode::FORBIDDEN)?;
    Ok(format!("Bug 2, which only {} may see.\n", login.user))
}
