//! The listeners as they are: sockets, TLS, certificates, and what the slow and the many can do.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail as tests do")]

mod answers;
mod authority;
mod deadline;
mod fixture;
mod gate;
mod hang_up;
mod host;
mod limits;
mod stop;
mod tls;
mod unix;
mod whole;
