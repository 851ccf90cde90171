//! Servers on PostgreSQL.

use countersign_test_postgres::{Cluster, new_name, shared};

use crate::fixture::{Place, Server};
use crate::http;

/// A schema of a server's own, as arguments.
fn store(url: &str, schema: &str) -> Vec<String> {
    ["--store", url, "--store-schema", schema].map(str::to_owned).to_vec()
}

fn serve(place: &Place, store: &[String]) -> Server {
    place.serve_with(&store.iter().map(String::as_str).collect::<Vec<_>>(), &[])
}

fn ready(server: &Server) -> u16 {
    http::get(&format!("{}/readyz", server.public)).status
}

/// Waits until the server's readiness is as said.
fn until_ready(server: &Server, status: u16) {
    while ready(server) != status {
        std::thread::yield_now();
    }
}

#[test]
fn any_server_redeems_what_any_server_issued_and_only_once() {
    let (place, other) = (Place::new(), Place::new());
    let store = store(&shared(), &new_name());
    let one = serve(&place, &store);
    std::fs::create_dir(other.path("countersign-data")).unwrap();
    other.set_mode("countersign-data", 0o700);
    other.replace("countersign-data/key-ring.toml", &place.read("countersign-data/key-ring.toml"), 0o600);
    let two = serve(&other, &store);
    for (issues, redeems, late) in [(&one, &one, &two), (&one, &two, &one), (&two, &one, &one)] {
        let token = issues.token();
        assert_eq!(redeems.status(&token), 200);
        assert_eq!(late.status(&token), 401);
        assert_eq!(late.look(&token)["status"], "consumed");
    }
    let token = one.token();
    two.print(&other, &["store", "fence"]);
    assert_eq!(one.status(&token), 401, "what one fences is fenced for all");
    let stats = one.json(&place, &["store", "stats", "--json"]);
    assert_eq!((&stats["kind"], &stats["consumed"]), (&"postgres".into(), &3.into()));

    let log = one.stop().err;
    assert!(log.contains("store=postgres://postgres@127.0.0.1:"), "{log}");
    assert!(!log.contains("postgres:postgres"), "no password: {log}");
}

#[test]
fn a_store_is_looked_after_without_a_server() {
    let place = Place::new();
    let store = store(&shared(), &new_name());
    let with = |arguments: &[&'static str]| -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).chain(store.iter().cloned()).collect()
    };
    let print = |arguments: &[&'static str]| {
        let all = with(arguments);
        place.print(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refusal = |arguments: &[&'static str]| {
        let all = with(arguments);
        place.refusal(&all.iter().map(String::as_str).collect::<Vec<_>>(), 1)
    };
    for command in [&["store", "stats", "--offline"][..], &["store", "purge", "--offline"]] {
        assert!(refusal(command).contains("there is no store in postgres://postgres@127.0.0.1:"));
    }
    let migrated = print(&["store", "migrate", "--json"]);
    assert!(migrated.contains("\"before\": 0"), "{migrated}");
    let server = serve(&place, &store);
    let (spent, unused) = (server.token(), server.token());
    assert_eq!(server.status(&spent), 200);
    assert!(print(&["store", "stats", "--offline", "--json"]).contains("\"consumed\": 1"));
    assert_eq!(print(&["store", "purge", "--offline"]), "purged  0");
    print(&["store", "fence", "--offline"]);
    assert_eq!(server.status(&unused), 401, "the server goes by it at once");
    assert_eq!(server.status(&server.token()), 200);
    assert!(refusal(&["store", "backup", "copy"]).contains("by PostgreSQL's own means: pg_dump"));
}

/// The database goes, and comes back: issuing goes on, and nobody restarts anything.
#[test]
fn a_database_that_is_away_stops_handshakes_and_nothing_else() {
    let cluster = Cluster::start(&[]);
    let place = Place::new();
    let store = store(cluster.url(), "countersign");
    let server = serve(&place, &store);
    let before = server.token();
    assert_eq!(server.status(&before), 200);

    for crash in [false, true] {
        if crash {
            cluster.crash();
        } else {
            cluster.stop();
        }
        let meanwhile = server.token();
        until_ready(&server, 503);
        for _ in 0..20 {
            let answer = server.redeem(&meanwhile);
            assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{answer:?}");
        }
        assert_eq!(server.redeem("nonsense").status, 404);
        assert_eq!(http::get(&format!("{}/healthz", server.public)).status, 200);

        cluster.start_again();
        until_ready(&server, 200);
        assert_eq!(server.status(&meanwhile), 200);
        assert_eq!(server.status(&meanwhile), 401);
        assert_eq!(server.status(&before), 401);
    }
    let log = server.stop().err;
    assert_eq!(log.matches("the store is not usable; no token is consumed until it is").count(), 2, "{log}");
    assert_eq!(log.matches("the store is usable again").count(), 2, "{log}");
}

/// It could not know with which key the others seal. A service manager starts it again.
#[test]
fn a_server_does_not_start_while_the_database_is_away() {
    let cluster = Cluster::start(&[]);
    let place = Place::new();
    let store = store(cluster.url(), "countersign");
    let (token, _) = {
        let server = serve(&place, &store);
        (server.token(), server.stop())
    };
    cluster.stop();
    let said = place.refusal(&["serve", &store[0], &store[1], &store[2], &store[3]], 1);
    assert!(said.contains("cannot be reached (error connecting to server: Connection refused"), "{said}");
    cluster.start_again();
    assert_eq!(serve(&place, &store).status(&token), 200);
}

#[test]
fn a_database_that_cannot_be_used_is_named_with_the_remedy() {
    let place = Place::new();
    let url = shared();
    let wrong_password = url.replace(":postgres@", ":hunter2@");
    let no_database = format!("{}/hunter", url.strip_suffix("/postgres").unwrap());
    place.write("password", "hunter2\n");
    for (arguments, says) in [
        (&["--store", &wrong_password][..], "does not let this user in"),
        (&["--store", &no_database], "create that database"),
        (&["--store", &url, "--store-password-file", "password"], "does not let this user in"),
        (&["--store", &url, "--store-password-file", "missing"], "cannot be read from missing"),
        (&["--store", &format!("{url}?sslmode=require")], "TLS to postgres://postgres@127.0.0.1:"),
        (
            &["--store", &format!("{url}?sslmode=require"), "--store-ca-file", "password"],
            "it holds no certificate",
        ),
    ] {
        let said = place.refusal(&[&["serve"], arguments].concat(), 1);
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
