//! Callers with names: the file, the commands that change it, and a server that takes them up.

use std::fs;

use countersign_testkit::SigningKey;
use rustix::process::Signal;
use serde_json::json;

use crate::doctor::doctor;
use crate::fixture::{Place, Server};
use crate::http::{self, send};
use reqwest::Method;

const FILE: [&str; 2] = ["--file", "callers.toml"];

/// Runs `countersign callers`, which must succeed; what it prints.
fn callers(place: &Place, arguments: &[&str]) -> String {
    let ended = place.run(&[&["callers"], arguments, &FILE].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out.trim_end().to_owned()
}

fn status(server: &Server, secret: &str, method: &Method, path: &str) -> u16 {
    let secret = format!("Bearer {secret}");
    send(method.clone(), &format!("{}{path}", server.private), &[("authorization", &secret)], "").status
}

/// Has the server look at its files now, and waits until it has.
fn look_again(server: &Server) {
    let looked = "SIGHUP: looked at the key ring";
    let before = server.process.err.so_far().matches(looked).count();
    server.process.signal(Signal::HUP);
    server.process.err.with_times(before + 1, looked);
}

#[test]
fn caller_is_added_rotated_and_removed_while_the_server_runs() {
    let place = Place::new();
    let first =
        callers(&place, &["new", "worker-eu", "--scope", "issue", "--audience", "https://bugs.example.org"]);
    assert_eq!((place.mode("callers.toml"), first.len()), (0o600, 68));
    assert!(!place.read("callers.toml").contains(&first));
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    let issue = |secret: &str| status(&server, secret, &Method::POST, "/v1/tokens");
    let wrong = format!("{}x", &first[..67]);
    assert_eq!((issue(&first), issue(&wrong)), (201, 401));
    assert_eq!(status(&server, &first, &Method::GET, "/v1/keys"), 403);

    let second = callers(&place, &["rotate", "worker-eu"]);
    look_again(&server);
    assert_eq!((issue(&first), issue(&second)), (201, 201));
    let busy = place.run(&["callers", "rotate", "worker-eu", "--file", "callers.toml"]);
    assert!(busy.refused(1).contains("has two secrets already"));
    callers(&place, &["rotate", "worker-eu", "--finish"]);
    look_again(&server);
    assert_eq!((issue(&first), issue(&second)), (401, 201));

    // A broken file keeps the last good one, and no line of it is shown.
    let good = place.read("callers.toml");
    place.replace("callers.toml", &good.replace("scopes", "hUnter2"), 0o600);
    look_again(&server);
    assert_eq!(issue(&second), 201);
    let log = server.process.err.so_far();
    assert!(log.contains("keeping the callers that were read before"), "{log}");
    assert!(log.contains("callers.toml cannot be used: line") && !log.contains("hUnter2"), "{log}");
    place.replace("callers.toml", &good, 0o600);

    let ops = callers(&place, &["new", "ops", "--scope", "admin", "--scope", "events"]);
    callers(&place, &["remove", "worker-eu"]);
    look_again(&server);
    assert_eq!((issue(&second), status(&server, &ops, &Method::GET, "/v1/keys")), (401, 200));
    let log = server.process.err.so_far();
    for secret in [&first, &second, &ops] {
        assert!(!log.contains(&secret[4..]), "{log}");
    }
}

#[test]
fn callers_are_listed_without_their_secrets() {
    let place = Place::new();
    let one = callers(
        &place,
        &[
            "new",
            "worker-eu",
            "--scope",
            "issue",
            "--scope",
            "look",
            "--audience",
            "HTTPS://Bugs.example.org:443",
            "--audience",
            "https://trac.example.org/projects/*",
            "--max-lifetime",
            "90s",
            "--tokens-per-minute",
            "600",
            "--tell-trackers",
        ],
    );
    callers(&place, &["new", "ops", "--scope", "admin"]);
    let listed = callers(&place, &["list"]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            "caller     secrets  scopes                            tokens",
            "worker-eu        1  issue look                        https://bugs.example.org/ \
             https://trac.example.org/projects/*, at most 90 s, 600 a minute",
            "ops              1  admin                             -",
        ]
    );
    let document: serde_json::Value = serde_json::from_str(&callers(&place, &["list", "--json"])).unwrap();
    assert_eq!(
        document["callers"][0],
        json!({
            "name": "worker-eu", "secrets": 1, "certificates": [], "jwt": null, "scopes": ["issue", "look"],
            "audiences": ["https://bugs.example.org/", "https://trac.example.org/projects/*"],
            "max_lifetime": 90, "tokens_per_minute": 600, "tell_trackers": true,
        })
    );
    assert!(!listed.contains(&one[4..20]) && !document.to_string().contains(&one[4..20]));
}

#[test]
fn commands_find_the_file_that_is_configured() {
    let place = Place::new();
    let bare = place.refusal(&["callers", "list"], 2);
    assert!(bare.contains("no callers file is configured"), "{bare}");
    place.write("countersign.toml", "callers_file = 'who.toml'\n");
    let missing = place.refusal(&["serve"], 2);
    assert!(
        missing.contains("the callers file who.toml cannot be read") && missing.contains("callers new"),
        "{missing}"
    );
    assert_eq!(place.run(&["callers", "new", "a", "--scope", "issue"]).code, Some(0));
    assert!(place.print(&["callers", "list"]).contains("any tracker"));
    for (arguments, says) in [
        (&["new", "a", "--scope", "issue"][..], "is there twice"),
        (
            &["new", "b", "--scope", "issue", "--max-lifetime", "25h"],
            "`max_lifetime` is the longest lifetime",
        ),
        (&["remove", "b"], "has no caller `b`"),
    ] {
        let refused = place.refusal(&[&["callers"], arguments].concat(), 1);
        assert!(refused.contains(says), "{refused}");
    }
    for arguments in [
        &["new", "b"][..],
        &["new", "default", "--scope", "issue"],
        &["new", "b", "--scope", "all"],
        &["new", "b", "--scope", "issue", "--audience", "https://*.example.org/"],
        &["new", "b", "--scope", "issue", "--jwt-issuer", "https://a.example", "--jwt-audience", "x"],
        &["new", "b", "--scope", "issue", "--jwt-audience", "x", "--jwt-subject", "y"],
        &[
            "new",
            "b",
            "--scope",
            "issue",
            "--jwt-issuer",
            "http://a.example",
            "--jwt-audience",
            "x",
            "--jwt-subject",
            "y",
        ],
    ] {
        place.refusal(&[&["callers"], arguments].concat(), 2);
    }
}

/// `./test oidc` lets callers in by the tokens of a real issuer.
#[test]
fn keyless_caller_is_added_and_managed() {
    let place = Place::new();
    let jwt = [
        "--jwt-issuer",
        "https://kubernetes.default.svc.cluster.local",
        "--jwt-audience",
        "countersign",
        "--jwt-subject",
        "system:serviceaccount:trackers:worker",
        "--jwt-claim",
        "ref=a=b",
        "--jwt-jwks-file",
        "jwks.json",
    ];
    assert_eq!(callers(&place, &[&["new", "worker", "--scope", "issue"], &jwt[..]].concat()), "");
    let path = fs::canonicalize(place.path(".")).unwrap().join("jwks.json");
    let named = format!("jwks_file = \"{}\"", path.display());
    assert!(place.read("callers.toml").contains(&named), "the server may be started elsewhere");
    let refused = place.run(&["callers", "rotate", "worker", "--file", "callers.toml"]).refused(1);
    assert!(refused.contains("`worker` has no secret: it shows a JWT"), "{refused}");
    let listed = callers(&place, &["list"]);
    let line = "        JWT of https://kubernetes.default.svc.cluster.local for countersign: system:serviceaccount:trackers:worker";
    assert_eq!(listed.lines().last(), Some(line));
    let document: serde_json::Value = serde_json::from_str(&callers(&place, &["list", "--json"])).unwrap();
    assert_eq!(document["callers"][0]["jwt"]["claims"], json!({ "ref": "a=b" }));

    let ops = callers(&place, &["new", "ops", "--scope", "admin"]);
    place.replace("secret", &ops, 0o600);
    let key = SigningKey::new("one", "ES256");
    let offline = || doctor(&place, &["--offline", "--callers-file", "callers.toml"], &[]);
    offline().must_have("error", "callers", "cannot be fetched from here: its jwks_file cannot be read");
    place.write("jwks.json", &json!({ "keys": [key.jwk()] }).to_string());
    offline().must_have(
        "ok",
        "callers",
        "the issuer https://kubernetes.default.svc.cluster.local has one key",
    );
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    server.process.err.with("the issuer's keys were fetched");
    let flags =
        ["--server", &server.private, "--private-bearer-file", "secret", "--callers-file", "callers.toml"];
    doctor(&place, &flags, &[]).must_have("ok", "callers", "cluster.local has one key");
    place.set_mode("jwks.json", 0o644);
    doctor(&place, &flags, &[]).must_have("ok", "files", "their owner's alone");
    place.set_mode("jwks.json", 0o646);
    // Each time that the server takes up the callers file, it looks at what that names, too.
    look_again(&server);
    server.process.err.with("jwks.json can be changed by other users (mode 0646)");
    for found in [offline(), doctor(&place, &flags, &[])] {
        found.must_have("error", "files", "jwks.json can be changed by other users (mode 0646)");
    }
}

#[test]
fn server_beyond_this_machine_starts_with_a_callers_file() {
    let place = Place::new();
    callers(&place, &["new", "worker", "--scope", "issue"]);
    let everywhere = ["--private-listen", "0.0.0.0:0"];
    let refused = place.run(&[&["serve"], &everywhere[..]].concat()).refused(1);
    assert!(refused.contains("--callers-file"), "{refused}");
    let server = place.serve_with(&[&everywhere[..], &["--callers-file", "callers.toml"]].concat(), &[]);
    let private = server.private.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(http::get(&format!("{private}/v1/keys")).status, 401);
}

#[test]
fn callers_file_that_others_can_write_is_warned_about_while_serving() {
    let place = Place::new();
    callers(&place, &["new", "worker", "--scope", "issue"]);
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    let warned = "callers.toml can be changed by other users (mode 0666)";
    assert!(!server.process.err.so_far().contains(warned));
    // Nothing else has changed.
    place.set_mode("callers.toml", 0o666);
    let log = server.process.err.with(warned);
    let line = log.lines().find(|line| line.contains(warned)).unwrap();
    assert!(line.contains("look at the callers in it") && line.contains("chmod 600"), "{line}");
}

#[test]
fn replay_is_logged_with_the_caller() {
    let place = Place::new();
    let secret = callers(&place, &["new", "worker-eu", "--scope", "issue"]);
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    place.replace("secret", &secret, 0o600);
    let token = server.print(&place, &["token", "new", "--private-bearer-file", "secret"]);
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    let log = server.process.err.with("a token was used a second time");
    let line = log.lines().find(|line| line.contains("a second time")).unwrap();
    assert!(line.contains("caller=worker-eu"), "{line}");
}

#[test]
fn doctor_looks_at_the_callers() {
    let place = Place::new();
    let ops = callers(&place, &["new", "ops", "--scope", "admin"]);
    callers(&place, &["new", "worker", "--scope", "issue"]);
    callers(&place, &["rotate", "worker"]);
    place.replace("secret", &ops, 0o600);
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    let look = || {
        doctor(
            &place,
            &[
                "--server",
                &server.private,
                "--private-bearer-file",
                "secret",
                "--callers-file",
                "callers.toml",
            ],
            &[],
        )
    };
    let found = look();
    found.must_have("note", "callers", "whose rotation is not finished: worker");
    found.must_have("note", "callers", "have not called since this server was started: worker");
    place.set_mode("callers.toml", 0o666);
    look().must_have("error", "files", "callers.toml can be changed by other users (mode 0666)");
    place.replace("callers.toml", "hUnter2", 0o600);
    look().must_have("error", "files", "callers.toml cannot be used: line 1");

    let offline = || doctor(&place, &["--offline", "--callers-file", "callers.toml"], &[]);
    offline().must_have("error", "callers", "callers.toml cannot be used: line 1");
    place.replace("callers.toml", "", 0o600);
    offline().must_have("warning", "callers", "names nobody");
    fs::remove_file(place.path("callers.toml")).unwrap();
    offline().must_have("error", "files", "callers.toml cannot be looked at");
}
