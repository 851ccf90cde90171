//! Output that nobody reads, as in `countersign keys list | head -0`.

use std::io::pipe;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::fixture::{Place, Server};
use crate::process::{EndedProcess, Process};

/// A pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

fn run_unread(command: &mut Command) -> EndedProcess {
    Process::start_as_it_is(command.stdin(Stdio::null()).stdout(unread()).stderr(Stdio::piped())).ended()
}

#[test]
fn closed_stdout_is_no_failure() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    for arguments in [
        &["token", "new"][..],
        &["token", "new", "--json"],
        &["token", "show", &token],
        &["keys", "list"],
        &["keys", "list", "--json"],
        &["store", "stats"],
        &["store", "purge"],
        &["token", "revoke", &token],
    ] {
        let ended = run_unread(place.command(arguments.iter().copied()).args(["--server", &server.private]));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["--version"], &["help", "token", "new"]] {
        let ended = run_unread(&mut place.command(arguments.iter().copied()));
        assert!(!ended.err.contains("panicked"), "{arguments:?}: {}", ended.err);
    }
}

/// As in `countersign events --follow | grep -m 1 replay`, which would keep its connection and its place for ever.
#[test]
fn follower_ends_with_its_reader() {
    let place = Place::new();
    let server = place.serve();
    assert_eq!(server.status("unknown"), 404);
    let mut command = place.command(["events", "--follow", "--server", &server.private]);
    let ended = run_unread(&mut command);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

#[test]
fn unread_stdout_stops_no_server() {
    let place = Place::new();
    let mut command = place.serve_command(&[], &[]);
    let mut process =
        Process::start_as_it_is(command.stdin(Stdio::null()).stdout(unread()).stderr(Stdio::piped()));
    process.err.with("INFO ready");
    process.signal(Signal::TERM);
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("INFO stopped"), "{}", ended.err);
}

#[test]
fn unwritable_log_stops_no_server() {
    let place = Place::new();
    let mut command = place.serve_command(&[], &[("RUST_LOG", "trace")]);
    let process =
        Process::start_as_it_is(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(unread()));
    let mut server = Server::of(process);
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    server.process.signal(Signal::HUP);
    assert_eq!(server.status(&server.token()), 200);
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().code, Some(0));
}

#[test]
fn closed_stderr_keeps_the_exit_code() {
    let place = Place::new();
    for (arguments, code) in [(&["keys", "list", "--offline"][..], 1), (&["keys", "--colour"], 2)] {
        let mut command = place.command(arguments.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(unread());
        assert_eq!(Process::start_as_it_is(&mut command).ended().code, Some(code), "{arguments:?}");
    }
}
