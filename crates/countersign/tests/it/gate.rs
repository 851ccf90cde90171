//! `countersign gate`: how it starts and stops, and what `countersign doctor --gate` says of it.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use rustix::process::Signal;

use crate::doctor::doctor;
use crate::fixture::Place;
use crate::http;
use crate::process::Process;
use crate::service::handed;

/// A configuration whose tracker is the gate itself: nothing is in front of it.
fn configure(place: &Place, port: u16, more: &str) {
    place.write(
        "gate.toml",
        &format!(
            "listen = \"127.0.0.1:{port}\"\nbase_url = \"http://127.0.0.1:{port}/bugs/\"\ndata_dir = \"gate\"\nproxy = \"nginx\"\n\
             {more}\n[[issuer]]\nname = \"launchpad\"\nurl = \"http://127.0.0.1:1\"\nuser = \"launchpad\"\n\
             allow = [{{ methods = [\"GET\"], paths = [\"/**\"] }}]\n"
        ),
    );
}

fn start(place: &Place, arguments: &[&str]) -> Process {
    let arguments = ["gate", "--config", "gate.toml"].into_iter().chain(arguments.iter().copied());
    Process::start(&mut place.command(arguments), "")
}

/// A port from below those that the system gives out by itself: nobody else gets it before it is used.
fn free_port() -> u16 {
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    (first..32_768).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn gate_prints_one_line_and_drains_on_sigterm() {
    let place = Place::new();
    configure(&place, 1, "");
    let mut gate = start(&place, &["--listen", "127.0.0.1:0"]);
    let line = gate.out.lines(1);
    let url = line.trim_end().strip_prefix("gate ").unwrap();
    assert_eq!(http::get(&format!("{url}/bugs/launchpad-auth/check")).status, 401);
    assert_eq!(http::get(&format!("{url}/healthz")).status, 200);
    gate.signal(Signal::TERM);
    let ended = gate.ended();
    assert_eq!((ended.code, &ended.out), (Some(0), &line), "{ended:?}");
    assert_eq!(place.mode("gate"), 0o700);
    assert_eq!(place.mode("gate/gate-secret"), 0o600);
}

#[test]
fn wrong_configuration_is_a_usage_error() {
    let place = Place::new();
    let missing = place.run(&["gate", "--config", "gate.toml"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.err.contains("configuration file gate.toml, cannot read it"), "{missing:?}");
    for more in ["colour = 1", "user_header = \"Cookie\"", "anonymous = \"yes\""] {
        configure(&place, 1, more);
        let ended = place.run(&["gate", "--config", "gate.toml"]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.err.contains("configuration file gate.toml"), "{ended:?}");
    }
    configure(&place, 1, "");
    place.replace(
        "gate.toml",
        &place.read("gate.toml").replace("127.0.0.1:1\"\nuser", "issuer.example.org\"\nuser"),
        0o600,
    );
    let ended = place.run(&["gate", "--config", "gate.toml"]);
    assert_eq!(ended.code, Some(2), "an issuer without TLS: {ended:?}");
    assert!(ended.err.contains("issuer launchpad: ") && ended.err.contains("without TLS"), "{ended:?}");
}

#[test]
fn directory_that_others_can_write_to_is_refused() {
    let place = Place::new();
    configure(&place, 1, "");
    std::fs::create_dir(place.path("gate")).unwrap();
    place.set_mode("gate", 0o777);
    let ended = place.run(&["gate", "--config", "gate.toml"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("data_dir gate can be changed by other users"), "{ended:?}");
    assert_eq!(std::fs::read_dir(place.path("gate")).unwrap().count(), 0);
}

#[test]
fn listing_sessions_requires_an_existing_store() {
    let place = Place::new();
    configure(&place, 1, "");
    for command in [&["sessions", "list"][..], &["events"], &["sessions", "end", "--all"]] {
        let ended = place.run(&[&["gate"], command, &["--config", "gate.toml"]].concat());
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{command:?}: {ended:?}");
        assert!(ended.err.contains("no gate has begun to use this data_dir"), "{ended:?}");
    }
    let mut gate = start(&place, &["--listen", "unix:gate.sock"]);
    assert_eq!(gate.out.lines(1), "gate unix:gate.sock\n");
    assert_eq!(place.mode("gate.sock"), 0o600);
    let events = |more: &[&str]| place.run(&[&["gate", "events", "--config", "gate.toml"], more].concat());
    assert_eq!(events(&[]).printed(), "no events");
    assert_eq!(events(&["--json"]).out, "", "a line has an event");
    let since = events(&["--since=-24h"]);
    assert_eq!(since.code, Some(2), "{since:?}");
    let unknown = place.run(&["gate", "events", "--config", "gate.toml", "--kind", "colour"]);
    assert!(unknown.err.contains("the kinds are login, login-refused"), "{unknown:?}");
    gate.signal(Signal::TERM);
    assert_eq!(gate.ended().code, Some(0));
}

#[test]
fn doctor_reports_faults_of_a_gate() {
    let place = Place::new();
    let look = |place: &Place| doctor(place, &["--gate", "gate.toml"], &[]);
    look(&place).must_have("error", "configuration", "cannot read it");
    let port = free_port();
    configure(&place, port, "trusted_proxies = [\"0.0.0.0/0\"]");
    let found = look(&place);
    found.must_have("error", "configuration", "trusted_proxies has 0.0.0.0/0");
    found.must_have("note", "files", "gate/gate-secret is not there");
    found.must_have("error", "gate", "no gate answers on 127.0.0.1");
    found.must_have("error", "proxy", "does not answer");
    configure(&place, port, "");
    let mut gate = start(&place, &[]);
    gate.out.lines(1);
    place.set_mode("gate/gate-secret", 0o644);
    let found = look(&place);
    found.must_have("ok", "configuration", "gate.toml can be used");
    found.must_have("error", "files", "can be read by other users (mode 0644)");
    found.must_have("ok", "gate", "a gate answers on 127.0.0.1");
    found.must_have("ok", "proxy", "/bugs/launchpad-auth leads to the gate");
    let writer = rusqlite::Connection::open(place.path("gate/gate-sessions.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    look(&place).must_have("error", "gate", "cannot write its sessions");
    writer.execute_batch("ROLLBACK").unwrap();
    // Nothing is in front of the gate here, so all of it can be reached.
    found.must_have("error", "proxy", "/metrics and");
    gate.signal(Signal::TERM);
    gate.ended();
}

#[test]
fn inherited_socket_for_everybody_is_rejected() {
    let place = Place::new();
    configure(&place, 1, "");
    let path = place.path("gate.sock");
    let socket = UnixListener::bind(&path).unwrap();
    // As systemd makes one by default.
    place.set_mode("gate.sock", 0o666);
    let gate = place.command(["gate", "--config", "gate.toml", "--listen", "systemd:gate"]);
    let (mut command, _handed) = handed(&gate, &[socket.as_fd()], "gate");
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(
        said.contains("gate.sock is not for the proxy alone: its mode is 666")
            && said.contains("SocketMode=0660"),
        "{said}"
    );

    // As it should be, with another one that has no path, and so no mode.
    place.set_mode("gate.sock", 0o660);
    let name = format!("countersign-{}", path.display());
    let nowhere = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let (mut command, _handed) = handed(&gate, &[socket.as_fd(), nowhere.as_fd()], "gate:gate");
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(said.contains("a Unix socket needs a path"), "{said}");

    let (mut command, _handed) = handed(&gate, &[socket.as_fd()], "gate");
    let mut gate = Process::start(&mut command, "");
    assert_eq!(gate.out.lines(1), format!("gate unix:{}\n", path.display()));
    gate.signal(Signal::TERM);
    assert_eq!(gate.ended().code, Some(0));
}

#[test]
fn doctor_finds_a_socket_for_everybody() {
    let place = Place::new();
    configure(&place, 1, "");
    let text = place.read("gate.toml").replace("listen = \"127.0.0.1:1\"", "listen = \"unix:gate.sock\"");
    place.write("gate.toml", &text);
    let socket = UnixListener::bind(place.path("gate.sock")).unwrap();
    place.set_mode("gate.sock", 0o666);
    // This test ignores the answer.
    drop(socket);
    let look = |place: &Place| doctor(place, &["--gate", "gate.toml"], &[]);
    look(&place).must_have("error", "configuration", "gate.sock is not for the proxy alone");
    place.set_mode("gate.sock", 0o660);
    look(&place).must_have("ok", "configuration", "gate.toml can be used");
}

#[test]
fn session_ends_and_failed_record_is_reported() {
    let place = Place::new();
    configure(&place, 1, "");
    let mut gate = start(&place, &["--listen", "127.0.0.1:0"]);
    gate.out.lines(1);
    let file = rusqlite::Connection::open(place.path("gate/gate-sessions.db")).unwrap();
    file.execute_batch(
        "INSERT INTO sessions (digest, tracker, issuer, user, began, ends) \
         VALUES (zeroblob(32), 'https://bugs.example.org/', 'launchpad', 'launchpad', 0, 4000000000000); \
         CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no room'); END",
    )
    .unwrap();
    let ended = place.run(&["gate", "sessions", "end", "--all", "--config", "gate.toml"]);
    assert_eq!((ended.code, &*ended.out), (Some(0), "ended 1\n"), "{ended:?}");
    assert!(ended.err.contains("the sessions are over") && ended.err.contains("no room"), "{ended:?}");
    gate.signal(Signal::TERM);
    gate.ended();
}
