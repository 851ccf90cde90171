//! The command line's own definition.

use std::collections::BTreeSet;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::bench::BenchCommand;
use crate::callers::CallersCommand;
use crate::check_tracker::CheckTrackerCommand;
use crate::doctor::DoctorCommand;
use crate::events::EventsCommand;
use crate::gate::GateCommand;
use crate::generate::{CompletionsCommand, ManCommand};
use crate::keys::{KEY_PLACE, KeysCommand};
use crate::login::LoginCommand;
use crate::output::Failure;
use crate::remote::SERVER;
use crate::settings::ServeArgs;
use crate::store::{STORE_PLACE, StoreCommand};
use crate::suggest::similar;
use crate::sync_check::SyncCheckCommand;
use crate::token::TokenCommand;

/// What the name of every variable that is a setting begins with.
const PREFIX: &str = "COUNTERSIGN_";

const AFTER_HELP: &str = "\
A first redemption, in two terminals:

  countersign serve
  TOKEN=$(countersign token new)
  curl -X POST http://127.0.0.1:8080/token/$TOKEN/+bugtracker-handshake

The first POST answers 200 and consumes the token; the second answers 401.

Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Issues single-use login tokens and lets a remote bug tracker redeem each exactly once.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a token server
    #[command(after_help = crate::settings::SERVE_HELP, mut_args(|arg| arg.hide_env(true)))]
    Serve(Box<ServeArgs>),
    /// Show the protocol at work: a login, a replay, a relay attempt, all on this machine
    Demo,
    /// Issue, show and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Log in to a bug tracker with a token of a running server
    #[command(after_help = crate::login::LOGIN_HELP)]
    Login(Box<LoginCommand>),
    /// Check a bug tracker as Launchpad uses it: log in, compare the clocks, read a bug, optionally add a comment
    #[command(after_help = crate::sync_check::SYNC_CHECK_HELP)]
    SyncCheck(Box<SyncCheckCommand>),
    /// Take login tokens for a bug tracker without a plugin, beside its reverse proxy (forward auth)
    #[command(after_help = crate::gate::GATE_HELP)]
    Gate(Box<GateCommand>),
    /// Test a bug tracker's plugin by playing its issuer
    #[command(after_help = crate::check_tracker::CHECK_TRACKER_HELP)]
    CheckTracker(Box<CheckTrackerCommand>),
    /// Load a running server, check every answer, and report rates and latencies
    #[command(after_help = crate::bench::BENCH_HELP)]
    Bench(Box<BenchCommand>),
    /// List events: replays, relay attempts, refusals, rotated keys; or follow them
    #[command(after_help = crate::events::EVENTS_HELP)]
    Events(Box<EventsCommand>),
    /// List, rotate and revoke the keys that seal tokens
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Say who may call the private API, and for what
    #[command(subcommand, after_help = crate::callers::CALLERS_HELP)]
    Callers(CallersCommand),
    /// Manage the store of used tokens
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check everything that an operator can get wrong, and say what to do
    #[command(after_help = crate::doctor::DOCTOR_HELP, mut_args(|arg| arg.hide_env(true)))]
    Doctor(Box<DoctorCommand>),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = crate::generate::COMPLETIONS_HELP)]
    Completions(CompletionsCommand),
    /// Write the manual pages of all commands
    Man(ManCommand),
}

impl Cli {
    /// Reads the command line. Asked for help, or misused, it ends the process as `clap` does.
    pub(crate) fn read() -> Result<Self, Failure> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(std::env::args_os()).unwrap_or_else(|error| {
            let given: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            without_secrets(error, &given).exit()
        });
        check_place(&command, &matches)?;
        Self::from_arg_matches(&matches).map_err(Failure::usage)
    }
}

/// The same error without a value that can be a secret: one that came from a variable, which is named then, or a URL. Other
/// arguments are quoted, which makes a typo easy to find.
fn without_secrets(mut error: clap::Error, given: &[String]) -> clap::Error {
    let hidden = || ContextValue::String("…".to_owned());
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    if error.kind() == ErrorKind::UnknownArgument {
        if arg.contains("://") {
            error.insert(ContextKind::InvalidArg, hidden());
        }
        return error;
    }
    let flag = arg.split([' ', '=', '[']).next().unwrap_or_default();
    // Only flags have variables.
    let is_given = !flag.starts_with("--") || given.iter().any(|given| given.split('=').next() == Some(flag));
    if !is_given {
        let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        error.insert(
            ContextKind::InvalidArg,
            ContextValue::String(format!("the variable COUNTERSIGN_{name}")),
        );
    }
    let is_empty = error.get(ContextKind::InvalidValue) == Some(&ContextValue::String(String::new()));
    if !is_empty && (!is_given || arg.contains("<URL>")) {
        error.insert(ContextKind::InvalidValue, hidden());
    }
    error
}

/// The variables that look like settings of ours and are none, each with the one that was likely meant.
pub(crate) fn unknown_variables() -> Vec<(String, Option<String>)> {
    let mut known = BTreeSet::new();
    collect_variables(&Cli::command(), &mut known);
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unknown = names.filter(|name| name.starts_with(PREFIX) && !known.contains(name));
    unknown.map(|name| (name.clone(), meant(&name, &known))).collect()
}

/// The variable that was likely meant by a name. The prefix of all of them is not compared: it would make any two alike.
fn meant(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let known = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
    Some(format!("{PREFIX}{}", similar(name.strip_prefix(PREFIX)?, known)?))
}

fn collect_variables(command: &clap::Command, into: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    into.extend(variables.map(str::to_owned));
    command.get_subcommands().for_each(|command| collect_variables(command, into));
}

/// Refuses flags that would be passed over in silence: without `--offline` those that say where files are, with it
/// those that say which server. Otherwise `store fence --data-dir DIR` would fence any server that happens to run here.
///
/// Variables are left alone: they say how things are on a machine, and not what this command is to do.
fn check_place(command: &clap::Command, matches: &ArgMatches) -> Result<(), Failure> {
    if let Some((name, matches)) = matches.subcommand() {
        return command.find_subcommand(name).map_or(Ok(()), |command| check_place(command, matches));
    }
    let Ok(Some(&offline)) = matches.try_get_one::<bool>("offline") else { return Ok(()) };
    let given = |arg: &&Arg| {
        matches.try_contains_id(arg.get_id().as_str()).unwrap_or(false)
            && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    for arg in command.get_arguments().filter(given) {
        let flag = arg.get_long().unwrap_or_default();
        match arg.get_help_heading() {
            Some(KEY_PLACE | STORE_PLACE) if !offline => {
                return Err(Failure::usage(format!(
                    "--{flag} is for work without a server: add --offline, or leave --{flag} out"
                )));
            }
            Some(SERVER) if offline => {
                return Err(Failure::usage(format!(
                    "--{flag} is about a running server, and --offline does without one: leave one of them out"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_serve_flag_has_its_variable_and_key() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments() {
            let key = arg.get_id().as_str();
            assert_eq!(arg.get_long(), Some(&*key.replace('_', "-")));
            let variable = format!("COUNTERSIGN_{}", key.to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }
    #[test]
    fn misspelled_variable_suggests_its_name() {
        let mut known = BTreeSet::new();
        collect_variables(&Cli::command(), &mut known);
        assert_eq!(meant("COUNTERSIGN_PUBLIC_LISTN", &known).as_deref(), Some("COUNTERSIGN_PUBLIC_LISTEN"));
        assert_eq!(meant("COUNTERSIGN_BIN", &known), None);
    }
}
