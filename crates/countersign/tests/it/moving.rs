//! `countersign store move`, with the servers of both stores.

use std::process::Stdio;

use countersign_test_postgres::{Place as Schema, connect, new_name, run, shared};
use countersign_testkit::{seen, until};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::fixture::{Place, Server};
use crate::http;
use crate::process::Process;

const FROM: &str = "sqlite:";
const TO: &str = "sqlite:new/tokens.db";
const MOVE: [&str; 6] = ["store", "move", "--from", FROM, "--to", TO];

fn serve_on(place: &Place, store: &str) -> Server {
    place.serve_with(&["--store", store], &[])
}

/// The sentence with which no server starts on a store.
fn refusal(place: &Place, store: &str) -> String {
    let ended = Process::start(&mut place.serve_command(&["--store", store], &[]), "").ended();
    ended.refused(1)
}

/// What a server has answered for each of many tokens.
struct Answers {
    tokens: Vec<String>,
    statuses: Vec<Vec<u16>>,
}

impl Answers {
    fn new(server: &Server, count: usize) -> Self {
        Self { tokens: (0..count).map(|_| server.token()).collect(), statuses: vec![Vec::new(); count] }
    }

    fn ask(&mut self, server: &Server, tokens: std::ops::Range<usize>) {
        for token in tokens {
            self.statuses[token].push(server.status(&self.tokens[token]));
        }
    }

    /// Tokens up to `used` were accepted once; the others, which were issued later, too, or were refused each time.
    fn hold(&self, used: usize) {
        for (token, statuses) in self.statuses.iter().enumerate() {
            let accepted = statuses.iter().filter(|status| **status == 200).count();
            assert!(accepted == 1 || (token >= used && accepted == 0), "token {token}: {statuses:?}");
            assert!(statuses.iter().all(|status| [200, 401, 503].contains(status)), "{statuses:?}");
        }
    }
}

#[test]
fn moved_store_accepts_no_used_token() {
    let place = Place::new();
    let server = serve_on(&place, FROM);
    let mut answers = Answers::new(&server, 20);
    answers.ask(&server, 0..10);
    let said = place.refusal(&MOVE, 1);
    assert!(said.contains(&format!("is in use by process {}", server.process.id())), "{said}");
    answers.ask(&server, 0..15);
    server.stop();

    let said = place.print(&MOVE);
    assert!(said.contains("moved to sqlite:"), "{said}");
    let there = place.path("new/tokens.db").canonicalize().unwrap();
    assert!(said.ends_with(&format!("serve with --store sqlite:{}", there.display())), "{said}");
    let said = refusal(&place, FROM);
    assert!(said.contains("was handed over to sqlite:") && said.contains("new/tokens.db"), "{said}");
    let server = serve_on(&place, TO);
    answers.ask(&server, 0..20);
    answers.ask(&server, 0..20);
    answers.hold(15);
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    assert!(place.print(&MOVE).contains("was moved to"), "done is done");

    // And back, by the name that the command had before.
    let back = ["store", "copy", "--from", TO, "--to", FROM, "--json"];
    let document: Value = serde_json::from_str(&place.print(&back)).unwrap();
    assert_eq!(document["already"], false);
    assert!(refusal(&place, TO).contains("was handed over to"));
    let server = serve_on(&place, FROM);
    answers.ask(&server, 0..20);
    answers.hold(15);
}

#[test]
fn move_in_wrong_order_is_refused() {
    let place = Place::new();
    let server = serve_on(&place, FROM);
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    let elsewhere = serve_on(&place, "sqlite:other/tokens.db");
    assert_eq!(elsewhere.status(&elsewhere.token()), 200);
    elsewhere.stop();
    for (from, to, code, says) in [
        (FROM, "sqlite:other/tokens.db", 1, "a server has used it"),
        (FROM, "sqlite:countersign-data/countersign.db", 2, "is both --from and --to"),
        (FROM, "sqlite:countersign-data/other.db", 2, "are in one directory"),
        (FROM, "memory:", 2, "lives and dies with its server"),
        (FROM, "postgres://anna:hunter2@127.0.0.1:1/tokens", 1, "127.0.0.1:1/tokens cannot be reached"),
        ("sqlite:nowhere.db", TO, 1, "there is no store at"),
        ("tokens.db", TO, 2, "a store is named by a URL"),
    ] {
        let said = place.refusal(&["store", "move", "--from", from, "--to", to], code);
        assert!(said.contains(says) && !said.contains("hunter2"), "{from} {to}: {said}");
    }
    serve_on(&place, FROM).stop();
    place.print(&MOVE);
    let said = place.refusal(&["store", "move", "--from", FROM, "--to", "sqlite:third/tokens.db"], 1);
    assert!(said.contains("was handed over to sqlite:"), "{said}");
}

/// Every token is used once at most over three stores, and a server that still runs on a store of the past accepts none.
#[test]
fn store_moves_to_postgresql_and_back() {
    let place = Place::new();
    let (url, schema) = (shared(), new_name());
    let flags = ["--store-schema", &schema];
    let on = |store: &str| place.serve_with(&[&["--store", store][..], &flags].concat(), &[]);
    let refusal_of = |store: &str| {
        let arguments = [&["--store", store][..], &flags].concat();
        Process::start(&mut place.serve_command(&arguments, &[]), "").ended().refused(1)
    };

    let server = on(FROM);
    let mut answers = Answers::new(&server, 20);
    answers.ask(&server, 0..10);
    server.stop();
    let there = ["store", "move", "--from", FROM, "--to", &url, flags[0], flags[1]];
    let said = place.print(&there);
    assert!(said.contains("moved to postgres://") && !said.contains("postgres:postgres"), "{said}");
    assert!(said.ends_with(&format!(" --store-schema {schema}")), "{said}");
    let said = refusal_of(FROM);
    let name = format!("(schema {schema}): serve from there");
    assert!(said.contains("was handed over to postgres://127.0.0.1:") && said.contains(&name), "{said}");

    let running = on(&url);
    answers.ask(&running, 0..20);
    answers.hold(10);
    let mut later = Answers::new(&running, 20);
    later.ask(&running, 0..10);
    // Back, and nobody stops the server.
    let back = ["store", "move", "--from", &url, "--to", TO, "--json", flags[0], flags[1]];
    let said = place.refusal(&back, 2);
    assert!(said.contains("name a new one with --to-key-ring"), "{said}");
    later.ask(&running, 0..10);
    // Where the ring cannot be written, the servers of the source are not stopped for it.
    std::fs::write(place.path("there.toml"), "something else").unwrap();
    for (file, says) in
        [("there.toml", "is there already"), ("missing/ring.toml", "No such file or directory")]
    {
        let said = place.refusal(&[&back[..], &["--to-key-ring", file]].concat(), 2);
        assert!(said.contains(file) && said.contains(says), "{said}");
        assert!(!place.path("new/tokens.db").exists(), "nothing was made");
    }
    assert_eq!(std::fs::read(place.path("there.toml")).unwrap(), b"something else");
    assert_eq!(running.status(&running.token()), 200, "it still serves");
    let back = [&back[..], &["--to-key-ring", "new-ring.toml"]].concat();
    assert_eq!(serde_json::from_str::<Value>(&place.print(&back)).unwrap()["already"], false);
    later.ask(&running, 0..20);
    let answer = running.redeem(&later.tokens[19]);
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
    let third = ["store", "move", "--from", &url, "--to", "sqlite:third.db", "--to-key-ring", "third.toml"];
    let said = place.refusal(&[&third[..], &flags].concat(), 1);
    assert!(said.contains("was handed over to sqlite:"), "the wrong order is refused: {said}");
    let doctor = place.run(&["doctor", "--offline", "--store", &url, flags[0], flags[1]]);
    assert!(doctor.out.contains("it was handed over to sqlite:"), "{doctor:?}");
    running.stop();
    assert_eq!(place.mode("new-ring.toml"), 0o600);
    let server = place.serve_with(&["--store", TO, "--key-ring", "new-ring.toml"], &[]);
    later.ask(&server, 0..20);
    later.ask(&server, 0..20);
    later.hold(10);
    answers.ask(&server, 0..20);
    answers.hold(10);
    assert_eq!(server.status(&server.token()), 200);
    server.stop();
    assert_eq!(serde_json::from_str::<Value>(&place.print(&back)).unwrap()["already"], true, "done is done");
}

/// Killed at each of its steps in a real database, where it waits for a lock: never do both stores serve, and the same
/// command completes it.
#[test]
fn move_killed_at_each_step_is_completed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (step, schema_of_lock, lock) in [
        ("the target is reserved", 1, "SELECT 1 FROM {s}.copying FOR UPDATE"),
        ("the source is handed over", 0, "SELECT 1 FROM {s}.lines WHERE stripe = 7 FOR UPDATE"),
        ("the target takes over", 1, "SELECT 1 FROM {s}.ring FOR UPDATE"),
    ] {
        let place = Place::new();
        let schemas = [Schema::new(), Schema::new()];
        let url = schemas[0].url().to_owned();
        let flags = |schema: &Schema| ["--store-schema".to_owned(), schema.schema().to_owned()];
        let serve = |schema: &Schema| {
            let [flag, schema] = flags(schema);
            place.serve_command(&["--store", &url, &flag, &schema], &[])
        };
        let [flag, schema] = flags(&schemas[0]);
        let server = place.serve_with(&["--store", &url, &flag, &schema], &[]);
        let token = server.token();
        assert_eq!(server.status(&token), 200);
        server.stop();
        place.print(&["store", "migrate", "--store", &url, "--store-schema", schemas[1].schema()]);

        let arguments = [
            "store",
            "move",
            "--from",
            &url,
            "--to",
            &url,
            "--store-schema",
            schemas[0].schema(),
            "--to-store-schema",
            schemas[1].schema(),
        ];
        let lock = lock.replace("{s}", schemas[schema_of_lock].schema());
        let states = runtime.block_on(async {
            let holder = connect(&url).await;
            holder.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
            let waiting = format!(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
                schemas[schema_of_lock].schema()
            );
            let mut child =
                place.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let pid = seen("a command that waits for the lock", async || {
                assert!(child.try_wait().unwrap().is_none(), "{step}: it did not wait");
                run(&url, &waiting).await.into_iter().next()
            })
            .await;
            child.kill().unwrap();
            child.wait().unwrap();
            holder.batch_execute("ROLLBACK").await.unwrap();
            // The killed command's transaction ends with its session.
            let there = format!("SELECT pid FROM pg_stat_activity WHERE pid = {pid}");
            seen("the end of its session", async || run(&url, &there).await.is_empty().then_some(())).await;
            let mut states = Vec::new();
            for schema in &schemas {
                states.extend(schema.run("SELECT state FROM {s}.copying").await);
            }
            states
        });
        match step {
            // The target is empty, and no move has begun with it.
            "the target is reserved" => assert_eq!(states, ["0", "0"], "{step}"),
            "the source is handed over" => assert_eq!(states, ["0", "2"], "{step}"),
            _ => assert_eq!(states, ["2", "2"], "{step}"),
        }
        for (schema, state) in schemas.iter().zip(states) {
            if state != "0" {
                let said = Process::start(&mut serve(schema), "").ended().refused(1);
                assert!(said.contains("was handed over to"), "{step}: {said}");
            }
        }
        let said = place.print(&arguments);
        assert!(said.contains("moved to postgres:"), "{step}: {said}");
        let said = Process::start(&mut serve(&schemas[0]), "").ended().refused(1);
        assert!(said.contains("was handed over to"), "{step}: {said}");
        let [flag, schema] = flags(&schemas[1]);
        let server = place.serve_with(&["--store", &url, &flag, &schema], &[]);
        assert_eq!(server.status(&token), 401, "{step}");
        assert_eq!(server.status(&server.token()), 200, "{step}");
        server.stop();
    }
}

/// Killed when it has got so far, again and again, until there is nothing left to do: never do both stores serve.
#[test]
fn repeatedly_killed_move_is_completed() {
    let place = Place::new();
    let server = serve_on(&place, FROM);
    let token = server.token();
    assert_eq!(server.status(&token), 200);
    server.stop();
    let source = "countersign-data/countersign.db";
    let moments: [(&str, &dyn Fn() -> bool); 4] = [
        ("the target is there", &|| place.path("new/tokens.db").exists()),
        ("the target is reserved", &|| state(&place, "new/tokens.db") == Some(2)),
        ("the source is handed over", &|| state(&place, source) == Some(2)),
        ("the target serves", &|| {
            state(&place, source) == Some(2) && state(&place, "new/tokens.db") == Some(0)
        }),
    ];
    for (moment, has_come) in moments {
        let mut child = place.command(MOVE).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until(moment, || (has_come() || child.try_wait().unwrap().is_some()).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        let states = [state(&place, source), state(&place, "new/tokens.db")];
        // A target that was just made knows of no token, and its fence refuses those of the source.
        let fresh = moment == "the target is there";
        assert!(fresh || states != [Some(0), Some(0)], "{states:?} when {moment}");
    }
    let said = place.print(&MOVE);
    assert!(said.contains("moved to sqlite:"), "{said}");
    assert_eq!((state(&place, source), state(&place, "new/tokens.db")), (Some(2), Some(0)));
    assert!(refusal(&place, FROM).contains("was handed over"));
    let server = serve_on(&place, TO);
    assert_eq!(server.status(&token), 401);
    assert_eq!(server.status(&server.token()), 200);
}

/// The state that a database is in, as far as it has one.
fn state(place: &Place, path: &str) -> Option<i64> {
    if !place.path(path).exists() {
        return None;
    }
    // Only to read: the last one who closes a database that he may write takes its log away.
    let read = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(place.path(path), read).unwrap();
    database.query_row("SELECT state FROM copying", (), |row| row.get(0)).ok()
}
