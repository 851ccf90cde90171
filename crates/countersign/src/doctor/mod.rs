//! `countersign doctor`: checks everything that an operator can get wrong, and says what to do.
//!
//! [`CHECKS`] is the list of what is looked at. To add a check, write a function from [`Context`] to findings, in the
//! module of its subject, and name it there.

mod callers;
mod context;
mod finding;
mod gate;
mod keys;
mod local;
mod public;
mod store;
mod traces;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use clap::Args;
use countersign_core::{Clock, SystemClock};
use serde_json::json;

use self::context::{Context, TargetServer};
use self::finding::{Finding, Level};
use crate::output::{Failure, print, print_json};
use crate::remote::{SERVER, Trust};
use crate::settings::ServeArgs;

pub(crate) const DOCTOR_HELP: &str = "\
The command asks the running server for its effective settings and where each comes from, its certificates and files, and \
whether it can serve. It also checks the store and the public URL, and changes nothing. It reads flags, variables and the file \
as `countersign serve` does, uses them if no server answers, and reports where they differ from the effective settings.

Run it as the user that the server runs as, or as root. With --offline it asks no server and opens the store itself, \
even while a server uses it. With --gate it checks a gate beside a tracker, and the proxy in front of both.

Findings are `ok`, `note` (worth knowing), `warning` (to be fixed) and `error` (something does not work, or is not safe).

Exit codes: 0 no errors (there may be warnings), 1 errors, 2 wrong usage.";

#[derive(Args, Debug)]
pub(crate) struct DoctorCommand {
    /// Check the files and the store only, without asking the server
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Check the gate with this configuration, and its reverse proxy, in place of a server
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    gate: Option<PathBuf>,
    /// Its private API: http://HOST:PORT, https://HOST:PORT or unix:PATH [default: the configured private listener]
    #[arg(long, env = "COUNTERSIGN_SERVER", value_name = "URL", help_heading = SERVER)]
    server: Option<String>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten, next_help_heading = "Configuration, as for serve")]
    pub(crate) place: ServeArgs,
}

type Findings<'c> = Pin<Box<dyn Future<Output = Vec<Finding>> + Send + 'c>>;

/// Something to look at.
struct Check {
    /// In a word or two.
    name: &'static str,
    run: for<'c> fn(&'c Context) -> Findings<'c>,
}

/// All checks, in the order of the report.
const CHECKS: &[Check] = &[
    Check { name: "configuration", run: |context| Box::pin(async { local::configuration(context) }) },
    Check { name: "files", run: |context| Box::pin(async { local::files(context) }) },
    Check { name: "callers", run: |context| Box::pin(callers::named(context)) },
    Check { name: "certificates", run: |context| Box::pin(async { local::certificates(context) }) },
    Check { name: "keys", run: |context| Box::pin(async { keys::ring(context) }) },
    Check { name: "server", run: |context| Box::pin(async { store::server(context) }) },
    Check { name: "store", run: |context| Box::pin(async { store::store(context) }) },
    Check { name: "events", run: |context| Box::pin(async { store::events(context) }) },
    Check { name: "durability", run: |context| Box::pin(async { store::durability(context) }) },
    Check { name: "disk", run: |context| Box::pin(async { store::disk(context) }) },
    Check { name: "clock", run: |context| Box::pin(async { store::clock(context) }) },
    Check { name: "nodes", run: |context| Box::pin(async { keys::nodes(context) }) },
    Check { name: "public URL", run: |context| Box::pin(public::url(context)) },
    Check { name: "proxies", run: |context| Box::pin(async { public::proxies(context) }) },
    Check { name: "traces", run: |context| Box::pin(traces::collector(context)) },
];

pub(crate) async fn run(command: DoctorCommand) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let Some(file) = &command.gate {
        let findings = Box::pin(gate::findings(file, clock.now())).await;
        return conclude(&findings, command.json);
    }
    let asked = (!command.offline).then_some(TargetServer { url: command.server, trust: command.trust });
    let context = Box::pin(Context::gather(command.place, asked, clock)).await?;
    let mut all = Vec::new();
    for check in CHECKS {
        let mut findings = (check.run)(&context).await;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        all.extend(findings.into_iter().map(|finding| (check.name, finding)));
    }
    conclude(&all, command.json)
}

/// Prints the findings, and fails if there are errors among them.
fn conclude(all: &[(&str, Finding)], json: bool) -> Result<(), Failure> {
    report(all, json)?;
    match all.iter().filter(|(_, finding)| finding.level == Level::Error).count() {
        0 => Ok(()),
        1 => Err(Failure::failed("1 error was found; see above for what to do")),
        errors => Err(Failure::failed(format!("{errors} errors were found; see above for what to do"))),
    }
}

fn report(findings: &[(&str, Finding)], json: bool) -> Result<(), Failure> {
    if json {
        let findings: Vec<_> = findings
            .iter()
            .map(|(check, finding)| {
                json!({
                    "check": check,
                    "level": finding.level.word(),
                    "finding": finding.sentence,
                    "remedy": finding.remedy,
                })
            })
            .collect();
        return print_json(&json!({ "findings": findings }));
    }
    let mut lines = Vec::with_capacity(findings.len());
    for (check, finding) in findings {
        lines.push(format!("{:7}  {check}: {}", finding.level.word(), finding.sentence));
        lines.extend(finding.remedy.iter().map(|remedy| format!("{:7}    {remedy}", "")));
    }
    print(lines.join("\n"))
}
