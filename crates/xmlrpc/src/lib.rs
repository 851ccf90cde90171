//! XML-RPC without any HTTP: for a server, bytes in and a document out; for a client, an answer read.
//!
//! Where to look first:
//!
//! - [`Service`] is what a user implements: a list of [`Method`]s, and one function that answers them.
//! - [`respond()`] does everything else: it reads the call, checks its parameters against the list, answers
//!   `system.listMethods` and its family as well as `system.multicall`, and writes the response or the fault.
//! - [`read_response`] is the client's side: what a server of any make answered.
//! - [`fault`] has the fault codes and their constructors; [`read_call`] says what is accepted and what is refused.
//!
//! Values and their XML form are those of the [`dxr`] crate, re-exported here.
//!
//! ```
//! use countersign_xmlrpc::{Arguments, Fault, Method, Parameter, Service, Type, Value, fault, respond};
//!
//! struct Greeter;
//!
//! const METHODS: &[Method] = &[Method {
//!     name: "greet",
//!     returns: Type::String,
//!     parameters: &[Parameter::optional("name", Type::String)],
//!     help: "Greets somebody by name, or the world.",
//! }];
//!
//! impl Service for Greeter {
//!     fn methods(&self) -> &'static [Method] {
//!         METHODS
//!     }
//!
//!     async fn call(&self, method: &'static str, arguments: Arguments) -> Result<Value, Fault> {
//!         match method {
//!             "greet" => {
//!                 let name: Option<String> = arguments.optional("name")?;
//!                 Ok(Value::String(format!("Hello, {}!", name.as_deref().unwrap_or("world"))))
//!             }
//!             other => Err(fault::no_such_method(other)),
//!         }
//!     }
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let body = b"<methodCall><methodName>greet</methodName></methodCall>";
//! let answer = respond(&Greeter, Some("text/xml"), body).await;
//! assert!(answer.document.contains("<string>Hello, world!</string>"));
//! # });
//! ```

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
