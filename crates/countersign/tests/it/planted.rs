//! No secret is printed, whatever setting it was put into and however the file that holds it is broken.

use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::fixture::{Place, without_password};
use crate::process::EndedProcess;

/// Looked for in everything that is printed.
const SECRET: &str = "hUnter2sEcret";

fn assert_hidden(ended: &EndedProcess, what: &str) {
    let printed = format!("{}{}", ended.out, ended.err);
    assert!(!printed.contains("hUnter2") && !printed.contains("sEcret"), "{what}: {printed}");
    // An error that prints bytes prints numbers: 85, 110 is "Un".
    assert!(!printed.contains("85, 110"), "{what}: {printed}");
    assert!(!ended.err.is_empty(), "{what}: a reason is given");
}

/// Every flag of `serve`, as its help lists them.
fn flags(place: &Place) -> Vec<String> {
    let help = place.print(&["serve", "--help"]);
    let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let flags: Vec<String> = flags
        .map(|flag| flag.split([' ', '[']).next().unwrap_or_default().to_owned())
        .filter(|flag| !["config", "help"].contains(&&**flag))
        .collect();
    assert!(flags.len() > 25, "{help}");
    flags
}

#[test]
fn secret_in_any_setting_stays_hidden() {
    let place = Place::new();
    // The last setting is always wrong, so that no server starts.
    let spoiled = ["--trace-ratio", "2"];
    for flag in flags(&place) {
        let key = flag.replace('-', "_");
        let variable = format!("COUNTERSIGN_{}", key.to_uppercase());
        for value in [SECRET.to_owned(), format!("postgres://cs:{SECRET}@db/x"), format!("cs:p@{SECRET}@db")]
        {
            let arguments = [&["serve"], &spoiled[..]].concat();
            let arguments = if flag == "trace-ratio" { &arguments[..1] } else { &arguments[..] };
            let ended = place.run_with(arguments, &[(&variable, &value)], "");
            assert_hidden(&ended, &variable);
            place.write("named.toml", &format!("{key} = \"{value}\"\n"));
            let ended = place.run(&[arguments, &["--config", "named.toml"]].concat());
            assert_hidden(&ended, &key);
            place.write("named.toml", &format!("{key}x = \"{value}\"\n"));
            for command in
                [&["serve"][..], &["store", "stats", "--offline"], &["keys", "rotate", "--offline"]]
            {
                let ended = place.run(&[command, &["--config", "named.toml"]].concat());
                assert_hidden(&ended, &key);
                assert!(ended.err.contains(&format!("`{key}x`")), "{}", ended.err);
            }
            let ended = place.run(&["doctor", "--json", "--config", "named.toml"]);
            let printed = format!("{}{}", ended.out, ended.err);
            assert!(!printed.contains("hUnter2"), "{printed}");
            assert!(printed.contains(&format!("`{key}x`")), "{printed}");
        }
    }
    for flag in ["--store", "--public-url", "--alarm-webhook", "--traces"] {
        for value in [format!("x://cs:p@{SECRET}@db:port/x"), SECRET.to_owned()] {
            assert_hidden(&place.run(&["serve", flag, &value, spoiled[0], spoiled[1]]), flag);
        }
    }
    assert_hidden(&place.run(&["serve", &format!("postgres://cs:{SECRET}@db/x")]), "an argument too many");
}

/// Every way in which the line ends of a PEM file get lost, and what else happens to it.
fn broken_pem() -> Vec<String> {
    let whole = format!("-----BEGIN PRIVATE KEY-----\nAAAA{SECRET}AAA\n-----END PRIVATE KEY-----\n");
    vec![
        whole.replace('\n', "\\n"),
        whole.replace('\n', " "),
        whole.replace('\n', ""),
        whole.replace("-----END PRIVATE KEY-----\n", ""),
        whole.replace("AAAA", "AA-A"),
        whole.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        whole.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----"),
        format!("{SECRET}\n"),
        whole,
    ]
}

#[test]
fn broken_private_key_stays_hidden() {
    let place = Place::new();
    for pem in broken_pem() {
        place.write("broken.pem", &pem);
        let tls = ["--public-tls-certificate", "broken.pem", "--public-tls-key", "broken.pem"];
        assert_hidden(&place.run(&[&["serve"], &tls[..]].concat()), &pem);
        for flag in ["--client-identity", "--server-ca"] {
            let ended = place.run(&["token", "new", "--server", "https://127.0.0.1:1", flag, "broken.pem"]);
            assert_hidden(&ended, &pem);
        }
        let login = ["login", "trac", "https://127.0.0.1:1", "--ca-file", "broken.pem"];
        assert_hidden(&place.run(&login), &pem);
        let store =
            ["--store", "postgres://a@127.0.0.1:1/b?sslmode=require", "--store-ca-file", "broken.pem"];
        assert_hidden(&place.run(&[&["serve"], &store[..]].concat()), &pem);
    }
}

#[test]
fn broken_private_key_stays_hidden_at_reload() {
    let place = Place::new();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place.write("cert.pem", &certified.cert.pem());
    place.write("key.pem", &certified.signing_key.serialize_pem());
    let tls = ["--public-tls-certificate", "cert.pem", "--public-tls-key", "key.pem"];
    let server = place.serve_with(&tls, &[]);
    server.process.signal(Signal::HUP);
    server.process.err.with("the TLS files were read again and are in use");
    let broken = broken_pem();
    for (n, pem) in broken.iter().enumerate() {
        place.replace("key.pem", pem, 0o600);
        // It is read by itself within two seconds, and at once when it is asked for.
        server.process.err.with_times(n + 1, "the new TLS files cannot be used");
    }
    server.process.signal(Signal::HUP);
    server.process.err.with_times(broken.len() + 1, "the new TLS files cannot be used");
    server
        .process
        .err
        .with_times(2, "SIGHUP: looked at the key ring, the TLS files and the bearer file again");
    assert_hidden(&server.stop(), "a reload");
}

/// Every way in which a database's password gets to a server but for the settings, and what is wrong with each.
#[test]
fn password_of_libpq_stays_hidden() {
    let (database, _) = without_password(&countersign_test_postgres::shared());
    let away = "postgres://cs@127.0.0.1:1/x";
    let lines = [
        format!("*:*:*:*:{SECRET}\n"),
        format!("*:*:*:*:{SECRET}"),
        format!("{SECRET}:*:*:*:{SECRET}\n"),
        format!("{SECRET}\n*:*:{SECRET}\n\0\u{fffd}:\\\n"),
        format!("*:*:*:*:{SECRET}:{SECRET}\\\n"),
    ];
    let commands = [
        &["serve"][..],
        &["store", "stats", "--offline"],
        &["store", "migrate"],
        &["keys", "rotate", "--offline"],
        &["doctor", "--json"],
    ];
    for url in [&*database, away] {
        let store = ["--store", url, "--store-schema", "planted"];
        for command in commands {
            let arguments = [command, &store[..]].concat();
            let place = Place::new();
            assert_planted(&place, &arguments, &[("PGPASSWORD", SECRET)]);
        }
        for variable in ["PGSSLMODE", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS", "PGCHANNELBINDING"] {
            assert_planted(&Place::new(), &[&["serve"], &store[..]].concat(), &[(variable, SECRET)]);
        }
        for (line, mode) in lines.iter().flat_map(|line| [(line, 0o600), (line, 0o644)]) {
            let place = Place::new();
            for (file, variables) in [(".pgpass", &[][..]), ("pass", &[("PGPASSFILE", "pass")])] {
                place.write(file, line);
                place.set_mode(file, mode);
                assert_planted(&place, &[&["serve"], &store[..]].concat(), variables);
            }
        }
    }
}

/// Runs a command at every level of detail that the log has.
fn assert_planted(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) {
    let variables = [variables, &[("RUST_LOG", "trace")]].concat();
    let ended = place.run_with(arguments, &variables, "");
    assert_ne!(ended.code, Some(0), "{arguments:?} {variables:?}");
    let printed = format!("{}{}", ended.out, ended.err);
    assert!(!printed.contains("hUnter2") && !printed.contains("sEcret"), "{arguments:?}: {printed}");
    assert!(!printed.contains("85, 110") && !printed.is_empty(), "{arguments:?}: {printed}");
}

#[test]
fn unknown_variable_is_warned_about() {
    let server = Place::new().serve_with(&[], &[("COUNTERSIGN_STROE", SECRET)]);
    let log = server.process.err.with("INFO ready");
    assert!(log.contains("COUNTERSIGN_STROE") && log.contains("COUNTERSIGN_STORE"), "{log}");
    assert_hidden(&server.stop(), "an unknown variable");
}

#[test]
fn unreadable_configuration_is_refused() {
    let place = Place::empty();
    symlink("nowhere.toml", place.path("countersign.toml")).unwrap();
    let refused = place.refusal(&["serve"], 2);
    assert!(refused.contains("cannot read the configuration file countersign.toml"), "{refused}");
    assert!(!place.path("countersign-data").exists(), "nothing was begun");
}
