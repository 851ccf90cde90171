//! The command line's own definition.

use clap::{Parser, Subcommand};

use crate::keys::KeysCommand;
use crate::settings::ServeArgs;
use crate::store::StoreCommand;
use crate::token::TokenCommand;

const AFTER_HELP: &str = "\
A first conversation, in two terminals:

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
    #[command(after_help = crate::settings::SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Issue, show and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// List and rotate the keys that seal tokens
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Look after the store of consumed tokens
    #[command(subcommand)]
    Store(StoreCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
