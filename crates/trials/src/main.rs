//! `countersign-trials`: runs the trials, as long as asked.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use countersign_core::{Entropy, OsEntropy};
use countersign_trials::process::{Launch, find_binary};
use countersign_trials::{
    TrialError, clocks, crashes, disconnects, keys, lost_answers, lost_log, model, races, shared_store,
};

const AFTER_HELP: &str = "\
The server is the one that COUNTERSIGN_BIN names, or the one built beside this program. Data is kept in a temporary
directory; TMPDIR chooses the disk. A seed makes the same choices again, not the same timing.

Exit codes: 0 every promise held, 1 one did not or the trial could not be held, 2 wrong usage.";

/// Tries whether a token is redeemed exactly once, also under races, crashes and lost answers.
#[derive(Debug, Parser)]
#[command(name = "countersign-trials", after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Debug, Subcommand)]
enum Trial {
    /// Many callers use the same token at the same moment
    Races {
        /// How many tokens
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// How many callers fight for each, 2 to 8
        #[arg(long, default_value_t = 8)]
        clients: usize,
        /// How many tokens are fought for at the same time
        #[arg(long, default_value_t = 4)]
        groups: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// The server is killed under load, its files are damaged, and it is started again
    Crashes {
        /// How many crashes
        #[arg(long, default_value_t = 100)]
        cycles: u64,
        /// Remove the log after each crash, which loses answers: the trial has to fail
        #[arg(long)]
        lose_log: bool,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// Several servers on one PostgreSQL: servers are killed, the database crashes, lines to it are cut
    Nodes {
        /// How many servers
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// How many times something happens
        #[arg(long, default_value_t = 100)]
        cycles: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// Clocks are wrong, and are set while servers serve: two on one PostgreSQL, and one alone
    Clocks {
        /// How many times
        #[arg(long, default_value_t = 20)]
        cycles: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// Several servers on one PostgreSQL: keys are revoked under load, lines to it are cut
    Keys {
        /// How many servers
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// How many keys
        #[arg(long, default_value_t = 100)]
        cycles: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// The log is taken away, from a running server and after a crash
    LostLog {
        /// How many times
        #[arg(long, default_value_t = 10)]
        count: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Answers are lost on the way, and thieves come before the retry
    LostAnswers {
        /// How many tokens
        #[arg(long, default_value_t = 1000)]
        count: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// Trackers hang up, close their side, and break off in the middle of a message
    HangUps {
        /// How many tokens
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// How many trackers at a time
        #[arg(long, default_value_t = 16)]
        clients: u64,
        #[command(flatten)]
        seed: Seed,
        #[command(flatten)]
        common: Common,
    },
    /// Visit every state of a model of the protocol, with and without each defence
    Model,
}

#[derive(Args, Debug)]
struct Common {
    /// Stop after so many seconds, even if the goal was not reached
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Where the evidence of a violation is written
    #[arg(long, value_name = "FILE", default_value = "countersign-violation.txt")]
    evidence: PathBuf,
}

#[derive(Args, Debug)]
struct Seed {
    /// Makes the choices of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&format!("cannot start: {error}")),
    };
    let evidence = cli.trial.evidence();
    let held = runtime.block_on(async {
        tokio::select! {
            held = hold(cli.trial) => held,
            // What is dropped on the way out kills the servers.
            _ = tokio::signal::ctrl_c() => Err(TrialError::Setup("interrupted".to_owned())),
        }
    });
    match held {
        Ok(summary) => {
            say(&summary);
            ExitCode::SUCCESS
        }
        Err(error) => {
            if let (TrialError::Violation(violation), Some(path)) = (&error, evidence) {
                match std::fs::write(&path, format!("{violation}\n{}", violation.evidence)) {
                    Ok(()) => say(&format!("the evidence is in {}", path.display())),
                    Err(wrong) => {
                        say(&format!(
                            "cannot write {}: {wrong}; the evidence:\n{}",
                            path.display(),
                            violation.evidence
                        ));
                    }
                }
            }
            report(&error.to_string())
        }
    }
}

async fn hold(trial: Trial) -> Result<String, TrialError> {
    match trial {
        Trial::Races { count, clients, groups, seed, common } => {
            let options =
                races::Options { count, clients, groups, limit: common.limit(), seed: seed.number()? };
            let (server, _place) = start().await?;
            let tally = races::run(server.target(), options, &say).await?;
            server.stop().await?;
            Ok(format!("races: {tally}"))
        }
        Trial::Crashes { cycles, lose_log, seed, common } => {
            let options = crashes::Options { cycles, limit: common.limit(), seed: seed.number()?, lose_log };
            Ok(format!("crashes: {}", crashes::run(find_binary()?, options, &say).await?))
        }
        Trial::Nodes { nodes, cycles, seed, common } => {
            let options =
                shared_store::Options { nodes, cycles, limit: common.limit(), seed: seed.number()? };
            Ok(format!("nodes: {}", shared_store::run(find_binary()?, options, &say).await?))
        }
        Trial::Clocks { cycles, seed, common } => {
            let options = clocks::Options { cycles, limit: common.limit(), seed: seed.number()? };
            Ok(format!("clocks: {}", clocks::run(find_binary()?, options, &say).await?))
        }
        Trial::Keys { nodes, cycles, seed, common } => {
            let options =
                shared_store::Options { nodes, cycles, limit: common.limit(), seed: seed.number()? };
            Ok(format!("keys: {}", keys::run(find_binary()?, options, &say).await?))
        }
        Trial::LostLog { count, common } => {
            Ok(format!("lost-log: {}", lost_log::run(find_binary()?, count, common.limit(), &say).await?))
        }
        Trial::LostAnswers { count, seed, common } => {
            let options = lost_answers::Options { count, limit: common.limit(), seed: seed.number()? };
            let (server, _place) = start().await?;
            let tally = lost_answers::run(server.target(), options, &say).await?;
            server.stop().await?;
            Ok(format!("lost-answers: {tally}"))
        }
        Trial::HangUps { count, clients, seed, common } => {
            let options = disconnects::Options {
                count,
                clients: clients.max(1),
                limit: common.limit(),
                seed: seed.number()?,
            };
            let (server, _place) = start().await?;
            let tally = disconnects::run(server.target(), options, &say).await?;
            server.stop().await?;
            Ok(format!("hang-ups: {tally}"))
        }
        Trial::Model => {
            let mut surprises = 0;
            let (defended, undefended) = (model::defended(), model::undefended());
            for scenario in defended.into_iter().chain([model::everything()]).chain(undefended) {
                let finding = model::check(scenario)?;
                say(&finding.to_string());
                for promise in finding.surprises() {
                    say(&format!("  NOT AS EXPECTED: {promise}"));
                    surprises += 1;
                }
            }
            match surprises {
                0 => {
                    Ok("model: every promise holds with all defences, and is broken where it must be"
                        .to_owned())
                }
                _ => Err(TrialError::Setup(format!("model: {surprises} promises are not as expected"))),
            }
        }
    }
}

/// Starts a server in a temporary directory, which goes when it is dropped.
async fn start() -> Result<(countersign_trials::process::ServerProcess, tempfile::TempDir), TrialError> {
    let place = tempfile::tempdir()?;
    let server = Launch::new(find_binary()?, place.path()).start().await?;
    Ok((server, place))
}

impl Trial {
    fn evidence(&self) -> Option<PathBuf> {
        match self {
            Self::Races { common, .. }
            | Self::Crashes { common, .. }
            | Self::Nodes { common, .. }
            | Self::Clocks { common, .. }
            | Self::Keys { common, .. }
            | Self::LostLog { common, .. }
            | Self::LostAnswers { common, .. }
            | Self::HangUps { common, .. } => Some(common.evidence.clone()),
            Self::Model => None,
        }
    }
}

impl Common {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Seed {
    /// The one that was given, or a new one; printed in either case.
    fn number(&self) -> Result<u64, TrialError> {
        let seed = self.seed.map_or_else(new_seed, Ok)?;
        say(&format!("seed {seed}"));
        Ok(seed)
    }
}

fn new_seed() -> Result<u64, TrialError> {
    let mut bytes = [0; 4];
    OsEntropy.fill(&mut bytes).map_err(|error| TrialError::Setup(error.to_string()))?;
    Ok(u32::from_be_bytes(bytes).into())
}

fn say(text: &str) {
    // The reader of the output is gone, so there is no place for a message.
    let _ = writeln!(io::stdout(), "{text}");
}

fn report(sentence: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "countersign-trials: {sentence}");
    ExitCode::FAILURE
}
