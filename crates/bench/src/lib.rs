//! A load generator for servers of the login token protocol.
//!
//! It is a client like any other: it takes tokens by XML-RPC and redeems them with a POST, over connections that are kept
//! alive, and checks every answer. So it drives any server of the protocol, and a server that is fast because it is wrong
//! shows.
//!
//! Where to look first: [`Workload`] is what can be asked of a server, [`Options`] how often, [`run()`] asks, and a
//! [`Report`] says what came back. The timetable that keeps latency honest is in `schedule.rs`.
//!
//! The generator shares its machine with the server it measures, so it must be cheap: one thread, one buffer a
//! connection, and an exchange of its own on top of `httparse` in place of a general client.

mod clock;
mod connection;
mod error;
mod http;
mod recorder;
mod report;
mod rpc;
mod run;
mod schedule;
mod target;
mod work;
mod workload;

pub use self::clock::{Stopwatch, SystemStopwatch};
pub use self::connection::ANSWER_TIMEOUT;
pub use self::error::BenchError;
pub use self::recorder::Progress;
pub use self::report::{Latency, Part, Report, Rounds};
pub use self::run::{MAX_CONNECTIONS, Options, run};
pub use self::schedule::{Limit, Plan, Schedule, Slot};
pub use self::workload::Workload;
