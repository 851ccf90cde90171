//! `countersign serve`, when all is well.

use std::net::TcpListener;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{DATA, Place};
use crate::http;
use crate::process::Process;

#[test]
fn first_start_creates_private_files() {
    let place = Place::empty();
    let server = place.serve();
    assert_eq!(place.files("."), [DATA]);
    let files = place.files(DATA);
    assert!(
        ["countersign.db", "key-ring.toml"].iter().all(|name| files.iter().any(|f| f == name)),
        "{files:?}"
    );
    assert_eq!(place.mode(DATA), 0o700);
    for name in files.iter().filter(|name| *name != "countersign.lock") {
        assert_eq!(place.mode(&format!("{DATA}/{name}")), 0o600, "{name}");
    }
    assert_eq!(server.status(&server.token()), 200);
    let log = server.stop().err;
    assert!(log.contains("made a new key ring") && log.contains("key-ring.toml"), "{log}");
}

#[test]
fn stdout_contains_only_the_two_addresses() {
    let place = Place::new();
    let mut server = place.serve_with(&[], &[("RUST_LOG", "trace")]);
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    http::get(&format!("{}/nowhere", server.private));
    server.process.signal(Signal::HUP);
    server.process.signal(Signal::TERM);
    let ended = server.process.ended();
    assert_eq!(ended.out, format!("public {}\nprivate {}\n", server.public, server.private));
    for url in [&server.public, &server.private] {
        let port: u16 = url.strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
        assert_ne!(port, 0);
    }
    assert!(ended.err.contains("a token was used a second time"), "the log is elsewhere: {}", ended.err);
}

#[test]
fn token_is_accepted_once() {
    let place = Place::new();
    let server = place.serve();
    let (token, other) = (server.token(), server.token());

    let wrong_method = http::send(Method::GET, &server.handshake_url(&token), &[], "");
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, "POST"));
    assert_eq!(wrong_method.text, "Only POST requests are accepted for bugtracker handshakes.");

    let first = server.redeem(&token);
    assert_eq!((first.status, first.text.as_str()), (200, "Handshake token validated."));
    let second = server.redeem(&token);
    assert_eq!((second.status, second.text.as_str()), (401, "Token has already been used or is invalid."));
    assert!(!second.header("www-authenticate").is_empty());
    assert_eq!(server.status(&other), 200, "another token is not disturbed");
    assert_eq!(server.status("cs1unknown"), 404);
}

#[test]
fn tokens_and_endings_survive_a_restart() {
    let place = Place::new();
    let server = place.serve();
    let (used, unused) = (server.token(), server.token());
    assert_eq!(server.status(&used), 200);
    server.stop();

    let server = place.serve();
    assert_eq!(server.status(&used), 401);
    assert_eq!(server.status(&unused), 200);
    assert!(!server.stop().err.contains("new key ring"));
}

#[test]
fn consumption_survives_a_killed_server() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    assert_eq!(server.status(&token), 200);
    drop(server);

    let server = place.serve();
    assert_eq!(server.status(&token), 401);
}

#[test]
fn key_ring_stays_in_the_data_directory_for_any_store() {
    for (store, files) in [("memory:", vec![DATA]), ("sqlite:elsewhere/tokens.db", vec![DATA, "elsewhere"])] {
        let place = Place::empty();
        let server = place.serve_with(&["--store", store], &[]);
        let token = server.token();
        assert_eq!((server.status(&token), server.status(&token)), (200, 401), "{store}");
        server.stop();
        assert_eq!(place.files("."), files, "{store}");
        assert_eq!(place.files(DATA), ["key-ring.toml"], "{store}");
        assert_eq!(place.mode(DATA), 0o700, "{store}");
    }
}

#[test]
fn both_listeners_answer_health_checks() {
    let place = Place::new();
    let server = place.serve();
    for url in [&server.public, &server.private] {
        for (path, text) in [("healthz", "alive\n"), ("readyz", "ready\n")] {
            let answer = http::get(&format!("{url}/{path}"));
            assert_eq!((answer.status, answer.text.as_str()), (200, text), "{url}/{path}");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
}

#[test]
fn private_api_is_not_on_the_public_listener() {
    let place = Place::new();
    let server = place.serve();
    for path in ["bugs", "v1/tokens", "v1/keys", "v1/store/fence", "openapi.json"] {
        assert_eq!(http::post(&format!("{}/{path}", server.public), &[], "").status, 404, "{path}");
        assert_eq!(http::get(&format!("{}/{path}", server.public)).status, 404, "{path}");
    }
    let token = server.token();
    let answer = http::post(&server.handshake_url(&token).replace(&server.public, &server.private), &[], "");
    assert_eq!(answer.status, 404, "nor the other way round");
}

#[test]
fn json_log_has_one_object_a_line() {
    let place = Place::new();
    let server = place.serve_with(&["--log-format", "json"], &[]);
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    let id = server.look(&token)["id"].clone();
    let log = server.stop().err;
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let replay = events.iter().find(|event| event["level"] == "WARN").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(replay["fields"]["id"], id);
    assert_eq!(replay["fields"]["message"], "a token was used a second time");
}

#[test]
fn rust_log_sets_the_log_level() {
    for (filter, info) in [("error", false), ("info", true), ("countersign=!!", true)] {
        let place = Place::new();
        let server = place.serve_with(&[], &[("RUST_LOG", filter)]);
        let log = server.stop().err;
        assert_eq!(log.contains(" INFO ready"), info, "{filter}: {log}");
    }
}

#[test]
fn ipv6_addresses_are_printed_as_urls() {
    let place = Place::new();
    let arguments = ["--public-listen", "[::1]:0", "--private-listen", "[::1]:0"];
    if TcpListener::bind("[::1]:0").is_err() {
        // A machine without IPv6.
        let said = Process::start(&mut place.serve_command(&arguments, &[]), "").ended().refused(1);
        assert!(said.contains("cannot listen on [::1]:0"), "{said}");
        return;
    }
    let server = place.serve_with(&arguments, &[]);
    assert!(server.public.starts_with("http://[::1]:") && server.private.starts_with("http://[::1]:"));
    assert_eq!(server.status(&server.token()), 200);
}

#[test]
fn private_socket_is_open_only_to_its_user() {
    let place = Place::new();
    let server = place.serve_with(&["--private-listen", "unix:private.sock"], &[]);
    assert_eq!(server.private, "unix:private.sock");
    assert_eq!(place.mode("private.sock"), 0o600);
    let token = server.print(&place, &["token", "new"]);
    assert_eq!(server.status(&token), 200);
    server.stop();
    assert!(!place.path("private.sock").exists());
    let said = place.refusal(&["token", "new", "--server", "unix:private.sock"], 1);
    assert!(said.contains("no Countersign server answers at unix:private.sock"), "{said}");
}
