//! `countersign token`.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::fixture::{Place, Server, lifetime};
use crate::http;

const TRAC: &str = "https://trac.example.org/";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn place_and_server() -> (Place, Server) {
    let place = Place::new();
    let server = place.serve();
    (place, server)
}

#[test]
fn new_prints_only_the_token() {
    let (place, server) = place_and_server();
    let token = server.print(&place, &["token", "new"]);
    assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{token}");
    assert_eq!(server.status(&token), 200);
    let named = place.run_with(&["token", "new"], &[("COUNTERSIGN_SERVER", &server.private)], "");
    assert_eq!(server.status(&named.printed()), 200);
}

#[test]
fn new_describes_the_token_as_json() {
    let (place, server) = place_and_server();
    let token = server.json(&place, &["token", "new", "--json"]);
    let text = token["token_id"].as_str().unwrap();
    assert_eq!(token, server.look(text));
    assert_eq!(token["title"], "Launchpad is authenticating itself with a remote bug tracker.");
    assert_eq!((&token["status"], &token["date_consumed"]), (&json!("live"), &json!(false)));
    assert_eq!(token["handshake_url"], server.handshake_url(text));
    assert_eq!(lifetime(&token), SignedDuration::from_mins(5));
}

#[test]
fn bound_token_is_redeemed_by_its_tracker_only() {
    let (place, server) = place_and_server();
    let token = server.print(&place, &["token", "new", "--audience", "HTTPS://Trac.Example.ORG:443"]);
    assert_eq!(server.look(&token)["audience"], TRAC);
    let redeem = |body: &str| http::post(&server.handshake_url(&token), &[FORM], body).status;
    assert_eq!(redeem(""), 403);
    assert_eq!(redeem("audience=https://evil.example/"), 403);
    assert_eq!(redeem("audience=https://trac.example.org"), 200);

    let said = server.run(&place, &["token", "new", "--audience", "trac.example.org"]).refused(1);
    assert!(said.contains("absolute URL") && said.contains("https://"), "{said}");
}

#[test]
fn empty_audience_issues_no_token() {
    let (place, server) = place_and_server();
    for audience in ["", " "] {
        let said = server.run(&place, &["token", "new", "--audience", audience]).refused(2);
        assert!(said.contains("--audience") && said.contains("base URL"), "{said}");
        let login = ["login", "trac", "http://127.0.0.1:9", "--audience", audience];
        assert!(server.run(&place, &login).refused(2).contains("--audience"));
    }
}

#[test]
fn token_has_the_requested_lifetime() {
    let (place, server) = place_and_server();
    for (ttl, seconds) in [("90s", 90), ("1h", 3600), ("24h", 86400)] {
        let token = server.json(&place, &["token", "new", "--ttl", ttl, "--json"]);
        assert_eq!(lifetime(&token), SignedDuration::from_secs(seconds), "{ttl}");
    }
    for (ttl, code, says) in [
        ("24h1s", 1, "from 1 to 86400 seconds"),
        ("0s", 1, "from 1 to 86400 seconds"),
        ("300", 2, "write a number and its unit, such as 90s, 5m or 24h"),
        ("1500ms", 2, "give whole seconds"),
        ("-5m", 2, "give whole seconds"),
    ] {
        let said = server.run(&place, &["token", "new", &format!("--ttl={ttl}")]).refused(code);
        assert!(said.contains(says), "{ttl}: {said}");
    }
}

#[test]
fn claims_reach_the_tracker_that_redeems() {
    let (place, server) = place_and_server();
    let claims = json!({"project": "démo", "ids": [1, 2]});
    let token = server.print(&place, &["token", "new", "--claims", &claims.to_string()]);
    assert_eq!(server.look(&token)["claims"], claims);
    let answer = http::post(&server.handshake_url(&token), &[("accept", "application/json")], "");
    assert_eq!((answer.status, &answer.json()["claims"]), (200, &claims));

    let long = json!({ "a": "x".repeat(1024) }).to_string();
    for (claims, code, says) in [
        ("demo", 2, "--claims is not JSON"),
        ("[1]", 2, "--claims must be a JSON object, such as"),
        (&*long, 1, "1024 is the most a token can carry"),
    ] {
        let said = server.run(&place, &["token", "new", "--claims", claims]).refused(code);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn show_reports_status_without_consuming() {
    let (place, server) = place_and_server();
    let token = server.print(&place, &["token", "new", "--claims", "{\"a\": 1}"]);
    let live = server.json(&place, &["token", "show", "--json", &token]);
    for _ in 0..3 {
        assert_eq!(server.json(&place, &["token", "show", "--json", &token]), live);
    }
    let text = server.print(&place, &["token", "show", &token]);
    for line in [
        format!("id             {}", live["id"].as_str().unwrap()),
        "status         live".to_owned(),
        "title          Launchpad is authenticating itself with a remote bug tracker.".to_owned(),
        "audience       -".to_owned(),
        "claims         {\"a\":1}".to_owned(),
        format!("date created   {}", live["date_created"].as_str().unwrap()),
        format!("date expires   {}", live["date_expires"].as_str().unwrap()),
        "date consumed  -".to_owned(),
        format!("handshake url  {}", server.handshake_url(&token)),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} is not in:\n{text}");
    }
    assert_eq!(server.status(&token), 200, "looking did not consume it");
    let consumed = server.json(&place, &["token", "show", "--json", &token]);
    assert_eq!(consumed["status"], "consumed");
    let text = server.print(&place, &["token", "show", &token]);
    assert!(
        text.contains(&format!("date consumed  {}", consumed["date_consumed"].as_str().unwrap())),
        "{text}"
    );
}

#[test]
fn token_can_come_from_standard_input() {
    let (place, server) = place_and_server();
    let token = server.token();
    let arguments = |command| ["token", command, "-", "--server", &server.private];
    let shown = place.run_with(&arguments("show"), &[], &format!(" {token}\r\n")).printed();
    assert!(shown.contains("status         live"), "{shown}");
    assert_eq!(place.run_with(&arguments("revoke"), &[], &token).printed(), "revoked");
    assert_eq!(server.status(&token), 401);
}

#[test]
fn revoke_succeeds_for_live_tokens_only() {
    let (place, server) = place_and_server();
    let (token, consumed) = (server.token(), server.token());
    assert_eq!(server.status(&consumed), 200);
    assert_eq!(server.print(&place, &["token", "revoke", &token]), "revoked");
    assert_eq!(server.status(&token), 401);
    assert_eq!(server.look(&token)["status"], "revoked");
    for token in [&token, &consumed] {
        let said = server.run(&place, &["token", "revoke", token]).refused(1);
        assert_eq!(said, "countersign: the token was not live any more, so there was nothing to revoke\n");
        let ended = server.run(&place, &["token", "revoke", "--json", token]);
        assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), json!({ "revoked": false }));
        assert_eq!(ended.code, Some(1));
    }
    let other = server.token();
    assert_eq!(server.json(&place, &["token", "revoke", "--json", &other]), json!({ "revoked": true }));
}

#[test]
fn foreign_or_invented_token_is_unknown() {
    let (place, server) = place_and_server();
    let foreign = {
        let place = Place::new();
        place.serve().token()
    };
    let mut mistyped = server.token();
    mistyped.replace_range(20..21, if &mistyped[20..21] == "a" { "b" } else { "a" });
    for token in [&*foreign, &mistyped, "cs1", "x"] {
        for command in ["show", "revoke"] {
            let said = server.run(&place, &["token", command, token]).refused(1);
            assert_eq!(said, "countersign: this is not a token that this server issued\n");
        }
        assert_eq!(server.status(token), 404);
    }
}

#[test]
fn malformed_token_is_a_usage_error() {
    let (place, server) = place_and_server();
    // Some of these would ask for another path than that of a token.
    for token in ["", " ", ".", "..", "a/b", "?", "cs1%41", "ä", &"a".repeat(10_000)] {
        for command in ["show", "revoke"] {
            let said = server.run(&place, &["token", command, token]).refused(2);
            assert!(said.contains("a token is one word of letters and digits"), "{token:?}: {said}");
            assert!(token.trim().len() < 3 || !said.contains(token), "{said}");
        }
    }
    let said = place.run_with(&["token", "show", "-"], &[], "\n").refused(2);
    assert!(said.contains("this is not a token"), "{said}");
    let said = place.refusal(&["token", "show"], 2);
    assert!(said.contains("<TOKEN>"), "{said}");
}
