//! For bug trackers written in Rust: lets an issuer of login tokens, such as Launchpad, log in without a shared
//! password.
//!
//! The issuer's worker brings a token that works once. The tracker asks the issuer, at the URL that it was *configured*
//! with, whether the token is genuine: HTTP 200 means yes, and uses the token up. The worker then gets a session cookie.
//!
//! ```
//! use axum::{Extension, Router, routing::get};
//! use countersign_verifier::{Login, LoginLayer, SetupError, Verifier};
//!
//! # fn main() -> Result<(), SetupError> {
//! let verifier = Verifier::builder("http://localhost:8080").audience("https://bugs.example.org/").build()?;
//! let login = LoginLayer::builder(verifier).build()?;
//!
//! async fn home(login: Option<Extension<Login>>) -> String {
//!     login.map_or("Hello.".to_owned(), |login| format!("Hello, {}.", login.user))
//! }
//! let tracker: Router = Router::new().route("/", get(home)).layer(login);
//! # Ok(())
//! # }
//! ```
//!
//! Where to look first:
//!
//! - [`Verifier`]: the handshake alone, for a tracker that has sessions of its own;
//! - [`LoginLayer`]: a login path and a signed session cookie, around any `tower` HTTP service;
//! - `examples/tracker.rs`: a whole tracker on one screen.
//!
//! What it does for you: the token must be letters and digits before it becomes part of a URL; certificates are
//! verified, against the machine's authorities or those you name; an `http` issuer on another machine needs an explicit
//! permission; redirects and the environment's proxies are not followed; exactly 200 means yes; a lost answer is asked
//! for once more with the same `Idempotency-Key`. No error, log line or `Debug` contains a token.

mod base_url;
mod builder;
mod client;
mod error;
mod handshake_url;
mod layer;
mod session;
mod system;
mod verifier;

pub use builder::{DEFAULT_SESSION_LIFETIME, LoginLayerBuilder, MAX_SESSION_LIFETIME, MIN_SECRET_BYTES};
pub use error::{SetupError, VerifyError};
pub use layer::{LoginLayer, LoginService, is_prefetch};
pub use session::Login;
pub use verifier::{DEFAULT_TIMEOUT, MAX_TIMEOUT, Verified, Verifier, VerifierBuilder};
