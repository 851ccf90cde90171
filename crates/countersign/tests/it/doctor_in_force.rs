//! `countersign doctor` beside a running server: every fault, given to `serve` by flag, by variable and by file, is found.

mod faults;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use countersign_test_postgres::{new_name, shared};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use self::faults::{Fault, fault, faults, nothing, place};
use crate::doctor::{Found, doctor};
use crate::fixture::{ANY_PORTS, DATA, Place, Server, without_password};

const BEARER: &str = "s3cret-0f9e8d7c6b5a4321\n";
const ALARM_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
const RING: &str = "countersign-data/key-ring.toml";

/// How a setting is given.
#[derive(Clone, Copy, Debug)]
enum By {
    Flag,
    Variable,
    File,
}

const EACH: [By; 3] = [By::Flag, By::Variable, By::File];

/// Settings as arguments, variables and a configuration file.
#[derive(Default)]
struct Given {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    file: String,
}

impl By {
    fn give(self, settings: &[(&str, &str)]) -> Given {
        let mut given = Given::default();
        for (name, value) in settings {
            match self {
                Self::Flag => given.arguments.push(format!("--{}={value}", name.replace('_', "-"))),
                Self::Variable => {
                    given
                        .variables
                        .push((format!("COUNTERSIGN_{}", name.to_uppercase()), (*value).to_owned()));
                }
                Self::File => {
                    let value = match *name {
                        "trusted_proxies" => format!("['{value}']"),
                        "spent_status" | "refusals_per_minute" => (*value).to_owned(),
                        _ => format!("'{value}'"),
                    };
                    given.file.extend([name, " = ", &*value, "\n"]);
                }
            }
        }
        given
    }
}

/// What is found of a fault, with a server that was started with it, or with these settings alone if there is none.
fn look(place: &Place, given: &Given, server: Option<&Server>, bearer: Option<&str>) -> Found {
    let mut arguments: Vec<&str> = Vec::new();
    let mut variables: Vec<(&str, &str)> = Vec::new();
    if let Some(server) = server {
        arguments.extend(["--server", &server.private]);
        arguments.extend(bearer.into_iter().flat_map(|file| ["--private-bearer-file", file]));
    } else {
        arguments.push("--offline");
        arguments.extend(given.arguments.iter().map(String::as_str));
        variables.extend(given.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    }
    doctor(place, &arguments, &variables)
}

fn assert_found(found: &Found, fault: &Fault, by: By) {
    if fault.settings.iter().any(|(name, _)| *name == "trusted_proxies") {
        let given = match by {
            By::Flag => "the flag --trusted-proxies",
            By::Variable => "the variable COUNTERSIGN_TRUSTED_PROXIES",
            By::File => "countersign.toml",
        };
        assert!(found.has("error", "proxies", given), "{given}: {:#?}", found.findings);
    }
    assert!(
        found.has(fault.level, fault.check, fault.says),
        "{:?} by {by:?}: {:#?}",
        fault.settings,
        found.findings
    );
    if ["warning", "error"].contains(&fault.level) && fault.check != "certificates" {
        assert!(!found.has("ok", fault.check, ""), "{:?} by {by:?}: {:#?}", fault.settings, found.findings);
    }
}

#[test]
fn every_fault_of_a_running_server_is_found() {
    let schemas = EACH.map(|_| new_name());
    std::thread::scope(|scope| {
        for (by, schema) in EACH.into_iter().zip(&schemas) {
            scope.spawn(move || {
                for fault in faults() {
                    let place = place();
                    let (url, password) = without_password(&shared());
                    place.replace("password", &password, 0o644);
                    let settings: Vec<_> = fault
                        .settings
                        .iter()
                        .map(|(name, value)| match *value {
                            "POSTGRES" => (*name, &*url),
                            "SCHEMA" => (*name, &**schema),
                            value => (*name, value),
                        })
                        .collect();
                    let given = by.give(&settings);
                    place.write("countersign.toml", &given.file);
                    let mut command = place.command(["serve"]);
                    command.args(&given.arguments);
                    // A flag and a variable would beat what is tried.
                    let ports = ANY_PORTS.iter().filter(|(name, _)| {
                        !settings.iter().any(|(setting, _)| name.ends_with(&setting.to_uppercase()))
                    });
                    command.envs(ports.copied());
                    command.envs(given.variables.iter().map(|(name, value)| (name, value)));
                    let server = Server::start(&mut command);
                    (fault.then)(&place);
                    // This command does not know the server's own flags.
                    place.write("countersign.toml", "");
                    // All their files hold the same secret at first.
                    let asks = settings.iter().any(|(name, _)| *name == "private_bearer_file");
                    let bearer = asks.then_some("bearer");
                    let found = look(&place, &given, Some(&server), bearer);
                    assert_found(&found, &fault, by);
                }
            });
        }
    });
}

/// Faults with which no server starts, and those that can be seen in files.
#[test]
fn doctor_finds_faults_of_local_files() {
    let fitless = [("public_tls_certificate", "good.pem"), ("public_tls_key", "other.key")];
    let mut faults: Vec<Fault> = faults()
        .into_iter()
        .filter(|fault| {
            ["configuration", "proxies"].contains(&fault.check)
                || ["pem expire", "CA:TRUE"].iter().any(|part| fault.says.contains(part))
        })
        .collect();
    faults.extend([
        fault(&[("spent_status", "418")], nothing, ("error", "configuration", "401 or 410")),
        fault(&[("private_listen", "0.0.0.0:8087")], nothing, ("error", "configuration", "open to anybody")),
        fault(&fitless, nothing, ("error", "certificates", "and its key cannot be used")),
        fault(&[("private_bearer_file", "weak")], nothing, ("error", "configuration", "can be guessed")),
        fault(
            &[("private_bearer_file", "open-bearer")],
            nothing,
            ("error", "files", "open-bearer can be read by other users"),
        ),
    ]);
    for fault in faults {
        for by in EACH {
            let place = place();
            place.serve().stop();
            let given = by.give(&fault.settings);
            place.write("countersign.toml", &given.file);
            assert_found(&look(&place, &given, None, None), &fault, by);
        }
    }
}

#[test]
fn pending_settings_are_judged_too() {
    let place = place();
    let server = place.serve_with(&["--spent-status", "410"], &[]);
    let look = |text: &str| {
        place.write("countersign.toml", text);
        doctor(&place, &["--server", &server.private], &[])
    };
    look("").must_be_well();
    look("spent_status = 401").must_have(
        "note",
        "configuration",
        "was started with other settings than are read here: spent_status",
    );
    let found = look("trusted_proxies = ['0.0.0.0/0']");
    found.must_have("error", "configuration", "0.0.0.0/0: anybody may say");
    found.must_have("error", "configuration", "(as read here, and not in force)");
    found.must_have("ok", "proxies", "none is believed");
    look("colour = 'red'").must_have("error", "configuration", "there is no setting `colour`");
}

#[test]
fn commands_find_the_configured_server() {
    let place = place();
    place.write("countersign.toml", "private_listen = 'unix:private.sock'\nprivate_bearer_file = 'bearer'\n");
    let server = Server::start(
        place
            .command(["serve", "--trusted-proxies", "0.0.0.0/0"])
            .envs(ANY_PORTS.iter().filter(|(name, _)| !name.contains("PRIVATE")).copied()),
    );
    doctor(&place, &[], &[]).must_have("error", "proxies", "0.0.0.0/0");
    drop(server);
    doctor(&place, &[], &[]).must_have("note", "server", "only what can be seen from here was checked");
}

#[test]
fn silent_server_gets_no_all_clear() {
    let place = place();
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[]);
    for (url, level, says, remedy) in [
        ("http://127.0.0.1:9", "error", "no Countersign server answers", "--server URL"),
        (&*server.private, "error", "Show the private API's bearer token", "--private-bearer-file FILE"),
        (&*server.public, "error", "is not the private API", "name its private API"),
    ] {
        let found = doctor(&place, &["--server", url], &[]);
        found.must_have(level, "server", says);
        found.must_have(level, "server", remedy);
        found.must_have("note", "server", "so only what can be seen from here was checked");
        assert!(!found.has("ok", "server", ""), "{:#?}", found.findings);
    }
}

#[test]
fn older_server_gets_no_all_clear() {
    let place = Place::new();
    place.serve().stop();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = match request.split(' ').nth(1) {
                Some("/v1/keys") => ("200 OK", r#"{"keys": []}"#),
                Some("/v1/nodes") => ("200 OK", r#"{"nodes": []}"#),
                Some("/v1/store") => ("200 OK", r#"{"kind": "sqlite"}"#),
                _ => ("404 Not Found", "Not found.\n"),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let found = doctor(&place, &["--server", &url], &[]);
    found.must_have("warning", "server", "of an older version, which does not say what is in force");
    assert!(!found.has("ok", "server", ""), "{:#?}", found.findings);
}

#[test]
fn moved_database_is_detected() {
    let place = Place::new();
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
    fs::rename(place.path("countersign-data/countersign.db"), place.path("elsewhere.db")).unwrap();
    // A recent write counts as proof for a second.
    let mut found = doctor(&place, &["--server", &server.private], &[]);
    while found.has("ok", "server", "") {
        found = doctor(&place, &["--server", &server.private], &[]);
    }
    found.must_have("error", "server", "is not ready to issue and redeem tokens: ");
    found.must_have("error", "server", "countersign.db is not there any more");
    found.must_have("error", "store", "if it was moved, put it back");
}

#[test]
fn servers_report_contains_no_secret() {
    let place = place();
    let with_password = shared();
    let password = format!(":{}@", without_password(&with_password).1);
    let schema = new_name();
    let server = place.serve_with(
        &["--store", &with_password, "--store-schema", &schema, "--private-bearer-file", "bearer"],
        &[
            ("COUNTERSIGN_ALARM_WEBHOOK", "http://127.0.0.1:9/hunter2"),
            ("COUNTERSIGN_ALARM_SECRET_FILE", "alarm"),
            ("COUNTERSIGN_TRACES", "http://127.0.0.1:9/hunter2"),
        ],
    );
    let shown = format!("Bearer {}", BEARER.trim());
    let url = format!("{}/v1/server", server.private);
    let report = crate::http::send(reqwest::Method::GET, &url, &[("authorization", &shown)], "");
    assert_eq!(report.status, 200);
    assert!(report.text.contains("\"alarm_webhook\",\"value\":\"http://127.0.0.1:9\""), "{}", report.text);
    for secret in ["hunter2", &*password, BEARER.trim(), ALARM_SECRET.trim()] {
        assert!(!report.text.contains(secret), "{}", report.text);
    }
    for (name, source) in [("store", "flag"), ("traces", "variable"), ("issuer", "default")] {
        let settings = report.json()["settings"].as_array().unwrap().clone();
        let setting = settings.iter().find(|setting| setting["name"] == name).unwrap();
        assert_eq!(setting["source"], source, "{name}");
    }
    let ring = fs::read_to_string(place.path(RING)).unwrap();
    let secret = ring.split("secret = \"").nth(1).unwrap().get(..12).unwrap();
    assert!(!report.text.contains(secret), "a key");
    assert!(report.text.contains(&place.name(DATA)), "paths are absolute");
}

/// `openssl req -x509` makes authorities, and people give one to a server and to its callers.
#[test]
fn named_self_signed_certificate_is_trusted() {
    let place = place();
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    place.write("own.pem", &params.self_signed(&key).unwrap().pem());
    place.replace("own.key", &key.serialize_pem(), 0o600);
    let tls = |name: &str| {
        ["certificate", "key"]
            .map(|what| format!("--private-tls-{what}={name}.{}", if what == "key" { "key" } else { "pem" }))
    };
    let serve = |name: &str| {
        let tls = tls(name);
        place.serve_with(&tls.each_ref().map(String::as_str), &[])
    };
    let server = serve("own");
    let found = doctor(&place, &["--server", &server.private, "--server-ca", "own.pem"], &[]);
    found.must_have("ok", "server", "it answers");
    found.must_have("warning", "certificates", "own.pem is an authority's (CA:TRUE)");
    let trusted = [("SSL_CERT_FILE", "own.pem")];
    doctor(&place, &["--server", &server.private], &trusted).must_have("ok", "server", "it answers");
    for ca in [&[][..], &["--server-ca", "good.pem"]] {
        let found = doctor(&place, &[&["--server", &server.private], ca].concat(), &[]);
        found.must_have(
            "error",
            "server",
            "cannot speak TLS with the server: invalid peer certificate: it is an authority's (CA:TRUE)",
        );
        found.must_have("error", "server", "name the authority of its certificate (--server-ca)");
    }
    let log = server.stop().err;
    assert!(log.contains("the TLS certificate is an authority's"), "{log}");
    let server = serve("expired");
    let found = doctor(&place, &["--server", &server.private, "--server-ca", "expired.pem"], &[]);
    found.must_have("error", "server", "certificate expired");
    let log = server.stop().err;
    assert!(log.contains("the TLS certificate has expired, and clients refuse it"), "{log}");
}

/// What is set for other programs, or not as libpq wants it.
#[test]
fn ignored_libpq_variables_are_reported() {
    let place = Place::new();
    let (url, password) = without_password(&shared());
    place.replace("password", &password, 0o600);
    let schema = new_name();
    let store = ["--store", &url, "--store-schema", &schema, "--store-password-file", "password"];
    let server = place.serve_with(&store, &[("PGSSLCERT", "client.crt"), ("PGHOST", "db.example")]);
    let found = doctor(&place, &["--server", &server.private], &[]);
    for variable in ["PGSSLCERT", "PGHOST"] {
        found.must_have(
            "warning",
            "configuration",
            &format!("the variable {variable} of libpq changes nothing"),
        );
    }
    let log = server.stop().err;
    assert!(log.contains("the variable PGHOST of libpq changes nothing"), "{log}");

    place.write(".pgpass", &format!("*:*:*:*:{password}"));
    let look = || doctor(&place, &[&["--offline"][..], &store[..4]].concat(), &[]);
    for (mode, is_passed_over) in [(0o640, true), (0o600, false)] {
        place.set_mode(".pgpass", mode);
        let passed_over =
            look().has("warning", "configuration", ".pgpass changes nothing: others can read it (mode 0640)");
        assert_eq!(passed_over, is_passed_over, "{mode:o}");
    }
}

/// A directory that a group shares on purpose stays its.
#[test]
fn directory_remedy_keeps_group_access() {
    let place = Place::new();
    let server = place.serve();
    place.set_mode(DATA, 0o775);
    let found = doctor(&place, &["--server", &server.private], &[]);
    let lines: Vec<_> = found.findings.iter().filter(|line| line.contains("the data directory")).collect();
    assert!(matches!(*lines, [line] if line.contains("run `chmod o-rwx /")), "{lines:#?}");
    drop(server);
    let found = doctor(&place, &["--offline"], &[]);
    let lines: Vec<_> = found.findings.iter().filter(|line| line.contains("the data directory")).collect();
    assert!(matches!(*lines, [line] if line.contains("run `chmod o-rwx ")), "{lines:#?}");
}

#[test]
fn doctor_checks_the_servers_files_from_any_directory() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
    let found = doctor(&elsewhere, &["--server", &server.private], &[]);
    found.must_be_well();
    found.must_have("ok", "store", "1 consumed and 0 revoked");
    found.must_have("ok", "keys", "1 key in the ring");
}
