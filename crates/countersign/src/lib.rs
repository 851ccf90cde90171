//! The `countersign` command.
//!
//! `serve` runs a token server. The other commands talk to a running server, or, with `--offline`, work on its files.

mod bench;
mod callers;
mod check_tracker;
mod cli;
mod demo;
mod doctor;
mod events;
mod exposure;
mod gate;
mod generate;
mod keys;
mod log;
mod login;
mod output;
mod remote;
mod serve;
mod service_manager;
mod settings;
mod store;
#[cfg(test)]
mod stub_tracker;
mod suggest;
mod sync_check;
mod token;

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Cli, Command};
use crate::output::Failure;

pub use crate::log::MAX_WAITING_LINES;
pub use crate::settings::check as check_configuration;

/// How long the end of a command waits for what still reads or writes a file. A server has closed its stores by then.
const LAST_FILES: Duration = Duration::from_secs(5);

/// Runs the command that the process's arguments name.
pub fn run() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(failure) => return failure.report(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start: {error}")).report(),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Demo => demo::run().await,
            Command::Token(command) => token::run(command).await,
            Command::Login(command) => login::run(*command).await,
            Command::SyncCheck(command) => sync_check::run(*command).await,
            Command::Gate(command) => gate::run(*command).await,
            Command::CheckTracker(command) => check_tracker::run(*command).await,
            Command::Bench(command) => bench::run(*command).await,
            Command::Events(command) => events::run(*command).await,
            Command::Keys(command) => keys::run(command).await,
            Command::Callers(command) => callers::run(command),
            Command::Store(command) => store::run(command).await,
            Command::Doctor(command) => Box::pin(doctor::run(*command)).await,
            Command::Completions(command) => generate::completions(&command),
            Command::Man(command) => generate::man(&command),
        }
    });
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    // A file system that is away would hold up the end for any time.
    runtime.shutdown_timeout(LAST_FILES);
    code
}
