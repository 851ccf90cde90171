//! `countersign check-tracker`: plays the issuer, and reports what a bug tracker's plugin does wrong.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use countersign_check_tracker::{
    API_CHECKS, CHECKS, CheckError, Checker, Grade, Issuer, Report, Subject, Tracker,
};
use countersign_core::{OsEntropy, SystemClock};
use jiff::SignedDuration;
use tokio::time::Instant;

use crate::login::tracker_parser;
use crate::output::{Failure, print, print_json};
use crate::settings::parse_audience;

pub(crate) const CHECK_TRACKER_HELP: &str = "\
Configure a tracker of your own, preferably one made for tests, with

  auth_server = http://127.0.0.1:8099/token/%s/+bugtracker-handshake

restart it, and run:

  countersign check-tracker http://127.0.0.1:8000/trac --listen 127.0.0.1:8099

The command plays the issuer at that address and the worker that logs in, with tokens that it makes up. It talks only to \
the tracker. Each line is a check: pass, FAIL, or advice. Some dozens of sessions remain in the tracker; they expire as its \
other sessions do.

With --self-signed the command plays an https issuer with an untrusted certificate, and checks that the tracker rejects it. \
Configure the tracker with another auth_server for this check: https://127.0.0.1:8099/token/%s/+bugtracker-handshake

With --api BUG the worker also uses the plugin API as Launchpad does, with this bug of the tracker, and each line says what \
Launchpad could not use. The bug gets comments and, for a moment, a link. With --only api-NAME the command runs that check alone.

For an https tracker with a private certificate authority, name its file in the variable SSL_CERT_FILE.

Exit codes: 0 nothing failed, 1 something failed or nothing could be checked, 2 wrong usage.";

/// How long to wait for a tracker that could not be configured before.
const WAIT_FOR_CONFIGURATION: Duration = Duration::from_mins(10);

/// How long to wait between two attempts to meet the tracker.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(crate) struct CheckTrackerCommand {
    /// The tracker's base URL
    #[arg(value_name = "URL")]
    url: String,
    /// The address of the issuer that the command plays: loopback or private; port 0 takes a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How the worker logs in
    #[arg(long, default_value = "trac", value_parser = tracker_parser())]
    kind: Tracker,
    /// The base URL that the tracker must state, if it differs
    #[arg(long, value_name = "URL", value_parser = parse_audience)]
    audience: Option<String>,
    /// Play an https issuer with an untrusted certificate, and check only that the tracker rejects it
    #[arg(long)]
    self_signed: bool,
    /// Also check the plugin API, as Launchpad's worker uses it, with this bug of the tracker; the bug gets comments
    #[arg(long, value_name = "BUG", conflicts_with = "self_signed")]
    api: Option<String>,
    /// Run only this check; can be given more than once
    #[arg(long, value_name = "CHECK", hide_possible_values = true, value_parser = PossibleValuesParser::new(CHECKS.iter().chain(API_CHECKS).map(|check| check.name)))]
    only: Vec<String>,
    /// How long to wait for each answer of the tracker, such as 30s or 2m
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: SignedDuration,
    /// How long to wait for a tracker that is not configured yet [default: 10m with a free port, else 0s]
    #[arg(long, value_name = "DURATION")]
    wait: Option<SignedDuration>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: CheckTrackerCommand) -> Result<(), Failure> {
    let timeout = Duration::try_from(command.timeout)
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| Failure::usage("--timeout must be longer than nothing"))?;
    let wait = match command.wait {
        Some(wait) => Duration::try_from(wait).map_err(|_| Failure::usage("--wait must not be negative"))?,
        None if command.listen.port() == 0 => WAIT_FOR_CONFIGURATION,
        None => Duration::ZERO,
    };
    let needs_bug = |name: &&String| API_CHECKS.iter().any(|check| check.name == **name);
    if let (None, Some(name)) = (&command.api, command.only.iter().find(needs_bug)) {
        return Err(Failure::usage(format!("{name} needs a bug to be tried with: add --api BUG")));
    }
    let subject = Subject::new(command.kind, &command.url, command.audience.as_deref())?.timeout(timeout);
    let issuer = if command.self_signed {
        Issuer::listen_self_signed(command.listen).await?
    } else {
        Issuer::listen(command.listen).await?
    };
    say(&format!("The tracker must be configured with auth_server = {}", issuer.auth_server()));
    let mut checker = Checker::new(issuer, subject, Arc::new(SystemClock), Arc::new(OsEntropy))?;
    if let Some(bug) = &command.api {
        checker = checker.with_bug(bug);
    }
    reach(&checker, wait).await?;

    let mut printed = Ok(());
    let report = checker
        .run(&command.only, |finding| {
            if !command.json && printed.is_ok() {
                printed = print(finding);
            }
        })
        .await?;
    printed?;
    if command.json {
        let document = serde_json::to_value(&report).map_err(Failure::failed)?;
        print_json(&document)?;
    }
    conclude(&report)
}

/// Waits until the tracker is there and asks this issuer.
async fn reach(checker: &Checker, wait: Duration) -> Result<(), Failure> {
    // None: longer than the clock can tell.
    let deadline = Instant::now().checked_add(wait);
    let mut told = false;
    loop {
        let Err(error) = checker.reach().await else { return Ok(()) };
        if !error.may_pass() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(error.into());
        }
        if !told {
            say(&format!("Waiting, because {error}."));
            told = true;
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

fn conclude(report: &Report) -> Result<(), Failure> {
    let (all, failed, advice) =
        (report.findings.len(), report.count(Grade::Fail), report.count(Grade::Advice));
    if failed > 0 {
        return Err(Failure::failed(format!(
            "{failed} of {all} checks failed; docs/trackers.md says what a plugin must do"
        )));
    }
    say(&format!("Nothing failed in {all} checks; {advice} had advice to give."));
    Ok(())
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        if error.is_usage() { Self::usage(error) } else { Self::failed(error) }
    }
}

/// Tells a person. Standard output is for the findings.
fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "{sentence}");
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckTrackerCommand,
    }

    fn line(arguments: &[&str]) -> Result<CheckTrackerCommand, clap::Error> {
        Line::try_parse_from(["check-tracker"].iter().chain(arguments)).map(|line| line.check)
    }

    async fn failure(arguments: &[&str]) -> String {
        format!("{:?}", run(line(arguments).unwrap()).await.unwrap_err())
    }

    /// A tracker that lets everybody in.
    fn open_house() -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            }
        });
        url
    }

    #[tokio::test]
    async fn failed_check_makes_the_exit_code_fail() {
        let found = failure(&[&open_house(), "--only", "detection", "--only", "only-200"]).await;
        assert!(found.contains("2 of 2 checks failed") && found.contains("code: 1"), "{found}");
    }

    #[tokio::test]
    async fn missing_tracker_is_awaited_only_on_request() {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let found = failure(&[&format!("http://{free}"), "--wait", "0s"]).await;
        assert!(found.contains("Connection refused") && found.contains("code: 1"), "{found}");
    }

    #[tokio::test]
    async fn plugin_api_is_checked_with_a_bug() {
        let found = failure(&[&open_house(), "--api", "7", "--only", "api-detection"]).await;
        assert!(found.contains("1 of 1 checks failed") && found.contains("code: 1"), "{found}");
        assert!(line(&["http://127.0.0.1:1/", "--api", "7", "--self-signed"]).is_err());
    }

    #[tokio::test]
    async fn self_signed_issuer_runs_only_its_check() {
        let found = failure(&[&open_house(), "--self-signed"]).await;
        assert!(found.contains("1 of 1 checks failed") && found.contains("code: 1"), "{found}");
    }

    #[tokio::test]
    async fn impossible_options_are_usage_errors() {
        for (arguments, sentence) in [
            (
                ["http://127.0.0.1:1/", "--only=api-time"],
                "api-time needs a bug to be tried with: add --api BUG",
            ),
            (["trac.example.org", "--wait=0s"], "the tracker's URL is not an absolute URL"),
            (["http://127.0.0.1:1", "--listen=0.0.0.0:0"], "0.0.0.0:0 is not an address of this machine"),
            (["http://127.0.0.1:1", "--timeout=0s"], "--timeout must be longer than nothing"),
            (["http://127.0.0.1:1", "--wait=-1s"], "--wait must not be negative"),
            (["http://127.0.0.1:1", "--audience=trac"], "the audience is not an absolute URL"),
        ] {
            let found = failure(&arguments).await;
            assert!(found.contains(sentence) && found.contains("code: 2"), "{found}");
        }
        assert!(line(&["http://127.0.0.1:1", "--only", "spelling"]).is_err());
        assert!(line(&["http://127.0.0.1:1", "--kind", "jira"]).is_err());
    }
}
