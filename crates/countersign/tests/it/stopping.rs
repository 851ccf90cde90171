//! How a server ends.

use std::fs;

use countersign_test_postgres::Silent;
use rustix::process::Signal;

use crate::fixture::{DATA, Place};
use crate::http::{self, Raw};
use crate::process::Process;

#[test]
fn stopping_finishes_requests_in_flight() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut server = place.serve();
        let consumed = server.token();
        assert_eq!(server.status(&consumed), 200);
        // A connection on which nothing is under way is no reason to wait.
        let mut idle = Raw::connect(&server.public);
        idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(idle.head().starts_with("HTTP/1.1 200 "));
        let (mut call, half) = Raw::half_a_call(&server.private);

        server.process.signal(signal);
        server.process.err.with("stopping after the requests under way");
        http::wait_until_refused(&server.private);
        http::wait_until_refused(&server.public);
        idle.rest();

        call.send(&half);
        let answer = call.rest();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let issued = http::string(&answer);
        let ended = server.process.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.err.trim_end().ends_with("INFO stopped"), "{}", ended.err);
        let log = fs::metadata(place.path(&format!("{DATA}/countersign.db-wal")));
        assert!(log.is_err() || log.unwrap().len() == 0, "the store was not closed");

        let server = place.serve();
        assert_eq!(server.status(&issued), 200, "the last token issued is as good as any");
        assert_eq!(server.status(&consumed), 401);
    }
}

#[test]
fn second_interrupt_stops_at_once() {
    for first in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let mut server = place.serve();
        let (call, _) = Raw::half_a_call(&server.private);
        server.process.signal(first);
        server.process.err.with("Ctrl-C stops at once");
        server.process.signal(Signal::INT);
        let ended = server.process.ended();
        assert_eq!(ended.code, Some(130), "{}", ended.err);
        assert!(!ended.err.contains("INFO stopped"), "{}", ended.err);
        drop(call);

        let server = place.serve();
        assert_eq!(server.status(&server.token()), 200, "which does no harm to the store");
    }
}

/// The database takes the connection and says nothing, for longer than anybody waits.
#[test]
fn signal_stops_a_server_whose_database_hangs() {
    for signal in [Signal::TERM, Signal::INT] {
        let (place, database) = (Place::new(), Silent::start());
        let store = format!("postgres://anna@{}/tokens?connect_timeout=3600", database.address());
        let mut process = Process::start(&mut place.serve_command(&["--store", &store], &[]), "");
        let _line = database.accept();
        process.signal(signal);
        let ended = process.ended();
        assert_eq!((ended.code, &*ended.out), (Some(0), ""), "{}", ended.err);
        assert!(ended.err.trim_end().ends_with("INFO stopped before it was ready"), "{}", ended.err);
    }
}
