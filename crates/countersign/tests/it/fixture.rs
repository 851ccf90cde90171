//! A directory to run `countersign` in, and a server in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::process::{EndedProcess, Process};

/// Both listeners on ports that the system chooses, unless a flag says otherwise.
pub(crate) const ANY_PORTS: [(&str, &str); 2] =
    [("COUNTERSIGN_PUBLIC_LISTEN", "127.0.0.1:0"), ("COUNTERSIGN_PRIVATE_LISTEN", "127.0.0.1:0")];

/// The default data directory.
pub(crate) const DATA: &str = "countersign-data";

/// A directory in which commands run.
pub(crate) struct Place(TempDir);

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// The URLs that it printed.
    pub(crate) public: String,
    pub(crate) private: String,
}

impl Place {
    /// A directory with an empty configuration file, so that one of this machine does not apply.
    pub(crate) fn new() -> Self {
        let place = Self::empty();
        place.write("countersign.toml", "");
        place
    }

    pub(crate) fn empty() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text, for the command line.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Replaces a file in one step, so that nobody sees a part of it, or other permissions.
    pub(crate) fn replace(&self, name: &str, text: &str, mode: u32) {
        self.write("replacement", text);
        self.set_mode("replacement", mode);
        fs::rename(self.path("replacement"), self.path(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A file's or directory's permissions.
    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    pub(crate) fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The files in a directory, by name.
    pub(crate) fn files(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `countersign` with these arguments, to run here, and with nothing of the caller's environment that matters to it.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        command_in(self.0.path(), arguments)
    }

    /// Runs a command until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> EndedProcess {
        self.run_with(arguments, &[], "")
    }

    pub(crate) fn run_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) -> EndedProcess {
        let mut command = self.command(arguments.iter().copied());
        command.envs(variables.iter().copied());
        Process::start(&mut command, input).ended()
    }

    /// What a command prints that must succeed, without the line's end.
    pub(crate) fn print(&self, arguments: &[&str]) -> String {
        self.run(arguments).printed()
    }

    /// What a command says that must fail with this exit code.
    pub(crate) fn refusal(&self, arguments: &[&str], code: i32) -> String {
        self.run(arguments).refused(code)
    }

    /// A server with the default settings, except for the ports.
    pub(crate) fn serve(&self) -> Server {
        self.serve_with(&[], &[])
    }

    pub(crate) fn serve_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        Server::start(&mut self.serve_command(arguments, variables))
    }

    pub(crate) fn serve_command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.command(["serve"]);
        command.args(arguments).envs(ANY_PORTS).envs(variables.iter().copied());
        command
    }
}

/// `countersign` with these arguments, to run in `directory`.
pub(crate) fn command_in<'a>(directory: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    // A password file of this user's does not count.
    command.current_dir(directory).args(arguments).env("HOME", directory);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("COUNTERSIGN_")
            || text.starts_with("OTEL_")
            || text.starts_with("PG")
            || ["RUST_LOG", "COLUMNS", "TRACEPARENT", "TRACESTATE"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

impl EndedProcess {
    pub(crate) fn printed(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out.strip_suffix('\n').unwrap_or(&self.out).to_owned()
    }

    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        self.err
    }
}

impl Server {
    /// Starts `command`, which is a `serve`.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::of(Process::start(command, ""))
    }

    /// Reads where a process that is a `serve` listens.
    pub(crate) fn of(process: Process) -> Self {
        let text = process.out.lines(2);
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} address in {text:?}:\n{}", process.err.so_far()))
                .to_owned()
        };
        Self { public: line("public"), private: line("private"), process }
    }

    /// Issues a token over XML-RPC, as Launchpad's workers do.
    pub(crate) fn token(&self) -> String {
        http::string(&http::call(&self.private, "newBugTrackerToken", &[]))
    }

    /// What `GET /v1/tokens/{token}` says.
    pub(crate) fn look(&self, token: &str) -> Value {
        http::get(&format!("{}/v1/tokens/{token}", self.private)).json()
    }

    pub(crate) fn handshake_url(&self, token: &str) -> String {
        format!("{}/token/{token}/+bugtracker-handshake", self.public)
    }

    /// Redeems a token as a bug tracker does.
    pub(crate) fn redeem(&self, token: &str) -> Answer {
        http::post(&self.handshake_url(token), &[], "")
    }

    /// Redeems it and tells the status alone.
    pub(crate) fn status(&self, token: &str) -> u16 {
        self.redeem(token).status
    }

    /// Runs a command against this server.
    pub(crate) fn run(&self, place: &Place, arguments: &[&str]) -> EndedProcess {
        let mut all = arguments.to_vec();
        all.extend(["--server", &self.private]);
        place.run(&all)
    }

    /// What a command against this server prints that must succeed.
    pub(crate) fn print(&self, place: &Place, arguments: &[&str]) -> String {
        self.run(place, arguments).printed()
    }

    pub(crate) fn json(&self, place: &Place, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.print(place, arguments)).unwrap()
    }

    /// Stops it as an operator does, and insists that it ends well.
    pub(crate) fn stop(mut self) -> EndedProcess {
        self.process.signal(Signal::TERM);
        let ended = self.process.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended
    }
}

/// From a token's creation to its expiry.
pub(crate) fn lifetime(token: &Value) -> SignedDuration {
    let date = |name: &str| token[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    date("date_expires") - date("date_created")
}

/// A store's URL, and the password that stood in it.
pub(crate) fn without_password(url: &str) -> (String, String) {
    let mut url: url::Url = url.parse().unwrap();
    let password = url.password().unwrap().to_owned();
    url.set_password(None).unwrap();
    (url.into(), password)
}
