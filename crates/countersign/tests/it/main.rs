//! The `countersign` program as its users run it: real processes, real sockets, real files.
//!
//! Every test has a directory of its own, lets the system choose the ports, and ends what it started. Nothing waits for
//! time to pass: what is waited for is an event, with [`PATIENCE`](process::PATIENCE) as the limit.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as tests do"
)]

mod backup;
mod bench;
mod callers;
mod demo;
mod doctor;
mod doctor_in_force;
mod events;
mod fixture;
mod gate;
mod generated;
mod help;
mod http;
mod keys;
mod keys_page;
mod metrics;
mod moving;
mod pipes;
mod planted;
mod postgres;
mod private_api;
mod process;
mod receiver;
mod reference;
mod secret_files;
mod secrets;
mod service;
mod serving;
mod settings;
mod starting;
mod stopping;
mod store;
mod tokens;
mod traces;
mod wrong_server;
