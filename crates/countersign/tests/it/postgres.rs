//! Servers on PostgreSQL.

use countersign_test_postgres::{Cluster, new_name, run, shared};
use countersign_testkit::until;

use crate::fixture::{Place, Server, without_password};
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

/// Gives `other` the key file of `place`, for a second server.
fn share_key_ring(place: &Place, other: &Place) {
    std::fs::create_dir(other.path("countersign-data")).unwrap();
    other.set_mode("countersign-data", 0o700);
    other.replace("countersign-data/key-ring.toml", &place.read("countersign-data/key-ring.toml"), 0o600);
}

/// Waits until the server's readiness is as said.
fn until_ready(server: &Server, status: u16) {
    until(&format!("readiness {status}"), || (ready(server) == status).then_some(()));
}

#[test]
fn any_server_redeems_any_servers_token_once() {
    let (place, other) = (Place::new(), Place::new());
    let store = store(&shared(), &new_name());
    let one = serve(&place, &store);
    share_key_ring(&place, &other);
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
fn store_is_maintained_offline() {
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

#[test]
fn one_server_reports_a_moved_fence() {
    let (place, other) = (Place::new(), Place::new());
    let store = store(&shared(), &new_name());
    let one = serve(&place, &store);
    share_key_ring(&place, &other);
    let two = serve(&other, &store);
    let told = |one: &Server, two: &Server, count: usize| {
        let list = ["events", "--kind", "fence-moved", "--json"];
        until(&format!("{count} events of moved fences"), || {
            let told = [one.print(&place, &list), two.print(&other, &list)].join("\n");
            let told = told.lines().filter(|line| !line.is_empty()).count();
            assert!(told <= count, "{told} events instead of {count}: each move is told once");
            (told == count).then_some(())
        });
    };
    // By one of them, which tells of it, and by nobody.
    one.print(&place, &["store", "fence"]);
    told(&one, &two, 1);
    let fence: Vec<&str> =
        ["store", "fence", "--offline"].into_iter().chain(store.iter().map(|part| &**part)).collect();
    place.print(&fence);
    told(&one, &two, 2);
    one.stop();
    two.stop();
    // While nobody serves; and who comes later finds that it was told.
    place.print(&fence);
    let (one, two) = (serve(&place, &store), serve(&other, &store));
    told(&one, &two, 3);
    one.stop();
    two.stop();
    let (one, two) = (serve(&place, &store), serve(&other, &store));
    one.print(&place, &["store", "fence"]);
    told(&one, &two, 4);
}

/// An older copy of the tables takes the place of the present ones, with what the servers said of themselves then.
#[test]
fn fence_of_an_older_copy_is_reported() {
    let place = Place::new();
    let (url, schema) = (shared(), new_name());
    let store = store(&url, &schema);
    let told = |server: &Server, count: usize| {
        until(&format!("{count} events of moved fences"), || {
            let told = server.print(&place, &["events", "--kind", "fence-moved", "--json"]);
            (told.lines().count() >= count).then_some(())
        });
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = serve(&place, &store);
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    let keep = format!(
        "CREATE TABLE {schema}.l AS TABLE {schema}.lines; CREATE TABLE {schema}.n AS TABLE {schema}.nodes"
    );
    runtime.block_on(run(&url, &keep));
    let server = serve(&place, &store);
    server.print(&place, &["store", "fence"]);
    told(&server, 1);
    server.stop();
    let put_back = format!(
        "TRUNCATE {schema}.lines, {schema}.nodes; INSERT INTO {schema}.lines TABLE {schema}.l; \
         INSERT INTO {schema}.nodes TABLE {schema}.n"
    );
    runtime.block_on(run(&url, &put_back));
    let server = serve(&place, &store);
    told(&server, 2);
    assert!(server.stop().err.contains("run `countersign store fence`"));
}

/// The database goes, and comes back: issuing goes on, and nobody restarts anything.
#[test]
fn unreachable_database_stops_only_handshakes() {
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
fn server_does_not_start_while_the_database_is_away() {
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
fn unusable_database_is_named_with_its_remedy() {
    let place = Place::new();
    let url = shared();
    let wrong_password = url.replace(":postgres@", ":hunter2@");
    let no_database = format!("{}/hunter", url.strip_suffix("/postgres").unwrap());
    place.write("password", "hunter2\n");
    for (arguments, says) in [
        (&["--store", &wrong_password][..], "does not let this user in with the password in the store's URL"),
        (&["--store", &no_database], "create that database"),
        (
            &["--store", &url, "--store-password-file", "password"],
            "does not let this user in with the password in password",
        ),
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

#[test]
fn missing_password_is_named_with_the_remedy() {
    let place = Place::new();
    let (url, _) = without_password(&shared());
    let serve = ["serve", "--store", &url];
    let refused = |variables: &[(&str, &str)]| {
        let said = place.run_with(&serve, variables, "").refused(1);
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let said = refused(&[]);
    assert!(said.contains("asks for a password, and none was given: put it into a file"), "{said}");
    assert!(said.contains("store_password_file") && !said.contains("cannot be reached"), "{said}");
    place.write(".pgpass", "other:*:*:*:hunter2\n");
    place.set_mode(".pgpass", 0o600);
    let said = refused(&[]);
    assert!(said.contains(".pgpass has no line that fits"), "{said}");
    place.write(".pgpass", "*:*:*:*:postgres\n");
    place.set_mode(".pgpass", 0o640);
    let said = refused(&[]);
    assert!(said.contains("others can read it (mode 0640): run chmod 600"), "{said}");
    place.write("pgpass", "*:*:*:*:hunter2\n");
    place.set_mode("pgpass", 0o600);
    let said = refused(&[("PGPASSFILE", "pgpass")]);
    assert!(said.contains("does not let this user in with the password in pgpass"), "{said}");
    let said = refused(&[("PGPASSWORD", "hunter2")]);
    assert!(said.contains("with the password in the variable PGPASSWORD"), "{said}");
}

#[test]
fn password_of_libpq_is_used() {
    let (url, _) = without_password(&shared());
    let host = url.split(['@', '/']).nth(3).unwrap();
    let line = format!("{host}:postgres:postgres:postgres\n");
    for (files, variables) in [
        (&[][..], &[("PGPASSWORD", "postgres")][..]),
        (&[(".pgpass", &*line)], &[]),
        (&[("pgpass", &*line), (".pgpass", "*:*:*:*:hunter2\n")], &[("PGPASSFILE", "pgpass")]),
    ] {
        let place = Place::new();
        for (name, text) in files {
            place.write(name, text);
            place.set_mode(name, 0o600);
        }
        let schema = new_name();
        let server = place.serve_with(&["--store", &url, "--store-schema", &schema], variables);
        assert_eq!(server.status(&server.token()), 200);
    }
}

#[test]
fn libpq_variables_never_choose_the_database() {
    let url = shared();
    let schema = new_name();
    let place = Place::new();
    let store = ["--store", &url, "--store-schema", &schema];
    let elsewhere =
        [("PGHOST", "192.0.2.1"), ("PGSERVICE", "other"), ("PGUSER", "other"), ("PGSSLKEY", "a.key")];
    let server = place.serve_with(&store, &elsewhere);
    assert_eq!(server.status(&server.token()), 200);
    let log = server.stop().err;
    for (variable, _) in elsewhere {
        assert!(
            log.contains(&format!("the variable {variable} of libpq changes nothing")),
            "{variable}: {log}"
        );
    }
    for (variable, value, says) in [
        ("PGSSLMODE", "allow", "the variable PGSSLMODE must be disable, prefer, require"),
        (
            "PGTARGETSESSIONATTRS",
            "standby",
            "the variable PGTARGETSESSIONATTRS must be any, read-write or primary",
        ),
        ("PGCONNECT_TIMEOUT", "soon", "the variable PGCONNECT_TIMEOUT must be a number of seconds"),
    ] {
        let said = place.run_with(&[&["serve"], &store[..]].concat(), &[(variable, value)], "").refused(2);
        assert!(said.contains(says), "{said}");
    }
    // The URL comes first.
    place.serve_with(
        &["--store", &format!("{url}?sslmode=prefer"), "--store-schema", &schema],
        &[("PGSSLMODE", "allow")],
    );
    let authorities = [("PGSSLMODE", "require"), ("PGSSLROOTCERT", "missing.pem")];
    let said = place.run_with(&[&["serve"], &store[..]].concat(), &authorities, "").refused(1);
    assert!(said.contains("cannot be read from missing.pem"), "{said}");
}
