//! `docs/reference.md`, which is written from the program itself.
//!
//! After a change that is meant, write it anew and read the difference:
//! `just generate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use countersign_core::{Denial, KindFilter, Reason};
use countersign_server::PROBLEMS;
use countersign_server::routes::{Needs, Route, private_routes, public_routes};
use countersign_testkit::until;
use expect_test::expect_file;
use reqwest::Method;
use serde_json::Value;

use crate::fixture::Place;
use crate::http;

const HEAD: &str = "\
# Reference

Every setting, route, metric, event, problem and exit code. A test writes this page from the program and compares it;
edit the code, not the page. The numbers are in [limits.md](limits.md), and every command explains itself with `--help`.
";

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
}

fn table(page: &mut String, columns: &[&str]) {
    page.push('\n');
    row(page, columns);
    writeln!(page, "|{}", "---|".repeat(columns.len())).unwrap();
}

/// The flags that a help text explains, each with its value and its explanation.
fn flags(help: &str) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in
        help.lines().skip_while(|line| *line != "Options:").skip(1).take_while(|line| !line.is_empty())
    {
        let (flag, text) = line
            .split_once("  --")
            .map_or(("", line), |(_, flag)| flag.split_once("  ").unwrap_or((flag, "")));
        if !flag.is_empty() {
            flags.push((format!("--{flag}"), text.trim().to_owned()));
        } else if let Some((_, explained)) = flags.last_mut().filter(|_| line.starts_with("         ")) {
            explained.push(' ');
            explained.push_str(text.trim());
        }
    }
    flags
}

fn settings(place: &Place, page: &mut String) {
    page.push_str(
        "\n## Settings\n\nA flag of `countersign serve` beats a variable, which beats the configuration file;\n\
         [countersign.sample.toml](countersign.sample.toml) is such a file, and says more of each.\n",
    );
    table(page, &["flag", "variable", "key", "default", "what it is"]);
    let help = place.run_with(&["serve", "--help"], &[("COLUMNS", "100")], "").printed();
    let flags = flags(&help);
    assert!(flags.len() > 20, "{flags:?}");
    for (flag, text) in flags {
        let name = flag.trim_start_matches('-');
        let name = name.split([' ', '[']).next().unwrap();
        let key = name.replace('-', "_");
        let variable = format!("`COUNTERSIGN_{}`", key.to_uppercase());
        let (text, default) =
            text.strip_suffix(']').and_then(|text| text.split_once(" [default: ")).unwrap_or((&text, "-"));
        // The file cannot name itself.
        let key = if name == "config" { "-".to_owned() } else { format!("`{key}`") };
        row(page, &[&format!("`{flag}`"), &variable, &key, default, text]);
    }
}

/// What a route does that is in no `OpenAPI` document.
fn purpose(path: &str) -> &'static str {
    match path {
        "/token/{token}/{view}" => "Redeems a token",
        "/tokens/{token}/{view}" => "The same, in the spelling of older tracker plugins",
        "/bugs" | "/bugs/" => "XML-RPC: `newBugTrackerToken`, `getLoginToken`, `revokeLoginToken`",
        "/openapi.json" => "Describes the JSON API",
        "/metrics" => "Tells Prometheus",
        "/healthz" => "Whether the server lives",
        "/readyz" => "Whether tokens can be redeemed now",
        "/" => "The operators' page",
        "/page/token" => "Its form that looks up or revokes a token",
        "/page/live" => "Its news, as server-sent events",
        "/page/events.jsonl" | "/page/events.csv" => "The events that it shows, as a file",
        "/page/style.css" | "/page/script.js" | "/page/icon/{state}" => "A part of it",
        path => panic!("say here what {path} does"),
    }
}

fn routes(document: &Value, page: &mut String) {
    let method = |route: &Route| if route.method == "*" { "POST" } else { route.method };
    page.push_str("\n## Routes\n\nOn the public listener:\n");
    table(page, &["path", "method", "what it does"]);
    for route in public_routes() {
        let shown = route.path.replace("{view}", "+bugtracker-handshake");
        row(page, &[&format!("`{shown}`"), method(&route), purpose(&route.path)]);
    }
    page.push_str(
        "\nOn the private listener; `/openapi.json` describes the JSON ones in full. With a callers file, a caller needs the scope; \
         for XML-RPC\nthat of the method: `newBugTrackerToken` takes `issue`, `getLoginToken` `look`, `revokeLoginToken` `revoke`.\n",
    );
    table(page, &["path", "method", "scope", "what it does"]);
    for route in private_routes() {
        let needs = match route.needs {
            Needs::Nothing => "none, and no credential".to_owned(),
            Needs::Caller => "any".to_owned(),
            Needs::Scope(scope) => format!("`{scope}`"),
        };
        let operation = &document["paths"][&route.path][route.method.to_lowercase()];
        let does = match operation["summary"].as_str() {
            Some(summary) => {
                summary.replace('\n', " ").split(". ").next().unwrap().trim_end_matches('.').to_owned()
            }
            None => purpose(&route.path).to_owned(),
        };
        row(page, &[&format!("`{}`", route.path), method(&route), &needs, &does]);
    }
}

/// What `/metrics` says of itself. A counter's series has `_total` behind the name that is described.
fn metrics(text: &str, page: &mut String) {
    page.push_str(
        "\n## Metrics\n\nAt `/metrics` on the private listener. Those that begin with `countersign_store_` are there if the \
         store writes in batches.\n",
    );
    table(page, &["series", "type", "what it is", "labels"]);
    let describing = |what: &str| {
        let start = format!("# {what} ");
        text.lines()
            .filter_map(move |line| line.strip_prefix(&start)?.split_once(' '))
            .collect::<BTreeMap<_, _>>()
    };
    let helps = describing("HELP");
    for (name, kind) in describing("TYPE") {
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(end)?.strip_prefix('{')?.split_once('}'))
            .flat_map(|(labels, _)| labels.split("\","))
            .filter_map(|label| Some(label.split_once('=')?.0))
            .collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        row(page, &[&format!("`{name}{end}`"), kind, helps[name].trim_end_matches('.'), &labels]);
    }
    page.push_str("\nThe outcomes of `countersign_handshakes_total`:\n");
    let outcomes: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("countersign_handshakes_total{outcome=\"")?.split('"').next())
        .collect();
    assert!(outcomes.len() > 10, "{outcomes:?}");
    let outcomes: Vec<String> = outcomes.iter().map(|outcome| format!("`{outcome}`")).collect();
    writeln!(page, "{}.", outcomes.join(", ")).unwrap();
}

fn meaning(kind: KindFilter) -> &'static str {
    match kind {
        KindFilter::Issued => "a token was issued; kept only with `record_issued`",
        KindFilter::Consumed => "a token was redeemed",
        KindFilter::Refused => "a handshake was rejected, for one of the reasons below",
        KindFilter::Revoked => "a token was taken back",
        KindFilter::Replay => "a used token was shown again; an alarm",
        KindFilter::Relay => "a token was shown by another tracker than it is bound to; an alarm",
        KindFilter::KeyRotated => "there is another key that seals, or will",
        KindFilter::KeyRevoked => "a key was taken out because it is not secret any more",
        KindFilter::FenceMoved => "every token issued before this moment is rejected; an alarm",
        KindFilter::CredentialRejected => {
            "the private API was shown a wrong secret or client certificate; an alarm when there are many"
        }
        KindFilter::CallerDenied => {
            "a named caller asked for what the callers file does not let it have; an alarm when there are many for want of a scope or a tracker"
        }
    }
}

fn events(page: &mut String) {
    page.push_str("\n## Events\n\nWhat `countersign events --kind` and `/v1/events?kind=` ask for:\n");
    table(page, &["kind", "what happened"]);
    for kind in KindFilter::ALL {
        row(page, &[&format!("`{}`", kind.label()), meaning(*kind)]);
    }
    let reasons: Vec<String> = Reason::ALL.iter().map(|reason| format!("`{}`", reason.label())).collect();
    let denials: Vec<String> = Denial::ALL.iter().map(|denial| format!("`{}`", denial.label())).collect();
    writeln!(
        page,
        "\nThe reasons of `refused` and of `caller-denied` mean what the problems of that name do:\n{}; {}.",
        reasons.join(", "),
        denials.join(", ")
    )
    .unwrap();
}

fn problems(page: &mut String) {
    page.push_str(
        "\n## Problems\n\nA refusal in JSON is a problem document (RFC 9457), whose `type` is \
         `urn:countersign:problem:` and one of these words. On the\npublic listener it is for trackers that send \
         `Accept: application/json`.\n",
    );
    table(page, &["problem", "status", "what is wrong"]);
    for (reason, status, means) in PROBLEMS {
        row(page, &[&format!("`{reason}`"), status, means]);
    }
}

fn exit_codes(place: &Place, page: &mut String) {
    page.push_str("\n## Exit codes\n");
    table(page, &["command", "exit codes"]);
    for command in [&["doctor"][..], &["check-tracker"], &["sync-check"], &["bench"], &["store", "move"], &[]]
    {
        let help = place.run_with(&[command, &["--help"]].concat(), &[("COLUMNS", "100")], "").printed();
        let (_, codes) = help.split_once("Exit codes: ").unwrap();
        let codes = codes.split("\n\n").next().unwrap().replace('\n', " ");
        let codes = codes.split_once('.').unwrap().0;
        let name = [&["countersign"], command].concat().join(" ");
        let name = if command.is_empty() { "every other command".to_owned() } else { format!("`{name}`") };
        row(page, &[&name, codes]);
    }
    page.push_str("\nA second Ctrl-C ends `countersign serve` at once, with 130.\n");
}

#[test]
fn reference_matches_the_program() {
    let place = Place::new();
    let new = ["callers", "new", "worker", "--file", "callers.toml", "--scope", "issue", "--scope", "events"];
    let secret = format!("Bearer {}", place.run(&new).out.trim_end());
    let server = place.serve_with(&["--callers-file", "callers.toml"], &[]);
    let ask = |method, path: &str, body: &str| {
        let headers = [("authorization", &*secret), ("content-type", "application/json")];
        http::send(method, &format!("{}{path}", server.private), &headers, body)
    };
    let get = |path: &str| ask(Method::GET, path, "").text;
    // Trackers and callers have series from when something was done with their tokens.
    let token = ask(Method::POST, "/v1/tokens", r#"{"audience": "https://trac.example.org/"}"#).json();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let url = server.handshake_url(token["token_id"].as_str().unwrap());
    assert_eq!(http::post(&url, &form, "audience=https://trac.example.org/").status, 200);
    assert_eq!(ask(Method::GET, "/v1/keys", "").status, 403);
    until("the handshake is looked at", || {
        get("/metrics").contains("last_good_timestamp_seconds{").then_some(())
    });
    let mut page = HEAD.to_owned();
    settings(&place, &mut page);
    routes(&serde_json::from_str(&get("/openapi.json")).unwrap(), &mut page);
    metrics(&get("/metrics"), &mut page);
    events(&mut page);
    problems(&mut page);
    exit_codes(&place, &mut page);
    expect_file!["../../../../docs/reference.md"].assert_eq(&page);
}
