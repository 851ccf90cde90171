//! `/metrics`, and what in `contrib/` reads it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_testkit::until;
use reqwest::Method;
use serde_json::Value;

use crate::fixture::{Place, Server};
use crate::http;

const ALERTS: &str = include_str!("../../../../contrib/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../../../contrib/grafana/dashboard.json");
const TRAC: &str = "https://trac.example.org/";
const FORM: [(&str, &str); 1] = [("content-type", "application/x-www-form-urlencoded")];
const PAGE: &str = include_str!("../../../../docs/operating.md");

/// Every series with its labels as they are printed, and its value.
fn series(server: &Server) -> BTreeMap<String, f64> {
    let answer = http::get(&format!("{}/metrics", server.private));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{answer:?}");
    assert!(answer.text.ends_with("# EOF\n"), "{}", answer.text);
    let lines = answer.text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn older_text_format_has_the_same_samples() {
    let place = Place::new();
    let server = place.serve();
    let url = format!("{}/metrics", server.private);
    let older = http::send(Method::GET, &url, &[("accept", "text/plain")], "");
    assert_eq!(older.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let names = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(names(&older.text), names(&http::get(&url).text));
    // What Prometheus itself asks for.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let newer = http::send(Method::GET, &url, &[("accept", accept)], "");
    assert!(newer.header("content-type").starts_with("application/openmetrics-text"), "{newer:?}");
}

/// The names of the series, without labels.
fn names(series: &BTreeMap<String, f64>) -> BTreeSet<&str> {
    series.keys().map(|name| name.split('{').next().unwrap()).collect()
}

/// The names of series in a text: words that begin as they do.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("countersign_") || word.starts_with("process_"))
        .collect()
}

fn outcome(outcome: &str) -> String {
    format!("countersign_handshakes_total{{outcome=\"{outcome}\"}}")
}

fn of_tracker(tracker: &str, outcome: &str) -> String {
    format!("countersign_tracker_handshakes_total{{tracker=\"{tracker}\",outcome=\"{outcome}\"}}")
}

#[test]
fn every_handshake_is_counted() {
    let place = Place::new();
    let server = place.serve_with(&["--refusals-per-minute", "3"], &[]);
    let fresh = series(&server);
    assert_eq!(fresh[&outcome("replay")].to_bits(), 0.0_f64.to_bits(), "it is there before the first one");
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    let key = [("idempotency-key", "mine")];
    let second = server.token();
    for _ in 0..2 {
        assert_eq!(http::post(&server.handshake_url(&second), &key, "").status, 200);
    }
    let bound = server.print(&place, &["token", "new", "--audience", TRAC]);
    http::post(&server.handshake_url(&bound), &FORM, "audience=https://evil.example/");
    for _ in 0..3 {
        server.redeem("cs1forged");
    }
    server.print(&place, &["token", "revoke", &bound]);
    let series = series(&server);
    for (name, count) in [
        (outcome("accepted"), 2.0),
        (outcome("repeated"), 1.0),
        (outcome("replay"), 1.0),
        (outcome("audience-mismatch"), 1.0),
        (outcome("unknown"), 3.0),
        (outcome("busy"), 0.0),
        (of_tracker(TRAC, "audience-mismatch"), 1.0),
        (of_tracker(TRAC, "accepted"), 0.0),
        (of_tracker("unbound", "accepted"), 2.0),
        (of_tracker("unbound", "replay"), 1.0),
        (format!("countersign_tracker_tokens_issued_total{{tracker=\"{TRAC}\"}}"), 1.0),
        ("countersign_handshakes_limited_total".to_owned(), 2.0),
        ("countersign_handshake_duration_seconds_count".to_owned(), 8.0),
        ("countersign_xmlrpc_duration_seconds_count".to_owned(), 2.0),
        ("countersign_json_duration_seconds_count".to_owned(), 2.0),
        ("countersign_tokens_issued_total".to_owned(), 3.0),
        ("countersign_tokens_revoked_total".to_owned(), 1.0),
        ("countersign_keys".to_owned(), 1.0),
        ("countersign_store_failures_total".to_owned(), 0.0),
        (format!("countersign_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
    ] {
        assert!((series[&name] - count).abs() < 0.5, "{name} is {}, not {count}", series[&name]);
    }
    assert!(series["countersign_store_calls_total"] >= series["countersign_store_commits_total"]);
    assert!(series["countersign_store_commits_total"] >= 3.0);
    let batches = |part: &str| series[&format!("countersign_store_batch_size_{part}")];
    assert!(batches("count") >= 3.0 && batches("sum") >= batches("count"), "{series:?}");
    assert!((batches("bucket{le=\"+Inf\"}") - batches("count")).abs() < 0.5, "{series:?}");
    assert!(series["process_resident_memory_bytes"] > 1e6 && series["process_open_fds"] > 5.0, "{series:?}");
    assert!(series["countersign_sealing_key_active_from_timestamp_seconds"] > 1.7e9);
    let fixed = series.keys().filter(|name| !name.starts_with("countersign_tracker_"));
    assert!(fixed.count() < 120, "few series, and none for each address or token: {series:?}");
}

#[test]
fn every_metric_named_in_alerts_and_docs_exists() {
    let place = Place::new();
    let server = place.serve();
    // A tracker has series from when something was done with its tokens.
    let bound = server.print(&place, &["token", "new", "--audience", TRAC]);
    assert_eq!(http::post(&server.handshake_url(&bound), &FORM, &format!("audience={TRAC}")).status, 200);
    until("the handshake is looked at", || {
        names(&series(&server)).contains("countersign_tracker_last_good_timestamp_seconds").then_some(())
    });
    let series = series(&server);
    let known = names(&series);
    // The page calls a histogram by its name, and queries name its parts. (That all are explained is for the reference.)
    let is_known = |text: &str, name: &str| {
        known.contains(name) || (text == "operating.md" && known.contains(&*format!("{name}_bucket")))
    };
    for (what, text) in [("alerts.yml", ALERTS), ("dashboard.json", DASHBOARD), ("operating.md", PAGE)] {
        let wrong: Vec<_> = named(text).into_iter().filter(|name| !is_known(what, name)).collect();
        assert!(wrong.is_empty(), "{what} names series that do not exist: {wrong:?}\nof {known:?}");
        assert!(named(text).len() > 5, "{what} names some");
    }
    let outcomes: BTreeSet<&str> =
        ALERTS.split("outcome=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for label in outcomes {
        assert!(series.contains_key(&outcome(label)), "there is no outcome {label}");
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(
        dashboard["panels"].as_array().unwrap().iter().all(|panel| !panel["targets"][0]["expr"].is_null())
    );
}

/// A label's value is a URL that a caller chose, and people paste what is between the backticks into a shell.
#[test]
fn alert_commands_contain_no_label() {
    let commands: Vec<_> = ALERTS.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    assert!(commands.len() > 5, "{commands:?}");
    assert!(commands.iter().all(|command| !command.contains("{{")), "{commands:?}");
}

#[test]
fn metrics_are_private() {
    let place = Place::new();
    place.write("bearer", "s3cret-0f9e8d7c6b5a4321\n");
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[]);
    assert_eq!(http::get(&format!("{}/metrics", server.public)).status, 404);
    assert_eq!(http::get(&format!("{}/metrics", server.private)).status, 401);
    let shown = [("authorization", "Bearer s3cret-0f9e8d7c6b5a4321")];
    let url = format!("{}/metrics", server.private);
    assert_eq!(http::send(Method::GET, &url, &shown, "").status, 200);
}
