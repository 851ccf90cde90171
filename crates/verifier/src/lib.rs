#![doc = include_str!("../README.md")]
//!
//! # Where to look first
//!
//! - [`Verifier`]: the handshake;
//! - [`LoginLayer`]: the login path and the session cookie;
//! - [`Login`]: what a handler learns about the session.
//!
//! # What the verifier checks
//!
//! The token must be letters and digits before it becomes part of a URL. Certificates are verified, against the machine's
//! authorities or those you name. An `http` issuer on another machine needs an explicit permission. Redirects and the
//! environment's proxies are not followed. Only HTTP 200 means yes.

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
