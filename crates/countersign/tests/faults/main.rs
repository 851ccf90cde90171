//! The real server while things around it fail: overload, full and broken disks, lost keys, a clock that steps, a log that
//! nobody reads.
//!
//! [`server`] starts it as a process of its own. [`shim`] stands between that process and its C library, so that a disk
//! is full, hangs or is read-only, and a clock steps, at the moment that a test wants, as any user and on any machine.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as tests do"
)]

mod clock;
mod damage;
mod descriptors;
mod disk;
mod http;
mod keys;
mod limits_page;
mod log;
mod overload;
mod server;
mod shim;
