//! `countersign store`: stats, purge and fence.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fixture::{DATA, Place};

fn offline(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.print(&[&["store"], arguments, &["--offline", "--json"]].concat())).unwrap()
}

fn time(document: &Value, name: &str) -> Timestamp {
    document[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn stats_count_consumed_and_revoked() {
    let place = Place::new();
    let server = place.serve();
    let tokens = [server.token(), server.token(), server.token(), server.token()];
    let fresh = server.json(&place, &["store", "stats", "--json"]);
    assert_eq!(
        (&fresh["kind"], &fresh["consumed"], &fresh["revoked"]),
        (&json!("sqlite"), &json!(0), &json!(0))
    );
    for token in &tokens[..2] {
        assert_eq!(server.status(token), 200);
        assert_eq!(server.status(token), 401);
    }
    server.print(&place, &["token", "revoke", &tokens[2]]);
    let document = server.json(&place, &["store", "stats", "--json"]);
    assert_eq!((&document["consumed"], &document["revoked"]), (&json!(2), &json!(1)));
    assert_eq!(document["fence"], fresh["fence"]);
    let text = server.print(&place, &["store", "stats"]);
    assert!(text.contains("consumed  2\nrevoked   1\nfence     2"), "{text}");

    let beside = offline(&place, &["stats"]);
    assert_eq!(beside["consumed"], 2, "looking does not disturb the server");
    assert_eq!(server.status(&tokens[3]), 200);
    server.stop();
    assert_eq!(offline(&place, &["stats"])["consumed"], 3);
}

#[test]
fn fence_refuses_only_older_tokens() {
    let place = Place::new();
    let server = place.serve();
    let (consumed, before) = (server.token(), server.token());
    assert_eq!(server.status(&consumed), 200);
    let fence = server.json(&place, &["store", "fence", "--json"]);
    let after = server.token();
    assert_eq!(server.status(&before), 401);
    assert_eq!(server.look(&before)["status"], "fenced");
    assert_eq!(server.look(&consumed)["status"], "consumed");
    assert_eq!(server.status(&after), 200);
    assert!(time(&fence, "fence") > time(&server.look(&before), "date_created"));
    assert_eq!(server.json(&place, &["store", "stats", "--json"])["fence"], fence["fence"]);

    let text = server.print(&place, &["store", "fence"]);
    assert!(text.starts_with("fence  2"), "{text}");
}

#[test]
fn store_can_be_fenced_while_no_server_runs() {
    let place = Place::new();
    let server = place.serve();
    let before = server.token();
    server.stop();
    let fence = offline(&place, &["fence"]);
    assert_eq!(offline(&place, &["stats"])["fence"], fence["fence"]);

    let server = place.serve();
    assert_eq!(server.status(&before), 401);
    assert_eq!(server.look(&before)["status"], "fenced");
    assert_eq!(server.status(&server.token()), 200);
}

#[test]
fn purge_keeps_records_still_needed() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    assert_eq!(server.status(&token), 200);
    assert_eq!(server.json(&place, &["store", "purge", "--json"]), json!({ "purged": 0 }));
    assert_eq!(server.print(&place, &["store", "purge"]), "purged  0");
    server.stop();
    assert_eq!(offline(&place, &["purge", "--retention", "2m"]), json!({ "purged": 0 }));
    assert_eq!(place.serve().status(&token), 401);
}

#[test]
fn offline_purge_keeps_the_servers_retention() {
    let place = Place::new();
    place.serve().stop();
    let says = "retention must be whole seconds, at least 120 s";
    let purge = ["store", "purge", "--offline"];
    assert!(place.refusal(&[&purge[..], &["--retention", "1m"]].concat(), 2).contains(says));
    assert!(place.run_with(&purge, &[("COUNTERSIGN_RETENTION", "1m")], "").refused(2).contains(says));
    place.write("countersign.toml", "retention = '1m'");
    assert!(place.refusal(&purge, 2).contains(says));
    place.print(&[&purge[..], &["--retention", "1h"]].concat());
}

#[test]
fn store_in_use_is_not_changed_offline() {
    let place = Place::new();
    let server = place.serve();
    let token = server.token();
    for command in ["purge", "fence"] {
        let said = place.refusal(&["store", command, "--offline"], 1);
        assert!(said.contains(&format!("is in use by process {}", server.process.id())), "{said}");
        assert!(said.contains("stop that process"), "{said}");
    }
    assert_eq!(server.status(&token), 200);
}

#[test]
fn missing_store_is_not_created() {
    let place = Place::new();
    place.write("empty.db", "");
    for (arguments, says) in [
        (&[][..], "there is no store at "),
        (&["--data-dir", "nowhere"], "nowhere/countersign.db; check the path"),
        (&["--store", "sqlite:missing.db"], "missing.db; check the path"),
        (&["--store", "memory:"], "there is nothing to open from outside"),
    ] {
        for command in ["stats", "purge", "fence"] {
            let said = place.refusal(&[&["store", command, "--offline"], arguments].concat(), 1);
            assert!(said.contains(says), "{command} {arguments:?}: {said}");
        }
        let said = place.refusal(&[&["store", "backup", "copy.db"], arguments].concat(), 1);
        assert!(said.contains(says), "backup {arguments:?}: {said}");
    }
    for command in [&["stats", "--offline"][..], &["purge", "--offline"], &["backup", "copy.db"]] {
        let said = place.refusal(&[&["store"], command, &["--store", "tokens.db"]].concat(), 2);
        assert!(said.contains("a store is named by a URL such as"), "{said}");
    }
    assert_eq!(place.files("."), ["countersign.toml", "empty.db"]);
}

#[test]
fn store_flags_that_do_not_apply_are_refused() {
    let place = Place::new();
    let server = place.serve();
    let before = server.token();
    for flag in ["--data-dir", "--store", "--config"] {
        let said = server.run(&place, &["store", "fence", flag, "sqlite:other.db"]).refused(2);
        assert!(said.contains(&format!("{flag} is for work without a server: add --offline")), "{said}");
    }
    let said = server.run(&place, &["store", "fence", "--offline", "--data-dir", DATA]).refused(2);
    assert!(said.contains("--server is about a running server"), "{said}");
    let said = server.run(&place, &["store", "purge", "--retention", "3m"]).refused(2);
    assert!(said.contains("--retention is for work without a server"), "{said}");
    assert_eq!(server.status(&before), 200, "nothing was fenced");
}
