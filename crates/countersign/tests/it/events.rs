//! `countersign events`, and the names of requests.

use std::collections::BTreeSet;

use countersign_testkit::until;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Place, Server};
use crate::http;
use crate::process::Process;

/// The events of these kinds, once there are so many.
fn events(place: &Place, server: &Server, kind: &str, count: usize) -> Vec<Value> {
    let list = || -> Vec<Value> {
        let lines = server.print(place, &["events", "--json", "--kind", kind]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // They are written a moment after the answer.
    until(&format!("{count} events of {kind}"), || Some(list()).filter(|events| events.len() >= count))
}

#[test]
fn events_are_listed_after_a_restart() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    let replays = events(&place, &server, "replay", 1);
    let id = server.look(&token)["id"].clone();
    assert_eq!((&replays[0]["token"], &replays[0]["first"]["peer"]), (&id, &"127.0.0.1".into()));
    assert_eq!(place.mode("countersign-data/countersign-events.db"), 0o600);
    server.print(&place, &["store", "fence"]);
    events(&place, &server, "fence-moved", 1);
    server.stop();

    let server = place.serve();
    let text = server.print(&place, &["events"]);
    let kinds: Vec<&str> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(kinds, ["consumed", "replay", "fence-moved"], "{text}");
    assert!(text.contains(id.as_str().unwrap()) && text.contains("first used"), "{text}");
    assert_eq!(
        server.print(&place, &["events", "--limit", "1", "--kind", "consumed,replay"]),
        text.lines().nth(1).unwrap()
    );
    assert_eq!(server.print(&place, &["events", "--since", "0s"]), "");
    assert_eq!(server.print(&place, &["events", "--since", "1h", "--limit", "0"]), text);
    let said = server.run(&place, &["events", "--kind", "bogus"]).refused(2);
    assert!(said.contains("fence-moved"), "{said}");
}

#[test]
fn replay_is_listed_immediately() {
    let place = Place::new();
    let server = place.serve();
    for replays in 1..=8 {
        let token = server.token();
        assert_eq!((server.status(&token), server.status(&token)), (200, 401));
        let listed = server.print(&place, &["events", "--kind", "replay"]);
        assert_eq!(listed.lines().count(), replays, "{listed}");
    }
}

#[test]
fn event_is_found_by_id_address_text_and_time() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    let replay = events(&place, &server, "replay", 1).remove(0);
    let id = server.look(&token)["id"].as_str().unwrap().to_owned();
    let kinds = |arguments: &[&str]| -> Vec<String> {
        let text = server.print(&place, &[&["events"], arguments].concat());
        text.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&["--id", &id]), ["consumed", "replay"]);
    for name in ["id", "request"] {
        assert_eq!(kinds(&["--id", replay[name].as_str().unwrap()]), ["replay"], "{name}");
    }
    assert_eq!(kinds(&["--peer", "127.0.0.1"]), ["consumed", "replay"]);
    assert_eq!(kinds(&["--peer", "192.0.2.7"]), [""; 0]);
    assert_eq!(kinds(&["--text", "no such agent"]), [""; 0]);
    assert_eq!(kinds(&["--until", "0s"]), ["consumed", "replay"]);
    assert_eq!(kinds(&["--until", "1h"]), [""; 0]);
    let said = server.run(&place, &["events", "--id", &token]).refused(2);
    assert!(said.contains("UUID") && !said.contains(&token[12..28]), "{said}");
    for text in [token.clone(), server.handshake_url(&token)] {
        let said = server.run(&place, &["events", "--text", &text]).refused(2);
        assert!(said.contains("token in it") && !said.contains(&token[12..28]), "{said}");
    }
}

#[test]
fn follower_runs_until_ctrl_c_or_server_stop() {
    let place = Place::new();
    let server = place.serve();
    let early = server.token();
    assert_eq!(server.status(&early), 200);
    let follow = |more: &[&str]| {
        let mut command = place.command(["events", "--follow", "--server", &server.private]);
        command.args(more);
        Process::start(&mut command, "")
    };
    let mut people = follow(&[]);
    let mut programs = follow(&["--json", "--kind", "consumed"]);
    for follower in [&people, &programs] {
        follower.out.with(server.look(&early)["id"].as_str().unwrap());
    }
    let late = server.token();
    let id = server.look(&late)["id"].as_str().unwrap().to_owned();
    assert_eq!((server.status(&late), server.status(&late)), (200, 401));
    people.out.with("replay");
    people.out.with("issued");
    let told: Value = serde_json::from_str(programs.out.lines(2).lines().nth(1).unwrap()).unwrap();
    assert_eq!((&told["kind"], &told["token"]), (&"consumed".into(), &id.as_str().into()));

    people.signal(Signal::INT);
    let ended = people.ended();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert_eq!(ended.out.matches(&id).count(), 3, "issued, consumed and shown again: {}", ended.out);
    // A follower does not keep the server from stopping.
    server.stop();
    let ended = programs.ended();
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("the server has stopped"), "{}", ended.err);
}

#[test]
fn events_of_issuing_are_optional() {
    let place = Place::new();
    let server = place.serve_with(&["--record-issued"], &[]);
    server.token();
    assert_eq!(events(&place, &server, "issued", 1).len(), 1);
    server.stop();
    let server = place.serve_with(&["--event-retention", "0s"], &[]);
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    // Old events are purged, and no new ones are stored.
    until("no event", || {
        server.print(&place, &["events", "--kind", "issued,replay"]).is_empty().then_some(())
    });
    server.stop();
}

#[test]
fn request_id_is_in_answers_events_and_log() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    let mut names = BTreeSet::new();
    for url in [format!("{}/healthz", server.public), format!("{}/nowhere", server.private)] {
        names.insert(http::get(&url).header("x-request-id").to_owned());
    }
    assert_eq!(server.status(&token), 200);
    let answer = http::post(&server.handshake_url(&token), &[("x-request-id", "mine")], "");
    let name = answer.header("x-request-id").to_owned();
    names.insert(name.clone());
    assert_eq!(names.len(), 3, "each its own");
    assert!(
        names.iter().all(|name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit())),
        "{names:?}"
    );
    assert_eq!(events(&place, &server, "replay", 1)[0]["request"], name.as_str());
    let log = server.stop().err;
    assert!(log.contains(&format!("request={name}")), "{log}");
}

#[test]
fn unusable_event_store_stops_no_handshake() {
    let place = Place::new();
    let server = place.serve();
    server.stop();
    let file = place.path("countersign-data/countersign-events.db");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let server = place.serve();
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    server.process.err.with("events cannot be written");
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    server.stop();
}

#[test]
fn summaries_survive_a_restart() {
    const TRAC: &str = "https://trac.example.org/";
    let place = Place::new();
    let secret = |name: &str, scope: &str| {
        let new = ["callers", "new", name, "--file", "callers.toml", "--scope", scope];
        place.write(&format!("{name}.secret"), &place.run(&new).out);
        place.set_mode(&format!("{name}.secret"), 0o600);
    };
    secret("eu", "issue");
    secret("ops", "events");
    let serve = || place.serve_with(&["--callers-file", "callers.toml"], &[]);
    let server = serve();
    let eu = ["token", "new", "--audience", TRAC, "--private-bearer-file", "eu.secret"];
    let token = server.print(&place, &eu);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let shown = |server: &Server| {
        http::post(&server.handshake_url(&token), &form, "audience=https://trac.example.org").status
    };
    assert_eq!((shown(&server), shown(&server), server.redeem("cs1forged").status), (200, 401, 404));
    let table = |server: &Server, more: &[&str]| {
        server.print(&place, &[&["events", "--private-bearer-file", "ops.secret"], more].concat())
    };
    let before = table(&server, &["--by", "tracker"]);
    let trac = |text: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(TRAC)).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    // Name, last good handshake, issued, good, refused, replays, relays.
    assert_eq!(trac(&before)[2..7], ["1", "1", "0", "1", "0"], "{before}");
    assert!(before.contains("\n    unknown 1"), "{before}");
    server.stop();

    let server = serve();
    assert_eq!(trac(&table(&server, &["--by", "tracker"])), trac(&before), "it is kept over a restart");
    assert_eq!(shown(&server), 401);
    for (by, name) in [("tracker", TRAC), ("caller", "eu")] {
        let json = table(&server, &["--by", by, "--since", "7d", "--json"]);
        let document: Value = serde_json::from_str(&json).unwrap();
        let row = document["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(
            (&row["good"], &row["replays"], &row["issued"]),
            (&1.into(), &2.into(), &1.into()),
            "{json}"
        );
        let listed = table(&server, &["--kind", "replay", &format!("--{by}"), name]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        let others = if by == "tracker" { "unbound" } else { "default" };
        assert_eq!(table(&server, &["--kind", "replay", &format!("--{by}"), others]), "");
    }
    let refused = |arguments: &[&str]| server.run(&place, &[&["events"], arguments].concat()).refused(2);
    assert!(refused(&["--by", "tracker", "--since", "2h"]).contains("1h, 6h, 24h and 7d"));
    refused(&["--by", "tracker", "--follow"]);
    refused(&["--by", "peer"]);
    assert!(refused(&["--tracker", "me"]).contains("base URL of a tracker"));
    assert!(refused(&["--caller", "No"]).contains("the name of a caller"));
    let said = refused(&["--tracker", &format!("https://a.example/{token}")]);
    assert!(said.contains("token in it") && !said.contains(&token[12..28]), "{said}");
    server.stop();

    place.serve_with(&["--callers-file", "callers.toml", "--event-retention", "0s"], &[]).stop();
    let nothing = table(&serve(), &["--by", "tracker", "--since", "7d"]);
    assert!(nothing.contains("no token was issued"), "numbers with a gap begin anew: {nothing}");
}
