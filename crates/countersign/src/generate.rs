//! `countersign completions` and `countersign man`: generated from the definition of the command line.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::{Failure, print};

pub(crate) const COMPLETIONS_HELP: &str = "\
For bash, in the present terminal:

  source <(countersign completions bash)

For all terminals, write the output to where the shell looks for it, such as ~/.local/share/bash-completion/completions/countersign, \
~/.zfunc/_countersign or ~/.config/fish/completions/countersign.fish. The Debian package does so.";

#[derive(Args, Debug)]
pub(crate) struct CompletionsCommand {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManCommand {
    /// The directory for the pages; created if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn completions(command: &CompletionsCommand) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut Cli::command(), "countersign", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

pub(crate) fn man(command: &ManCommand) -> Result<(), Failure> {
    let directory = &command.directory;
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|error| Failure::failed(format!("cannot write to {}: {error}", directory.display())))?;
    print(format!("wrote countersign.1, and a page for each command, to {}", directory.display()))
}
