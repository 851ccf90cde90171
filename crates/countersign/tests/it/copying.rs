//! `countersign store copy`, with the servers of both stores.

use std::process::Stdio;

use countersign_test_postgres::{new_name, shared};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::fixture::{Place, Server};
use crate::http;
use crate::process::Process;

const FROM: &str = "sqlite:";
const TO: &str = "sqlite:new/tokens.db";
const COPY: [&str; 6] = ["store", "copy", "--from", FROM, "--to", TO];

fn serve_on(place: &Place, store: &str) -> Server {
    place.serve_with(&["--store", store], &[])
}

/// The sentence with which no server starts on a store.
fn refusal(place: &Place, store: &str) -> String {
    let ended = Process::start(&mut place.serve_command(&["--store", store], &[]), "").ended();
    ended.refused(1)
}

#[test]
fn a_store_moves_while_tokens_are_live() {
    let place = Place::new();
    let server = serve_on(&place, FROM);
    let tokens: Vec<String> = (0..30).map(|_| server.token()).collect();
    let mut answers = vec![Vec::new(); tokens.len()];
    let ask =
        |server: &Server, tokens: std::ops::Range<usize>, answers: &mut Vec<Vec<u16>>, all: &[String]| {
            for token in tokens {
                answers[token].push(server.status(&all[token]));
            }
        };
    ask(&server, 0..10, &mut answers, &tokens);

    let mut copying = Process::start(&mut place.command(COPY), "");
    let said = copying.err.with(": this waits for it");
    assert!(said.contains(&format!("(process {})", server.process.id())), "{said}");
    assert!(refusal(&place, TO).contains("is in use by process"), "the target is not served meanwhile");
    ask(&server, 0..20, &mut answers, &tokens);
    server.stop();
    let ended = copying.ended();
    assert!(ended.code == Some(0) && ended.out.contains("copied 20 records"), "{ended:?}");

    let said = refusal(&place, FROM);
    assert!(said.contains("was handed over to sqlite:") && said.contains("new/tokens.db"), "{said}");
    let server = serve_on(&place, TO);
    for _ in 0..2 {
        ask(&server, 0..30, &mut answers, &tokens);
    }
    for (token, answers) in answers.iter().enumerate() {
        assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "token {token}: {answers:?}");
        assert_eq!(answers.iter().filter(|status| **status == 401).count(), answers.len() - 1);
    }
    server.stop();
    assert!(place.print(&COPY).contains("has been copied"), "done is done");

    // And back.
    let back = ["store", "copy", "--from", TO, "--to", FROM, "--json"];
    let document: Value = serde_json::from_str(&place.print(&back)).unwrap();
    assert_eq!((&document["records"], &document["already"]), (&Value::from(30), &Value::from(false)));
    assert!(refusal(&place, TO).contains("was handed over to"));
    let server = serve_on(&place, FROM);
    for token in &tokens {
        assert_eq!(server.status(token), 401);
    }
}

#[test]
fn the_wrong_order_is_refused() {
    let place = Place::new();
    let server = serve_on(&place, FROM);
    assert_eq!(server.status(&server.token()), 200);
    let said = place.refusal(&[&COPY[..], &["--no-wait"]].concat(), 1);
    assert!(said.contains("is in use by process"), "{said}");
    let said = refusal(&place, TO);
    assert!(said.contains("is an incomplete copy of sqlite:") && said.contains("store copy"), "{said}");
    assert_eq!(server.status(&server.token()), 200, "the source does not mind");
    server.stop();
    serve_on(&place, FROM).stop();

    let elsewhere = serve_on(&place, "sqlite:other/tokens.db");
    assert_eq!(elsewhere.status(&elsewhere.token()), 200);
    elsewhere.stop();
    let said = place.refusal(&["store", "copy", "--from", FROM, "--to", "sqlite:other/tokens.db"], 1);
    assert!(said.contains("is a store that serves and is not empty"), "{said}");
    let said = place.refusal(&["store", "copy", "--from", "sqlite:other/tokens.db", "--to", TO], 1);
    assert!(said.contains("is receiving a copy of sqlite:"), "{said}");
    for (from, to, code, says) in [
        (FROM, "sqlite:countersign-data/countersign.db", 2, "is both --from and --to"),
        (FROM, "memory:", 2, "lives and dies with its server"),
        (FROM, "postgres://anna:hunter2@127.0.0.1:1/tokens", 1, "127.0.0.1:1/tokens cannot be reached"),
        ("sqlite:nowhere.db", TO, 1, "there is no store at"),
        ("tokens.db", TO, 2, "a store is named by a URL"),
    ] {
        let said = place.refusal(&["store", "copy", "--from", from, "--to", to], code);
        assert!(said.contains(says) && !said.contains("hunter2"), "{from} {to}: {said}");
    }
    place.print(&COPY);
    let said = place.refusal(&["store", "copy", "--from", FROM, "--to", "sqlite:third.db"], 1);
    assert!(said.contains("has been handed over to sqlite:"), "{said}");
}

/// Every token is used once over three stores, and a server that goes on running on a store of the past never says yes.
#[test]
fn a_store_moves_to_postgresql_and_back_while_tokens_are_live() {
    let place = Place::new();
    let (url, schema) = (shared(), new_name());
    let flags = ["--store-schema", &schema];
    let copy = |from: &str, to: &str| -> Vec<String> {
        [&["store", "copy", "--from", from, "--to", to, "--json"][..], &flags]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let on = |store: &str| place.serve_with(&[&["--store", store][..], &flags].concat(), &[]);
    let refusal_of = |store: &str| {
        let arguments = [&["--store", store][..], &flags].concat();
        Process::start(&mut place.serve_command(&arguments, &[]), "").ended().refused(1)
    };
    let records = |out: &str| serde_json::from_str::<Value>(out).unwrap()["records"].clone();

    let server = on(FROM);
    let tokens: Vec<String> = (0..50).map(|_| server.token()).collect();
    let mut answers = vec![Vec::new(); tokens.len()];
    let mut ask = |server: &Server, range: std::ops::Range<usize>| {
        for token in range {
            answers[token].push(server.status(&tokens[token]));
        }
    };
    ask(&server, 0..10);
    let arguments = copy(FROM, &url);
    let mut copying = Process::start(&mut place.command(arguments.iter().map(String::as_str)), "");
    let said = copying.err.with(": this waits for it");
    assert!(!said.contains("postgres:postgres"), "{said}");
    let said = refusal_of(&url);
    assert!(said.contains("is an incomplete copy of sqlite:"), "{said}");
    ask(&server, 0..20);
    server.stop();
    let ended = copying.ended();
    assert_eq!((ended.code, records(&ended.out)), (Some(0), Value::from(20)), "{ended:?}");
    assert!(!ended.out.contains("postgres:postgres"), "{ended:?}");
    let said = refusal_of(FROM);
    let name = format!("(schema {schema}): serve from there");
    assert!(said.contains("was handed over to postgres://127.0.0.1:") && said.contains(&name), "{said}");

    let running = on(&url);
    ask(&running, 0..30);
    // Back, and nobody stops the server.
    let arguments = copy(&url, TO);
    let back: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = place.refusal(&back, 2);
    assert!(said.contains("name a new one with --to-key-ring"), "{said}");
    ask(&running, 0..30);
    let back = [&back[..], &["--to-key-ring", "new-ring.toml"]].concat();
    assert_eq!(records(&place.print(&back)), Value::from(30));
    ask(&running, 0..50);
    let answer = running.redeem(&tokens[49]);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{answer:?}");
    let asked = http::get(&format!("{}/readyz", running.public));
    assert_eq!(asked.status, 503);
    let said = running.process.err.with("the store cannot be used: handshakes are answered 503");
    assert!(
        said.contains("was handed over to sqlite:") || said.contains("it was handed over to another store"),
        "{said}"
    );
    let said = refusal_of(&url);
    assert!(said.contains("was handed over to sqlite:") && said.contains("new/tokens.db"), "{said}");
    let said =
        place.refusal(&["store", "copy", "--from", &url, "--to", "sqlite:third.db", flags[0], flags[1]], 1);
    assert!(said.contains("has been handed over to sqlite:"), "the wrong order is refused: {said}");
    assert_eq!(serde_json::from_str::<Value>(&place.print(&back)).unwrap()["already"], true, "done is done");
    let doctor = place.run(&["doctor", "--offline", "--store", &url, flags[0], flags[1]]);
    assert!(doctor.out.contains("it was handed over to sqlite:"), "{doctor:?}");
    running.stop();
    assert_eq!(place.mode("new-ring.toml"), 0o600);
    let server = place.serve_with(&["--store", TO, "--key-ring", "new-ring.toml"], &[]);
    for _ in 0..2 {
        ask(&server, 0..50);
    }
    for (token, answers) in answers.iter().enumerate() {
        assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "token {token}: {answers:?}");
        assert_eq!(answers.iter().filter(|status| **status == 503).count(), 1, "token {token}: {answers:?}");
    }
}

/// Killed when it has got so far, again and again, until there is nothing left to do: never do both stores serve.
#[test]
fn a_copy_that_is_killed_goes_on_where_it_was() {
    let place = Place::new();
    serve_on(&place, FROM).stop();
    let database = Connection::open(place.path("countersign-data/countersign.db")).unwrap();
    let (fence, count): (i64, i64) =
        (database.query_row("SELECT fence FROM store", (), |row| row.get(0)).unwrap(), 20_000);
    database
        .execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
             INSERT INTO endings (id, expires, early, kind)
             SELECT unhex(printf('%012x7%03x8%015x', ?1 + n, n % 4096, n)), ?1 + n + 300000, 200000, 0 FROM n",
            (fence, count),
        )
        .unwrap();
    drop(database);
    let moments: [(&str, &dyn Fn() -> bool); 7] = [
        ("the target is there", &|| place.path("new/tokens.db").exists()),
        ("it receives", &|| state(&place, "new/tokens.db") == Some(1)),
        ("something is copied", &|| records(&place, "new/tokens.db") > 0),
        ("half of it is copied", &|| records(&place, "new/tokens.db") > count / 2),
        ("all of it is copied", &|| records(&place, "new/tokens.db") == count),
        ("the source is handed over", &|| state(&place, "countersign-data/countersign.db") == Some(2)),
        ("the target serves", &|| {
            state(&place, "new/tokens.db") == Some(0) && records(&place, "new/tokens.db") > 0
        }),
    ];
    for (moment, has_come) in moments {
        let mut child = place.command(COPY).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !has_come() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let states = [state(&place, "countersign-data/countersign.db"), state(&place, "new/tokens.db")];
        let serving = states.iter().filter(|state| **state == Some(0)).count();
        // A target that was just made and is empty knows of no token, and its fence refuses those of the source.
        let fresh = states == [Some(0), Some(0)] && records(&place, "new/tokens.db") == 0;
        assert!(serving <= 1 || fresh, "{states:?} when {moment}");
    }
    let said = place.print(&COPY);
    assert!(said.contains("has been copied") || said.contains("copied 20000 records"), "{said}");
    assert_eq!(records(&place, "new/tokens.db"), count);
    assert_eq!(
        (state(&place, "countersign-data/countersign.db"), state(&place, "new/tokens.db")),
        (Some(2), Some(0))
    );
    assert!(refusal(&place, FROM).contains("was handed over"));
    let server = serve_on(&place, TO);
    assert_eq!(server.status(&server.token()), 200);
}

fn query(place: &Place, path: &str, sql: &str) -> Option<i64> {
    if !place.path(path).exists() {
        return None;
    }
    // Only to read: the last one who closes a database that he may write takes its log away.
    let read = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(place.path(path), read).unwrap();
    database.query_row(sql, (), |row| row.get(0)).ok()
}

fn state(place: &Place, path: &str) -> Option<i64> {
    query(place, path, "SELECT state FROM copying")
}

fn records(place: &Place, path: &str) -> i64 {
    query(place, path, "SELECT count(*) FROM endings").unwrap_or_default()
}
