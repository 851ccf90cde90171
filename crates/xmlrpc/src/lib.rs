#![doc = include_str!("../README.md")]
//!
//! # Where to look first
//!
//! - [`Service`] is what a user implements: a list of [`Method`]s, and one function that answers them.
//! - [`respond()`] does everything else: it reads the call, checks its parameters against the list, answers
//!   `system.listMethods` and its family as well as `system.multicall`, and writes the response or the fault.
//! - [`read_response`] is the client's side: it reads what any server answered.
//! - [`fault`] has the fault codes and their constructors; [`read_call`] documents what is accepted and what is rejected.
//!
//! Values and their XML form are those of the [`dxr`] crate, re-exported here.

mod chars;
mod decode;
pub mod fault;
mod grammar;
mod guard;
mod introspection;
mod multicall;
mod read;
mod respond;
mod response;
mod service;
mod write;

pub use decode::decode;
pub use dxr::{DateTime, Fault, Value};
pub use guard::{MAX_ATTRIBUTES, MAX_DEPTH};
pub use multicall::{MAX_CALLS, MAX_RESULTS_SIZE};
pub use read::{Call, read_call};
pub use respond::{RpcResponse, respond};
pub use response::{CallOutcome, ResponseValue, read_response};
pub use service::{Arguments, Method, Parameter, Service, Type};
pub use write::{CONTENT_TYPE, date_time, fault_document, response_document, structure};
