//! `countersign store backup`, and restoring what it made.

use std::fs;

use countersign_testkit::until;
use serde_json::Value;

use crate::fixture::{DATA, Place, Server};
use crate::keys::{ids, offline};
use crate::receiver::Receiver;

const DATABASE: &str = "countersign-data/countersign.db";
const RING: &str = "countersign-data/key-ring.toml";

/// A place with a copy of the store and the key ring of another one.
fn restore(from: &Place, copy: &str) -> Place {
    let place = Place::new();
    fs::create_dir(place.path(DATA)).unwrap();
    fs::copy(from.path(copy), place.path(DATABASE)).unwrap();
    fs::copy(from.path(RING), place.path(RING)).unwrap();
    place
}

#[test]
fn restore_revives_no_token() {
    let place = Place::new();
    let server = place.serve();
    let (consumed_before, consumed_after, unused) = (server.token(), server.token(), server.token());
    assert_eq!(server.status(&consumed_before), 200);
    assert_eq!(place.print(&["store", "backup", "copy.db"]), "backed up to copy.db");
    assert_eq!(place.mode("copy.db"), 0o600);
    assert_eq!(server.status(&consumed_after), 200, "the server goes on");
    let issued_after = server.token();
    assert_eq!(server.status(&issued_after), 200);
    server.stop();

    let restored = restore(&place, "copy.db");
    let server = restored.serve();
    for (token, status) in [
        (&consumed_before, "consumed"),
        (&consumed_after, "fenced"),
        (&issued_after, "fenced"),
        (&unused, "fenced"),
    ] {
        assert_eq!(server.status(token), 401, "{status}");
        assert_eq!(server.look(token)["status"], status);
    }
    assert_eq!(server.json(&restored, &["store", "stats", "--json"])["consumed"], 1);
    let issued = server.token();
    assert_eq!(server.status(&issued), 200);
    server.stop();
    let server = restored.serve();
    assert_eq!((server.status(&issued), server.status(&server.token())), (401, 200), "and so it stays");
}

#[test]
fn fence_that_moves_by_itself_is_an_event() {
    let place = Place::new();
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
    place.print(&["store", "backup", "copy.db"]);
    // They are written a moment later.
    let moved = |place: &Place, server: &Server| {
        until("an event of a moved fence", || {
            let events = server.print(place, &["events", "--kind", "fence-moved", "--json"]);
            let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (!events.is_empty()).then_some(events)
        })
    };
    let fence =
        |place: &Place, server: &Server| server.json(place, &["store", "stats", "--json"])["fence"].clone();
    let restored = restore(&place, "copy.db");
    let restarted = restored.serve();
    let events = moved(&restored, &restarted);
    assert_eq!((events.len(), &events[0]["fence"]), (1, &fence(&restored, &restarted)));

    // Killed, so that its log is still needed.
    drop(server);
    fs::remove_file(place.path(&format!("{DATABASE}-wal"))).unwrap();
    let server = place.serve();
    let events = moved(&place, &server);
    assert_eq!((events.len(), &events[0]["fence"]), (1, &fence(&place, &server)));
    server.stop();
    let server = place.serve();
    assert_eq!(moved(&place, &server).len(), 1, "it is told once");
}

/// The events of these kinds, oldest first, once there are so many.
fn told(place: &Place, server: &Server, kinds: &str, count: usize) -> Vec<Value> {
    // They are written a moment later.
    until(&format!("{count} events of {kinds}"), || {
        let lines = server.print(place, &["events", "--kind", kinds, "--json"]);
        let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(events.len() <= count, "{lines}");
        (events.len() == count).then_some(events)
    })
}

#[test]
fn offline_fence_is_reported_at_the_next_start() {
    for retention in ["720h", "0s"] {
        let place = Place::new();
        let alarms = Receiver::answering(204);
        place.write("alarm-secret", &format!("whsec_{}", "QUFB".repeat(8)));
        let hook = ["--alarm-webhook", &alarms.url, "--alarm-secret-file", "alarm-secret"];
        let serve = || place.serve_with(&[&hook[..], &["--event-retention", retention]].concat(), &[]);
        let fence = |server: &Server| server.json(&place, &["store", "stats", "--json"])["fence"].clone();
        let server = serve();
        assert_eq!(server.status(&server.token()), 200);
        place.print(&["store", "backup", "copy.db"]);
        server.stop();

        let by_command = || {
            place.print(&["store", "fence", "--offline"]);
        };
        let clear = || {
            let database = ["countersign.db", "countersign.db-wal", "countersign.db-shm"];
            for file in place.files(DATA).into_iter().filter(|file| database.contains(&&**file)) {
                fs::remove_file(place.path(&format!("{DATA}/{file}"))).unwrap();
            }
        };
        // Only the first command that opens it is told.
        let restored_and_purged = || {
            clear();
            fs::copy(place.path("copy.db"), place.path(DATABASE)).unwrap();
            place.print(&["store", "purge", "--offline"]);
        };
        let changes: [(&str, &dyn Fn()); 3] = [
            ("`store fence --offline`", &by_command),
            ("a purge after a restore", &restored_and_purged),
            ("an emptied store", &clear),
        ];
        for (nth, (what, change)) in (1..).zip(changes) {
            change();
            let server = serve();
            let alarm: Value = serde_json::from_slice(&alarms.next().body).unwrap();
            assert_eq!(alarm["type"], "countersign.fence-moved", "{what}");
            assert_eq!(alarm["data"]["fence"], fence(&server), "{what}");
            if retention != "0s" {
                assert_eq!(told(&place, &server, "fence-moved", nth).pop().unwrap()["fence"], fence(&server));
            }
            let log = server.stop().err;
            assert!(log.contains("the fence stands elsewhere than this server has seen it"), "{what}: {log}");
            assert!(!serve().stop().err.contains("the fence stands elsewhere"), "{what} is told once");
        }
        assert!(alarms.all().is_empty(), "each is told once");
    }
}

#[test]
fn keys_changed_without_a_server_are_events_at_the_next_start() {
    let place = Place::new();
    place.serve().stop();
    let (_, first) = ids(&offline(&place, &["list"]));
    let (_, second) = ids(&offline(&place, &["rotate"]));
    offline(&place, &["revoke", &first]);
    for starts in ["the first", "another"] {
        let server = place.serve();
        let events = told(&place, &server, "key-rotated,key-revoked", 2);
        for (kind, key) in [("key-rotated", &second), ("key-revoked", &first)] {
            assert!(
                events.iter().any(|event| event["kind"] == kind && event["key"] == key.as_str()),
                "{starts}: {events:?}"
            );
        }
        assert!(told(&place, &server, "fence-moved", 0).is_empty(), "nor is the fence said to have moved");
        server.stop();
    }
}

#[test]
fn inspecting_a_backup_does_not_restore_it() {
    let place = Place::new();
    let server = place.serve();
    place.print(&["store", "backup", "copy.db"]);
    let copy = fs::read(place.path("copy.db")).unwrap();
    let stats = ["store", "stats", "--offline", "--json", "--store", "sqlite:copy.db"];
    let first: Value = serde_json::from_str(&place.print(&stats)).unwrap();
    let second: Value = serde_json::from_str(&place.print(&stats)).unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read(place.path("copy.db")).unwrap(), copy, "the copy is as it was");
    assert_eq!(first["fence"], server.json(&place, &["store", "stats", "--json"])["fence"]);

    // Issued and consumed after the look: the fence has to move when the copy is put to use.
    let consumed = server.token();
    assert_eq!(server.status(&consumed), 200);
    server.stop();
    assert_eq!(restore(&place, "copy.db").serve().status(&consumed), 401);
}

#[test]
fn backup_needs_no_server() {
    let place = Place::new();
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    place.print(&["store", "backup", "copy.db"]);
    let elsewhere = Place::new();
    elsewhere.print(&["store", "backup", "--data-dir", &place.name(DATA), "copy.db"]);
    elsewhere.print(&["store", "backup", "--store", &format!("sqlite:{}", place.name(DATABASE)), "again.db"]);
    for (place, name) in [(&place, "copy.db"), (&elsewhere, "copy.db"), (&elsewhere, "again.db")] {
        let stats = place.print(&["store", "stats", "--offline", "--store", &format!("sqlite:{name}")]);
        assert!(stats.contains("consumed  1\n"), "{stats}");
    }
}

#[test]
fn backup_replaces_nothing() {
    let place = Place::new();
    place.serve().stop();
    place.write("precious", "text");
    let said = place.refusal(&["store", "backup", "precious"], 1);
    assert!(said.contains("precious exists already; name a new file"), "{said}");
    assert_eq!(place.read("precious"), "text");
    let said = place.refusal(&["store", "backup", "missing/copy.db"], 1);
    assert!(said.contains("missing/copy.db cannot be written"), "{said}");
    let said = place.refusal(&["store", "backup"], 2);
    assert!(said.contains("<FILE>"), "{said}");
}
