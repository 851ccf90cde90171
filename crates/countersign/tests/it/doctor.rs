//! `countersign doctor`, and things that are really broken.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, SystemTime};

use countersign_test_postgres::{new_name, shared};
use countersign_testkit::until;
use rcgen::{CertificateParams, KeyPair};
use rusqlite::Connection;
use serde_json::Value;

use crate::fixture::{DATA, Place, Server};
use crate::process::{EndedProcess, Process};
use crate::receiver::Receiver;

const RING: &str = "countersign-data/key-ring.toml";
/// A user that every machine has and nobody is.
const NOBODY: u32 = 65534;

/// What a doctor found, as `level check: finding` lines, and how it ended.
pub(crate) struct Found {
    code: Option<i32>,
    pub(crate) findings: Vec<String>,
}

impl Found {
    pub(crate) fn has(&self, level: &str, check: &str, part: &str) -> bool {
        let start = format!("{level} {check}: ");
        self.findings.iter().any(|line| line.starts_with(&start) && line.contains(part))
    }

    #[track_caller]
    pub(crate) fn must_have(&self, level: &str, check: &str, part: &str) {
        assert!(self.has(level, check, part), "no {level} {check} {part:?} in {:#?}", self.findings);
        assert_eq!(self.code, Some(i32::from(self.findings.iter().any(|line| line.starts_with("error ")))));
    }

    #[track_caller]
    pub(crate) fn must_be_well(&self) {
        let bad: Vec<_> = self
            .findings
            .iter()
            .filter(|line| line.starts_with("error ") || line.starts_with("warning "))
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(self.code, Some(0));
    }
}

pub(crate) fn doctor(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Found {
    read(&place.run_with(&[&["doctor", "--json"], arguments].concat(), variables, ""))
}

/// What `doctor --json` has printed.
pub(crate) fn read(ended: &EndedProcess) -> Found {
    let document: Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let text = |finding: &Value, member: &str| finding[member].as_str().unwrap_or_default().to_owned();
    let findings = document["findings"].as_array().unwrap();
    for finding in findings {
        let level = text(finding, "level");
        assert_eq!(finding["remedy"].is_string(), level != "ok", "each says what to do: {finding}");
    }
    let line = |finding: &Value| {
        let (level, check) = (text(finding, "level"), text(finding, "check"));
        format!("{level} {check}: {} / {}", text(finding, "finding"), text(finding, "remedy"))
    };
    let findings: Vec<String> = findings.iter().map(line).collect();
    // A new ring refuses every token: nobody is to make one because of something that can be mended.
    assert!(!findings.iter().any(|line| line.contains("keys new")), "{findings:#?}");
    Found { code: ended.code, findings }
}

fn offline(place: &Place, arguments: &[&str]) -> Found {
    doctor(place, &[&["--offline"], arguments].concat(), &[])
}

#[test]
fn doctor_probes_the_trace_collector() {
    let place = Place::new();
    let look = |url: &str| {
        let server = place.serve_with(&["--traces", url], &[]);
        beside(&place, &server, &[])
    };
    let (takes, refuses) = (Receiver::answering(200), Receiver::answering(404));
    look(&takes.url).must_have("ok", "traces", "the collector at 127.0.0.1 takes spans");
    // Spans of what the doctor itself has asked come too.
    while !takes.next().body.is_empty() {}
    let found = look(&refuses.url);
    found.must_have("warning", "traces", "(it answers 404 Not Found)");
    found.must_have("warning", "traces", "port 4318");
    place.write("countersign.toml", "traces = 'grpc://127.0.0.1:4317'\n");
    offline(&place, &[]).must_have("error", "configuration", "traces must be the base URL");
    place.write("countersign.toml", &format!("traces = '{}'\n", takes.url));
    offline(&place, &[]).must_have("note", "traces", "--offline");
}

/// A place where a server has been, and consumed a token.
fn used() -> Place {
    let place = Place::new();
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    place
}

/// Asks the doctor with a running server.
fn beside(place: &Place, server: &Server, arguments: &[&str]) -> Found {
    doctor(place, &[&["--server", &server.private], arguments].concat(), &[])
}

#[test]
fn healthy_server_gets_an_all_clear() {
    let place = used();
    offline(&place, &[]).must_be_well();
    let server = place.serve();
    let found = beside(&place, &server, &["--public-url", &server.public]);
    found.must_be_well();
    for (check, part) in [
        ("configuration", "what the server was started with can be used"),
        ("files", "owner's alone"),
        ("keys", "1 key in the ring"),
        ("server", "it answers, and tokens can be redeemed"),
        ("store", "1 consumed and 0 revoked"),
        ("disk", "MiB are free"),
        ("clock", "no clock is off"),
        ("public URL", "leads to a Countersign server"),
        ("proxies", "none"),
    ] {
        found.must_have("ok", check, part);
    }
    let text = place.print(&["doctor", "--offline"]);
    assert!(text.lines().any(|line| line.starts_with("ok       store: sqlite")), "{text}");
    assert_eq!(server.status(&server.token()), 200, "nothing has changed");
}

#[test]
fn server_that_does_not_answer_is_an_error() {
    let place = used();
    doctor(&place, &["--server", "http://127.0.0.1:9"], &[]).must_have(
        "error",
        "server",
        "no Countersign server answers",
    );
    let ended = place.run(&["doctor", "--server", "http://127.0.0.1:9"]);
    assert!(ended.code == Some(1) && ended.err.contains("1 error was found"), "{ended:?}");
    let said = place.refusal(&["doctor", "--offline", "--server", "http://127.0.0.1:9"], 2);
    assert!(said.contains("--server is about a running server"), "{said}");
}

#[test]
fn unusable_configuration_is_error_and_unwise_one_warning() {
    let place = used();
    for (text, level, check, part) in [
        ("colour = 3", "error", "configuration", "there is no setting `colour`"),
        ("spent_status = 418", "error", "configuration", "401 or 410"),
        ("private_listen = '0.0.0.0:8087'", "error", "configuration", "open to anybody"),
        ("store = 'memory:'", "warning", "configuration", "forgets everything"),
        ("refusals_per_minute = 0", "note", "configuration", "refusals are not limited"),
        ("trusted_proxies = ['0.0.0.0/0']", "error", "proxies", "anybody may say"),
        ("public_url = 'https://lp.example.org'", "warning", "proxies", "a proxy stands between"),
    ] {
        place.write("countersign.toml", text);
        offline(&place, &[]).must_have(level, check, part);
    }
}

#[test]
fn files_open_to_others_are_errors() {
    let place = used();
    for (path, mode, level, check, part) in [
        (
            DATA,
            0o772,
            "error",
            "files",
            "can be changed by other users (mode 0772), who can so make used tokens good",
        ),
        (DATA, 0o755, "warning", "files", "can be read by other users (mode 0755)"),
        (RING, 0o644, "error", "files", "can be read by other users (mode 0644)"),
        (RING, 0o644, "error", "files", "chmod 600"),
        (RING, 0o644, "error", "keys", "its keys stay as they are"),
    ] {
        let before = place.mode(path);
        place.set_mode(path, mode);
        offline(&place, &[]).must_have(level, check, part);
        place.set_mode(path, before);
    }
    place.write("bearer", "s3cret-0f9e8d7c6b5a4321\n");
    place.set_mode("bearer", 0o644);
    place.write("countersign.toml", "private_bearer_file = 'bearer'");
    offline(&place, &[]).must_have("error", "files", "the bearer secret bearer can be read");
    offline(&place, &["--data-dir", "nowhere"]).must_have("error", "files", "the data directory nowhere");
}

/// Only root can give files away: run by somebody else, this tries nothing.
#[test]
fn root_may_maintain_another_users_server() {
    let place = used();
    let root = rustix::process::geteuid().is_root();
    for name in [DATA, RING, "countersign-data/countersign.db"].into_iter().filter(|_| root) {
        chown(place.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    offline(&place, &[]).must_be_well();

    // The server can still read the changed file.
    place.print(&["keys", "rotate", "--offline"]);
    let owner = fs::metadata(place.path(RING)).unwrap().uid();
    assert_eq!(owner, fs::metadata(place.path(DATA)).unwrap().uid());
    offline(&place, &[]).must_be_well();

    if root {
        chown(place.path(RING), Some(0), Some(0)).unwrap();
        offline(&place, &[]).must_have("warning", "files", "belongs to user 0, and the data directory");
    }
}

#[test]
fn foreign_key_ring_is_reported() {
    let place = used();
    place.print(&["keys", "new", "--key-ring", "other"]);
    offline(&place, &["--key-ring", "other"]).must_have("warning", "keys", "the ring lacks key");
    offline(&place, &["--key-ring", "missing"]).must_have(
        "error",
        "keys",
        "cannot read the key ring missing",
    );
    place.write("broken", "version = 1\n");
    place.set_mode("broken", 0o600);
    offline(&place, &["--key-ring", "broken"]).must_have("error", "keys", "holds no key");
    let ring = place.read("countersign-data/key-ring.toml");
    let (before, rest) = ring.split_once("active_from = \"").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    for (moment, level, part) in [
        ("2020-01-01T00:00:00Z", "note", "since 2020"),
        ("2099-01-01T00:00:00Z", "warning", "may seal before 2099"),
    ] {
        place.replace("aged", &format!("{before}active_from = \"{moment}\"{after}"), 0o600);
        offline(&place, &["--key-ring", "aged"]).must_have(level, "keys", part);
    }
}

#[test]
fn unusable_events_file_is_an_error() {
    let place = used();
    let set = |version: u32| {
        let events = Connection::open(place.path("countersign-data/countersign-events.db")).unwrap();
        events.pragma_update(None, "user_version", version).unwrap();
        events.close().unwrap();
    };
    offline(&place, &[]).must_have("ok", "events", "read and kept");
    let elsewhere = offline(&place, &["--data-dir", "nowhere"]);
    assert!(!elsewhere.has("ok", "events", ""), "{:#?}", elsewhere.findings);
    set(7);
    let says = "was written by a newer version of Countersign (events 7, this version knows 1)";
    offline(&place, &[]).must_have("error", "events", says);
    doctor(&place, &["--server", "http://127.0.0.1:9"], &[]).must_have("error", "events", says);
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200, "tokens need no events");
    beside(&place, &server, &[]).must_have("error", "events", says);
    beside(&place, &server, &[]).must_have("error", "events", "or move the file away");
    server.stop();
    set(1);
    let server = place.serve();
    beside(&place, &server, &[]).must_have("ok", "events", "read and kept");
    offline(&place, &[]).must_have("ok", "events", "read and kept");
}

/// As one on a file system that became read-only. Nothing happens that would have to be kept.
#[test]
fn unwritable_events_file_is_an_error_before_the_first_event() {
    let place = used();
    let events = Connection::open(place.path("countersign-data/countersign-events.db")).unwrap();
    events.execute_batch("BEGIN IMMEDIATE").unwrap();
    let server = place.serve();
    until("the server has tried to write", || {
        beside(&place, &server, &[]).has("error", "events", "what happens is not kept").then_some(())
    });
}

#[test]
fn unusable_store_is_an_error() {
    let place = used();
    offline(&place, &["--store", "sqlite:nowhere.db"]).must_have("error", "store", "there is no store at");
    place.write("text", &"no database, and long enough to be one.\n".repeat(100));
    offline(&place, &["--store", "sqlite:text"]).must_have("error", "store", "not a database");

    place.print(&["store", "move", "--from", "sqlite:", "--to", "sqlite:new/tokens.db"]);
    offline(&place, &[]).must_have("error", "store", "was handed over to sqlite:");
    offline(&place, &["--store", "sqlite:new/tokens.db"]).must_have("ok", "store", "0 consumed");
}

#[test]
fn damaged_store_and_future_fence_are_errors() {
    let place = used();
    let database = Connection::open(place.path("countersign-data/countersign.db")).unwrap();
    let later = "UPDATE store SET fence = 4102444800000";
    database.execute(later, ()).unwrap();
    database.execute_batch("INSERT INTO endings SELECT randomblob(16), n, 1, 0, NULL, NULL FROM (WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000) SELECT n FROM c)").unwrap();
    drop(database);
    let found = offline(&place, &[]);
    found.must_have("error", "store", "its fence stands at 2100-01-01");
    let path = place.path("countersign-data/countersign.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let found = offline(&place, &[]);
    assert!(found.has("error", "store", "damaged"), "{:#?}", found.findings);
}

#[test]
fn clock_stepped_back_is_an_error() {
    let place = used();
    let database = Connection::open(place.path("countersign-data/countersign.db")).unwrap();
    database.execute("UPDATE nodes SET seen = seen + 3600000", ()).unwrap();
    drop(database);
    offline(&place, &[]).must_have("error", "clock", "has stepped back");
}

#[test]
fn doctor_checks_certificates() {
    let place = used();
    place.write("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    place.set_mode("key.pem", 0o600);
    let certificate = |days: i64| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let day = Duration::from_hours(24);
        let now = made_at();
        params.not_before = (now - 90 * day).into();
        params.not_after = if days < 0 { now - day } else { now + u32::try_from(days).unwrap() * day }.into();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    };
    place.write("countersign.toml", "public_tls_certificate = 'cert.pem'\npublic_tls_key = 'key.pem'");
    for (days, level, part) in
        [(-1, "error", "expired at"), (9, "warning", "expires at"), (60, "ok", "is valid until")]
    {
        place.write("cert.pem", &certificate(days));
        offline(&place, &[]).must_have(level, "certificates", part);
    }
    place.write("cert.pem", "no certificate");
    offline(&place, &[]).must_have("error", "certificates", "cannot be used");
}

/// What time it is, from a file that was just made.
pub(crate) fn made_at() -> SystemTime {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().metadata().unwrap().modified().unwrap()
}

#[test]
fn public_url_to_another_server_is_an_error() {
    let place = used();
    let server = place.serve();
    for (answer, part) in [
        (
            "HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example.org/\r\ncontent-length: 0\r\n\r\n",
            "redirects to https://elsewhere",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nwelcome", "does not lead to a Countersign server"),
        (
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 2\r\n\r\nno",
            "does not lead to a Countersign server",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        beside(&place, &server, &["--public-url", &url]).must_have("error", "public URL", part);
        let request = other.join().unwrap();
        assert!(request.starts_with("GET /token/doctor/+bugtracker-handshake HTTP/1.1\r\n"), "{request}");
    }
    beside(&place, &server, &["--public-url", "http://127.0.0.1:9"]).must_have(
        "error",
        "public URL",
        "does not answer",
    );
}

#[test]
fn differing_key_files_on_one_database_are_reported() {
    let (alpha, beta) = (Place::new(), Place::new());
    let (url, schema) = (shared(), new_name());
    let store = ["--store", &*url, "--store-schema", &*schema];
    let one = alpha.serve_with(&store, &[]);
    let refused = Process::start(&mut beta.serve_command(&store, &[]), "").ended().refused(1);
    assert!(
        refused.contains("there is no key file at") && refused.contains("copy the key file"),
        "{refused}"
    );

    fs::create_dir_all(beta.path(DATA)).unwrap();
    beta.set_mode(DATA, 0o700);
    let ring = format!("{DATA}/key-ring.toml");
    beta.replace(&ring, &alpha.read(&ring), 0o600);
    let two = beta.serve_with(&store, &[]);
    let found = beside(&alpha, &one, &store);
    found.must_be_well();
    found.must_have("ok", "nodes", "2 servers on this store, all alike");
    found.must_have("ok", "durability", "is kept");
    found.must_have("ok", "store", "postgres (schema");

    one.print(&alpha, &["keys", "rotate"]);
    for (issues, redeems) in [(&one, &two), (&two, &one)] {
        assert_eq!(redeems.status(&issues.token()), 200);
    }
    let found = beside(&beta, &two, &store);
    found.must_have("ok", "keys", "2 keys in the ring");

    beta.print(&["keys", "new", "--add"]);
    two.process.signal(rustix::process::Signal::HUP);
    two.process.err.with("the key file has changed on disk and is in use");
    let found = beside(&alpha, &one, &store);
    found.must_have("warning", "nodes", "as the newest key of its key file");

    beta.print(&["keys", "new", "--key-ring", "other"]);
    let found = offline(&beta, &[&store[..], &["--key-ring", "other"]].concat());
    found.must_have("error", "keys", "is locked with key");
    let away = ["doctor", "--store", "postgres://anna:hunter2@127.0.0.1:9/none", "--offline"];
    let ended = beta.run(&away);
    assert!(ended.code == Some(1) && ended.out.contains("error    store: "), "{ended:?}");
    assert!(!ended.out.contains("hunter2") && !ended.err.contains("hunter2"), "{ended:?}");
}
