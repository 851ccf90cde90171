//! A tracker against issuers of every kind: scripted ones, ones behind TLS, and a real token server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as tests do")]

mod end_to_end;
mod handshake;
mod login;
mod support;
mod tls;
