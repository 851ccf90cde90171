//! `countersign keys`, and what a running server makes of a changed key ring.

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{DATA, Place, Server};

const RING: &str = "countersign-data/key-ring.toml";

/// The ids of a ring's keys, oldest first, and which of them seals.
pub(crate) fn ids(document: &Value) -> (Vec<String>, String) {
    let keys = document["keys"].as_array().unwrap();
    let id = |key: &Value| key["id"].as_str().unwrap().to_owned();
    let sealing: Vec<&Value> = keys.iter().filter(|key| key["sealing"] == true).collect();
    assert_eq!(sealing.len(), 1, "{document}");
    (keys.iter().map(id).collect(), id(sealing[0]))
}

pub(crate) fn offline(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.print(&[&["keys"], arguments, &["--offline", "--json"]].concat())).unwrap()
}

fn assert_tokens_are_good(server: &Server, tokens: &[&str]) {
    for token in tokens {
        assert_eq!(server.status(token), 200);
    }
}

#[test]
fn list_shows_the_keys_and_not_their_secrets() {
    let place = Place::new();
    let server = place.serve();
    let document = server.json(&place, &["keys", "list", "--json"]);
    let (keys, sealing) = ids(&document);
    assert_eq!(keys.as_slice(), std::slice::from_ref(&sealing));
    assert_eq!(offline(&place, &["list"]), document);

    let text = server.print(&place, &["keys", "list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].starts_with(&sealing) && lines[1].ends_with("  seals and opens"), "{text}");
    let ring = place.read(RING);
    let (_, secret) = ring.split_once("secret = \"").unwrap();
    assert!(!text.contains(&secret[..8]) && !document.to_string().contains(&secret[..8]));
}

#[test]
fn rotate_takes_effect_at_once_and_old_tokens_stay_good() {
    let place = Place::new();
    let server = place.serve();
    let before = server.token();
    let (old, first) = ids(&server.json(&place, &["keys", "list", "--json"]));
    let (new, second) = ids(&server.json(&place, &["keys", "rotate", "--json"]));
    assert_eq!(new, [first.clone(), second.clone()]);
    assert_eq!(old, [first]);
    assert_eq!(ids(&offline(&place, &["list"])), (new, second), "it is on disk");
    assert_eq!(place.mode(RING), 0o600);
    assert_eq!(place.files(DATA).iter().filter(|name| name.starts_with("key-ring")).count(), 1);

    let after = server.token();
    assert_ne!(before[..11], after[..11], "another key seals");
    server.stop();
    let server = place.serve();
    assert_tokens_are_good(&server, &[&before, &after]);
}

#[test]
fn stolen_key_is_revoked() {
    let place = Place::new();
    let server = place.serve();
    let stolen = server.token();
    let (_, first) = ids(&server.json(&place, &["keys", "list", "--json"]));
    let said = server.run(&place, &["keys", "revoke", &first]).refused(1);
    assert!(said.contains("is the one that seals") && said.contains("rotate"), "{said}");
    assert_eq!(server.status(&server.token()), 200, "nothing has changed");

    let (keys, second) = ids(&server.json(&place, &["keys", "revoke", &first, "--rotate", "--json"]));
    assert_eq!(keys.as_slice(), std::slice::from_ref(&second));
    assert_ne!(second, first);
    assert_eq!(server.status(&stolen), 404);
    assert_eq!(server.status(&server.token()), 200);
    let ring = place.read(RING);
    assert_eq!(ring.matches("secret = ").count(), 1, "its secret is gone from the disk");
    assert!(ring.contains(&format!("revoked = [\"{first}\"]")), "its name is not");
    server.stop();
    let server = place.serve();
    assert_eq!(server.status(&stolen), 404, "for good");
    let said = server.run(&place, &["keys", "revoke", &first]).refused(1);
    assert!(said.contains(&format!("no key {first}")) && said.contains("keys list"), "{said}");
    let said = server.run(&place, &["keys", "revoke", "stolen"]).refused(2);
    assert!(said.contains("8 hexadecimal digits"), "{said}");
}

#[test]
fn offline_revoke_changes_the_file() {
    let place = Place::new();
    let server = place.serve();
    let stolen = server.token();
    let (_, first) = ids(&offline(&place, &["list"]));
    let said = place.refusal(&["keys", "revoke", &first, "--offline"], 1);
    assert!(said.contains("is the one that seals") && said.contains("--rotate"), "{said}");
    let (keys, second) = ids(&offline(&place, &["revoke", &first, "--rotate"]));
    assert_eq!(keys, [second]);
    server.process.signal(Signal::HUP);
    server.process.err.with("the key ring has changed on disk and is in use");
    assert_eq!(server.status(&stolen), 404);
    assert_eq!(server.status(&server.token()), 200);
}

#[test]
fn keys_new_creates_a_ring_once() {
    let place = Place::new();
    let text = place.print(&["keys", "new", "--key-ring", "ring"]);
    assert!(text.lines().nth(1).unwrap().ends_with("  seals and opens"), "{text}");
    assert_eq!(place.mode("ring"), 0o600);
    let ring = place.read("ring");
    let said = place.refusal(&["keys", "new", "--key-ring", "ring"], 1);
    assert!(said.contains("there is a key ring at ring already"), "{said}");
    assert_eq!(place.read("ring"), ring);
    let server = place.serve_with(&["--key-ring", "ring"], &[]);
    assert_eq!(server.status(&server.token()), 200);
    server.stop();

    // In place of one that was lost: the server says why it refuses what was issued before.
    let lost = place.serve_with(&["--key-ring", "ring"], &[]);
    let token = lost.token();
    lost.stop();
    place.print(&["keys", "new", "--key-ring", "other"]);
    let server = place.serve_with(&["--key-ring", "other"], &[]);
    let log = server.process.err.with("lacks a key with which an earlier server on this store sealed");
    assert!(log.contains(&ring[ring.find("id = ").unwrap() + 6..][..8]), "{log}");
    assert_eq!(server.status(&token), 404);
}

#[test]
fn key_can_be_distributed_before_it_seals() {
    let place = Place::new();
    let server = place.serve();
    let (_, first) = ids(&server.json(&place, &["keys", "list", "--json"]));
    let document = server.json(&place, &["keys", "rotate", "--activate-in", "1h", "--json"]);
    assert_eq!(ids(&document).1, first);
    let from =
        |at: usize| document["keys"][at]["active_from"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let wait = (from(1) - from(0)).as_secs();
    assert!((3600..3700).contains(&wait), "{wait} s");
    let text = server.print(&place, &["keys", "list"]);
    assert!(text.lines().nth(1).unwrap().ends_with("  seals and opens"), "{text}");
    assert!(text.lines().nth(2).unwrap().ends_with("  opens; will seal from then on"), "{text}");

    for (wait, says) in
        [("soon", "write a number and its unit"), ("-1s", "whole seconds"), ("1ms", "whole seconds")]
    {
        let said = server.run(&place, &["keys", "rotate", &format!("--activate-in={wait}")]).refused(2);
        assert!(said.contains(says), "{wait}: {said}");
    }
}

#[test]
fn offline_list_and_rotate_use_the_file() {
    let place = Place::new();
    place.serve().stop();
    let (_, first) = ids(&offline(&place, &["list"]));
    let (keys, second) = ids(&offline(&place, &["rotate"]));
    assert_eq!(keys, [first.clone(), second.clone()]);
    let (keys, sealing) = ids(&offline(&place, &["rotate", "--activate-in", "10m"]));
    assert_eq!((keys.len(), &keys[..2], sealing), (3, &[first, second][..], keys[1].clone()));
    assert_eq!(place.mode(RING), 0o600);

    let ring = place.name(RING);
    let data = place.name(DATA);
    let elsewhere = Place::new();
    for arguments in [["--key-ring", &ring], ["--data-dir", &data]] {
        let document = offline(&elsewhere, &[&["list"], &arguments[..]].concat());
        assert_eq!(ids(&document).0, keys);
    }
    elsewhere.write("other.toml", &format!("data_dir = '{data}'"));
    assert_eq!(ids(&offline(&elsewhere, &["list", "--config", "other.toml"])).0, keys);
    let said = elsewhere.refusal(&["keys", "rotate", "--offline"], 1);
    assert!(said.contains(&format!("the key ring {RING}")), "{said}");
    assert_eq!(elsewhere.files("."), ["countersign.toml", "other.toml"], "no ring is made by mistake");
}

#[test]
fn sighup_reloads_the_key_ring() {
    let place = Place::new();
    let server = place.serve();
    let before = server.token();
    let (keys, sealing) = ids(&offline(&place, &["rotate"]));
    server.process.signal(Signal::HUP);
    server.process.err.with("the key ring has changed on disk and is in use");
    assert_eq!(ids(&server.json(&place, &["keys", "list", "--json"])), (keys, sealing));
    let after = server.token();
    assert_ne!(before[..11], after[..11], "another key seals");
    assert_tokens_are_good(&server, &[&before, &after]);
}

#[test]
fn sighup_reloads_at_once() {
    const CHANGED: &str = "the key ring has changed on disk";
    let place = Place::new();
    let server = place.serve();
    let ring = place.read(RING);
    for count in 1..=8 {
        place.replace(RING, &ring, 0o600);
        server.process.signal(Signal::HUP);
        server.process.err.with_times(count, CHANGED);
    }
    let log = server.stop().err;
    let times: Vec<Timestamp> = log
        .lines()
        .filter(|line| line.contains(CHANGED))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    // The server looks by itself every two seconds, so that without the signal this would take 14.
    assert!((times[7] - times[0]).as_secs() < 7, "{log}");
}

#[test]
fn broken_ring_is_ignored_until_repaired() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    let whole = place.read(RING);
    place.replace(RING, &whole.replace("secret", "secretive"), 0o600);
    server.process.signal(Signal::HUP);
    let log = server.process.err.with("cannot be used; keeping the old one");
    assert!(log.contains(RING) && log.contains("ERROR"), "{log}");
    assert_tokens_are_good(&server, &[&token, &server.token()]);
    let said = server.run(&place, &["keys", "rotate"]).refused(1);
    assert!(said.contains("key-ring.toml") && said.contains("secretive"), "{said}");

    place.replace(RING, &whole, 0o600);
    server.process.signal(Signal::HUP);
    server.process.err.with("the key ring has changed on disk and is in use");
    server.json(&place, &["keys", "rotate", "--json"]);
    assert_tokens_are_good(&server, &[&server.token()]);
}

#[test]
fn ring_readable_by_others_is_not_reloaded() {
    let place = Place::new();
    let server = place.serve();
    place.replace(RING, &place.read(RING), 0o644);
    server.process.signal(Signal::HUP);
    let log = server.process.err.with("ERROR");
    assert!(log.contains("keeping the old one") && log.contains("chmod 600"), "{log}");
    assert_tokens_are_good(&server, &[&server.token()]);
}

#[test]
fn key_flags_that_do_not_apply_are_refused() {
    let place = Place::new();
    let server = place.serve();
    for command in [&["list"][..], &["rotate"], &["revoke", "00000000"]] {
        for flag in ["--key-ring", "--data-dir", "--config"] {
            let said = server.run(&place, &[&["keys"], command, &[flag, "somewhere"]].concat()).refused(2);
            assert!(said.contains(&format!("{flag} is for work without a server: add --offline")), "{said}");
        }
        let said = server.run(&place, &[&["keys"], command, &["--offline"]].concat()).refused(2);
        assert!(said.contains("--server is about a running server"), "{said}");
    }
    let (keys, _) = ids(&server.json(&place, &["keys", "list", "--json"]));
    assert_eq!(keys.len(), 1, "nothing was rotated");
    // Variables say how things are on this machine, and go with either.
    let variables = [("COUNTERSIGN_SERVER", &*server.private), ("COUNTERSIGN_DATA_DIR", DATA)];
    for arguments in [&["keys", "list"][..], &["keys", "list", "--offline"]] {
        place.run_with(arguments, &variables, "").printed();
    }
}
