//! A forward auth gate for bug trackers that have no plugin for login tokens.
//!
//! The gate runs beside a tracker, behind the tracker's reverse proxy. It takes login tokens in the tracker's place, asks
//! the issuer, and opens a session of its own. For each request to the tracker the proxy asks the gate who sends it, as
//! nginx's `auth_request`, Caddy's `forward_auth`, Envoy's `ext_authz` and Traefik's `ForwardAuth` do, and passes the user's name on in a header
//! that the tracker trusts.
//!
//! ```text
//! worker ──▶ reverse proxy ──▶ tracker, with X-Remote-User
//!                │  ▲
//!  a token, or   │  │  204 and the user's name, 401, or 403
//!  "may this?"   ▼  │
//!                gate ──▶ issuer: "is this token yours?"
//! ```
//!
//! Where to look first:
//!
//! - [`Config`]: what an operator sets, in one TOML file;
//! - `auth.rs`: what is decided about each request to the tracker;
//! - `login.rs`: how a token becomes a session;
//! - `rules.rs` and `request_path.rs`: which requests an issuer's session may send;
//! - [`Sessions`]: the sessions and the events, in a file that several gates share.

mod auth;
mod config;
mod cookies;
mod events;
mod gate;
mod health;
mod log_limit;
mod login;
mod metrics;
mod original;
mod request_path;
mod routes;
mod rules;
mod secret;
mod serve;
mod sessions;

pub use config::{Config, ConfigError, IssuerConfig, ReverseProxy};
pub use events::{Event, EventKind, EventQuery};
pub use gate::{Gate, OpenError};
pub use health::{DETECTED, HEALTH, Health, is_internal};
pub use request_path::{RequestPath, UnclearPath};
pub use rules::{Pattern, PatternError, Rule};
pub use secret::WRITTEN_SESSIONS;
pub use serve::{BoundGate, check_socket};
pub use sessions::{Ended, Session, SessionError, Sessions, WhichSessions};
