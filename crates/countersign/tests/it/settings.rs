//! Flags, variables, the configuration file, and their order.

use crate::fixture::{Place, lifetime};
use crate::http;

/// What a server's behaviour tells about three of its settings.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    issuer: String,
    token_lifetime: i64,
    spent_status: u16,
}

fn facts(issuer: &str, token_lifetime: i64, spent_status: u16) -> Facts {
    Facts { issuer: issuer.to_owned(), token_lifetime, spent_status }
}

fn observe(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Facts {
    let server = place.serve_with(arguments, variables);
    let token = server.token();
    assert_eq!(server.status(&token), 200);
    let spent_status = server.status(&token);
    let shown = server.look(&token);
    let token_lifetime = lifetime(&shown).as_secs();
    let title = shown["title"].as_str().unwrap().to_owned();
    assert_eq!(http::member(&http::call(&server.private, "getLoginToken", &[&token]), "title"), title);
    let issuer = title.strip_suffix(" is authenticating itself with a remote bug tracker.").unwrap();
    facts(issuer, token_lifetime, spent_status)
}

const FILE: &str = "issuer = 'File'\ntoken_lifetime = '61s'\nspent_status = 410\n";
const VARIABLES: [(&str, &str); 3] = [
    ("COUNTERSIGN_ISSUER", "Variable"),
    ("COUNTERSIGN_TOKEN_LIFETIME", "2m"),
    ("COUNTERSIGN_SPENT_STATUS", "401"),
];
const FLAGS: [&str; 6] = ["--issuer", "Flag", "--token-lifetime", "1h", "--spent-status", "410"];

#[test]
fn flag_variable_file_default_take_precedence_in_order() {
    let place = Place::new();
    assert_eq!(observe(&place, &[], &[]), facts("Launchpad", 300, 401));
    place.write("countersign.toml", FILE);
    assert_eq!(observe(&place, &[], &[]), facts("File", 61, 410));
    assert_eq!(observe(&place, &[], &VARIABLES), facts("Variable", 120, 401));
    assert_eq!(observe(&place, &FLAGS, &VARIABLES), facts("Flag", 3600, 410));
    assert_eq!(observe(&place, &FLAGS[..2], &VARIABLES[1..2]), facts("Flag", 120, 410), "each by itself");
}

#[test]
fn named_file_replaces_the_default_one() {
    let place = Place::new();
    place.write("countersign.toml", "issuer = 'Here'\nspent_status = 410\n");
    place.write("other.toml", "issuer = 'Other'\n");
    place.write("another.toml", "issuer = 'Another'\n");
    let variable = [("COUNTERSIGN_CONFIG", "other.toml")];
    assert_eq!(observe(&place, &[], &variable), facts("Other", 300, 401));
    assert_eq!(observe(&place, &["--config", "another.toml"], &variable), facts("Another", 300, 401));
}

#[test]
fn unusable_configuration_is_refused_with_its_reason() {
    for (text, says) in [
        ("colour = 'red'", &["line 1", "there is no setting `colour`"][..]),
        ("[server]\nissuer = 'A'", &["`server`"]),
        ("spent_status = 404", &["spent_status must be 401 or 410, not 404"]),
        ("spent_status = 'gone'", &["spent_status"]),
        ("token_lifetime = '25h'", &["token_lifetime must be whole seconds", "86400"]),
        ("retention = '1s'", &["retention must be whole seconds", "120"]),
        ("public_url = 'ftp://a.example'", &["public_url must be https://HOST"]),
        (
            "traces = 'here'",
            &["line 1", "`traces` does not take this value", "The base URL of the OpenTelemetry collector"],
        ),
        ("issuer = ''", &["issuer must be a name"]),
        ("issuer = ", &["line 1"]),
    ] {
        let place = Place::new();
        place.write("named.toml", text);
        let refusal = place.refusal(&["serve", "--config", "named.toml"], 2);
        assert!(says.iter().all(|part| refusal.contains(part)), "{text}: {refusal}");
        assert!(!place.path("countersign-data").exists(), "{text}: nothing was begun");
    }
    let refusal = Place::new().refusal(&["serve", "--config", "missing.toml"], 2);
    assert!(refusal.contains("cannot read the configuration file missing.toml"), "{refusal}");
}

#[test]
fn unusable_flags_are_refused_with_a_reason() {
    let place = Place::new();
    for (arguments, says) in [
        (&["--spent-status", "404"][..], "spent_status must be 401 or 410, not 404"),
        (&["--spent-status", "gone"], "'gone' for '--spent-status <STATUS>'"),
        (&["--token-lifetime", "300"], "write a number and its unit, such as 90s, 5m or 24h"),
        (&["--token-lifetime", "25h"], "at most 86400 s"),
        (&["--retention", "1m"], "retention must be whole seconds, at least 120 s"),
        (&["--public-listen", "localhost"], "'localhost' for '--public-listen"),
        (&["--private-listen", "8087"], "'8087' for '--private-listen"),
        (&["--public-url", "here"], "'…' for '--public-url"),
        (&["--public-url", "here"], "write one such as https://tokens.example.org"),
        (&["--public-url", "https://a.example/?b"], "public_url must be"),
        (&["--require-audience=maybe"], "--require-audience"),
        (&["--log-format", "xml"], "'xml' for '--log-format"),
        (&["--traces", "here"], "'…' for '--traces <URL>': not a URL"),
        (&["--alarm-webhook", "here"], "'…' for '--alarm-webhook <URL>': not a URL"),
        (&["--traces", "grpc://127.0.0.1:4317"], "traces must be the base URL of an OpenTelemetry collector"),
        (&["--traces", "http://anna:secret@127.0.0.1:4318"], "without a user name"),
        (&["--trace-ratio", "2"], "trace_ratio must be a number from 0 to 1"),
        (&["--trace-ratio", "few"], "'few' for '--trace-ratio"),
        (&["--issuer", "two\nlines"], "issuer must be a name in one line"),
        (&["--colour"], "unexpected argument '--colour' found"),
        (&["now"], "unexpected argument 'now' found"),
    ] {
        let mut all = vec!["serve"];
        all.extend(arguments);
        let refusal = place.refusal(&all, 2);
        assert!(refusal.contains(says), "{arguments:?}: {refusal}");
    }
    assert_eq!(place.files("."), ["countersign.toml"], "nothing was begun");
}

#[test]
fn invalid_variable_is_refused_like_its_flag() {
    let ended = Place::new().run_with(&["serve"], &[("COUNTERSIGN_REFUSALS_PER_MINUTE", "many")], "");
    let refusal = ended.refused(2);
    assert!(refusal.contains("for 'the variable COUNTERSIGN_REFUSALS_PER_MINUTE'"), "{refusal}");
    assert!(!refusal.contains("many"), "a variable's value can be a secret: {refusal}");
}

/// A variable that is set to nothing is mostly one that was to be set to something.
#[test]
fn empty_variable_is_not_the_default() {
    let place = Place::new();
    let reference = include_str!("../../../../docs/reference.md");
    // The table of settings: flag, variable, key.
    let variables: Vec<_> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `--")?.split('`').nth(2))
        .filter(|name| name.starts_with("COUNTERSIGN_"))
        .collect();
    assert!(variables.len() > 25, "{variables:?}");
    for variable in &variables {
        let refusal = place.run_with(&["serve"], &[(variable, "")], "").refused(2);
        assert!(!refusal.is_empty(), "{variable}");
    }
    for variable in ["COUNTERSIGN_SERVER", "COUNTERSIGN_PRIVATE_BEARER_FILE", "COUNTERSIGN_SERVER_CA"] {
        place.run_with(&["token", "new"], &[(variable, "")], "").refused(2);
    }
    assert_eq!(place.files("."), ["countersign.toml"], "nothing was begun");
}

#[test]
fn unbound_tokens_can_be_forbidden() {
    let place = Place::new();
    for (arguments, forbidden) in [
        (&["--require-audience"][..], true),
        (&["--require-audience=true"], true),
        (&["--require-audience=false"], false),
    ] {
        let server = place.serve_with(arguments, &[("COUNTERSIGN_REQUIRE_AUDIENCE", "false")]);
        let answer = http::post(&format!("{}/v1/tokens", server.private), &[], "");
        assert_eq!(answer.status, if forbidden { 400 } else { 201 }, "{arguments:?}");
        let fault = http::call(&server.private, "newBugTrackerToken", &[]);
        assert_eq!(fault.contains("only tokens that are bound"), forbidden, "{arguments:?}: {fault}");
        server.print(&place, &["token", "new", "--audience", "https://trac.example.org/"]);
    }
}

#[test]
fn refused_address_gets_429_and_valid_token_works() {
    let place = Place::new();
    let server = place.serve_with(&["--refusals-per-minute", "2"], &[]);
    assert_eq!([1, 2, 3].map(|_| server.status("cs1unknown")), [404, 404, 429]);
    assert_eq!(server.status(&server.token()), 200);
}

#[test]
fn tokens_carry_the_public_url_that_is_set() {
    let place = Place::new();
    let server = place.serve_with(&["--public-url", "https://lp.example.org/auth/"], &[]);
    let token = server.token();
    let shown = server.look(&token);
    assert_eq!(shown["canonical_url"], format!("https://lp.example.org/auth/token/{token}"));
    assert!(!server.process.err.with("INFO ready").contains("without TLS"));

    let place = Place::new();
    let server = place.serve_with(&["--public-url", "http://lp.example.org"], &[]);
    assert!(server.process.err.with("INFO ready").contains("without TLS"), "and warns if it is not https");
}

#[test]
fn data_directory_and_its_files_can_be_elsewhere() {
    let place = Place::new();
    place.write("countersign.toml", "data_dir = 'from-file'\nkey_ring = 'ring.toml'\n");
    place.serve().stop();
    assert_eq!(place.mode("ring.toml"), 0o600);
    assert_eq!(place.mode("from-file"), 0o700);
    assert!(!place.path("from-file/key-ring.toml").exists());
    assert!(place.path("from-file/countersign.db").exists());
}
