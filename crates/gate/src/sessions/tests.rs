use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::events::EventKind;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn new(value: &str, issuer: &str, began: i64) -> Session {
    Session {
        id: id_of(&Digest::of(value)),
        tracker: "https://bugs.example.org/".to_owned(),
        issuer: issuer.to_owned(),
        user: "launchpad".to_owned(),
        peer: Some("192.0.2.1".to_owned()),
        began: at(began),
        ends: at(began + 60),
    }
}

async fn is_open(sessions: &Sessions, value: &str, now: i64) -> bool {
    sessions.find(Digest::of(value), at(now)).await.unwrap().is_some()
}

/// How many were ended, all of which were recorded.
async fn ended(sessions: &Sessions, which: WhichSessions) -> usize {
    let Ended { number, unrecorded } = sessions.end(which, at(1)).await.unwrap();
    assert!(unrecorded.is_none(), "{unrecorded:?}");
    number
}

#[tokio::test]
async fn session_is_valid_in_every_gate() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    let other = Sessions::open(directory.path()).unwrap();
    for gate in [&sessions, &other] {
        assert!(is_open(gate, "a", 59).await);
        assert!(!is_open(gate, "a", 60).await);
        assert!(!is_open(gate, "b", 0).await);
    }
    let listed = other.list(at(0)).await.unwrap();
    assert_eq!(listed, [sessions.find(Digest::of("a"), at(0)).await.unwrap().unwrap()]);
    assert_eq!(listed[0].id, id_of(&Digest::of("a")));
    // The next login removes what has ended.
    sessions.begin(Digest::of("b"), new("b", "launchpad", 60), 10).await.unwrap();
    assert_eq!(sessions.list(at(0)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn ended_session_is_rejected_in_every_gate() {
    let directory = TempDir::new().unwrap();
    let (one, two) = (Sessions::open(directory.path()).unwrap(), Sessions::open(directory.path()).unwrap());
    for (value, issuer) in [("a", "launchpad"), ("b", "launchpad"), ("c", "other"), ("d", "other")] {
        one.begin(Digest::of(value), new(value, issuer, 0), 10).await.unwrap();
    }
    assert!(is_open(&two, "a", 0).await);
    let id = id_of(&Digest::of("a")).to_uppercase();
    assert_eq!(ended(&one, WhichSessions::Id(id.clone())).await, 1);
    assert!(!is_open(&two, "a", 0).await);
    assert_eq!(ended(&one, WhichSessions::Id(id)).await, 0);
    for id in ["", "%", "0"] {
        assert_eq!(ended(&one, WhichSessions::Id(id.to_owned())).await, 0, "{id}");
    }
    assert_eq!(ended(&two, WhichSessions::Issuer("other".to_owned())).await, 2);
    assert!(is_open(&one, "b", 0).await && !is_open(&one, "c", 0).await);
    assert_eq!(ended(&two, WhichSessions::All).await, 1);
    assert_eq!(one.list(at(0)).await.unwrap(), []);
    let kinds = vec![EventKind::SessionEnded];
    let ended = one.events(EventQuery { kinds, ..EventQuery::default() }).await.unwrap();
    let of = |event: &Event| (event.issuer.clone().unwrap(), event.reason.clone().unwrap(), event.at);
    let [launchpad, other] =
        ["launchpad", "other"].map(|issuer| (issuer.to_owned(), "operator".to_owned(), at(1)));
    assert_eq!(
        ended.iter().map(of).collect::<Vec<_>>(),
        [&launchpad, &other, &other, &launchpad].map(Clone::clone)
    );
    assert_eq!(ended[0].session.as_deref(), Some(&*id_of(&Digest::of("a"))));
}

#[tokio::test]
async fn issuers_oldest_sessions_are_evicted() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("other"), new("other", "other", 0), 2).await.unwrap();
    // A clock that steps back does not end the newest.
    for (value, began) in [("a", 3), ("b", 2), ("c", 1)] {
        sessions.begin(Digest::of(value), new(value, "launchpad", began), 2).await.unwrap();
    }
    for (value, expected) in [("a", false), ("b", true), ("c", true), ("other", true)] {
        assert_eq!(is_open(&sessions, value, 5).await, expected, "{value}");
    }
    let events = sessions.events(EventQuery::default()).await.unwrap();
    let ended = events.iter().filter(|event| event.reason.as_deref() == Some("max_sessions"));
    assert_eq!(
        ended.map(|event| event.session.clone().unwrap()).collect::<Vec<_>>(),
        [id_of(&Digest::of("a"))]
    );
}

#[tokio::test]
async fn logins_of_two_gates_at_once_all_succeed() {
    let directory = TempDir::new().unwrap();
    let gates = [Sessions::open(directory.path()).unwrap(), Sessions::open(directory.path()).unwrap()];
    let logins = (0..40).map(|number| {
        let gate = gates[number % 2].clone();
        tokio::spawn(async move {
            gate.begin(Digest::of(&number.to_string()), new(&number.to_string(), "launchpad", 0), 100).await
        })
    });
    for login in logins.collect::<Vec<_>>() {
        login.await.unwrap().unwrap();
    }
    assert_eq!(gates[0].list(at(0)).await.unwrap().len(), 40);
}

#[tokio::test]
async fn events_survive_a_restart_and_old_ones_are_purged() {
    let directory = TempDir::new().unwrap();
    let refused = |at| Event::refused(EventKind::LoginRefused, "spent", Some("launchpad"), None, at, 7);
    let month = 30 * 24 * 3600;
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    sessions.note(refused(at(1))).await.unwrap();
    drop(sessions);
    let sessions = Sessions::open_existing(directory.path()).unwrap();
    let all = sessions.events(EventQuery::default()).await.unwrap();
    assert_eq!(all[0].session.as_deref(), Some(&*id_of(&Digest::of("a"))));
    assert_eq!((all.len(), &*all[0].kind, &all[1]), (2, "login", &refused(at(1))));
    for (query, expected) in [
        (EventQuery { since: Some(at(1)), ..EventQuery::default() }, "login-refused"),
        (EventQuery { kinds: vec![EventKind::Login], ..EventQuery::default() }, "login"),
        (EventQuery { limit: Some(1), ..EventQuery::default() }, "login-refused"),
    ] {
        let found = sessions.events(query).await.unwrap();
        assert_eq!((found.len(), &*found[0].kind), (1, expected));
    }
    sessions.note(refused(at(month + 1))).await.unwrap();
    assert_eq!(
        sessions.events(EventQuery::default()).await.unwrap(),
        [refused(at(1)), refused(at(month + 1))]
    );
}

#[tokio::test]
async fn unrecordable_refusals_delay_no_request() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    let other = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = || Event::refused(EventKind::RequestRefused, "session_over", None, None, at(1), 0);
    let refusals: Vec<_> = (0..4)
        .map(|_| {
            let sessions = sessions.clone();
            tokio::spawn(async move { sessions.note(refused()).await })
        })
        .collect();
    let login = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.begin(Digest::of("b"), new("b", "launchpad", 0), 10).await }
    });
    for refusal in refusals {
        assert!(refusal.await.unwrap().is_err(), "the other process writes");
        // Asked while the login waits for that process.
        assert!(is_open(&sessions, "a", 1).await);
    }
    assert!(!login.is_finished(), "the refusals took longer than a login's patience");
    other.execute_batch("COMMIT").unwrap();
    login.await.unwrap().unwrap();
}

#[tokio::test]
async fn session_ends_even_if_unrecorded() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    file.execute_batch("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    let Ended { number, unrecorded } = sessions.end(WhichSessions::All, at(1)).await.unwrap();
    assert_eq!(number, 1);
    assert!(unrecorded.unwrap().to_string().contains("full"));
    assert!(!is_open(&sessions, "a", 1).await);
}

#[tokio::test]
async fn refusals_displace_no_login_event() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    let refused = |at| Event::refused(EventKind::RequestRefused, "session_over", None, None, at, 0);
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    sessions.note(refused(at(1))).await.unwrap();
    let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    file.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [events::MOST_EVENTS]).unwrap();
    for second in [2, 3] {
        sessions.note(refused(at(second))).await.unwrap();
    }
    let left = sessions.events(EventQuery::default()).await.unwrap();
    let left: Vec<_> = left.iter().map(|event| (&*event.kind, event.at)).collect();
    let [second, third] = [2, 3].map(|second| ("request-refused", at(second)));
    assert_eq!(left, [("login", at(0)), second, third]);
}

#[tokio::test]
async fn clock_jump_purges_no_event() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    let refused = |at| Event::refused(EventKind::RequestRefused, "session_over", None, None, at, 0);
    for second in 0..100 {
        sessions.note(refused(at(second))).await.unwrap();
    }
    sessions.note(refused(at(365 * 24 * 3600))).await.unwrap();
    let left = sessions.events(EventQuery::default()).await.unwrap();
    assert_eq!((left.len(), left[0].at), (91, at(10)), "the oldest ten went");
}

#[tokio::test]
async fn file_of_an_older_gate_keeps_its_sessions() {
    let directory = TempDir::new().unwrap();
    let sessions = Sessions::open(directory.path()).unwrap();
    sessions.begin(Digest::of("a"), new("a", "launchpad", 0), 10).await.unwrap();
    drop(sessions);
    // As the first version left it.
    let file = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    file.execute_batch("DROP TABLE events; PRAGMA user_version = 1").unwrap();
    drop(file);
    let sessions = Sessions::open(directory.path()).unwrap();
    assert!(is_open(&sessions, "a", 0).await);
    assert_eq!(sessions.events(EventQuery::default()).await.unwrap(), []);
}

#[test]
fn inspection_creates_no_file() {
    let directory = TempDir::new().unwrap();
    let error = Sessions::open_existing(directory.path()).unwrap_err().to_string();
    assert!(error.contains("no gate has begun to use"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn file_that_is_unsafe_or_newer_is_rejected() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE_NAME);
    drop(Sessions::open(directory.path()).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = Sessions::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("can be changed by other users"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    assert!(matches!(Sessions::open(directory.path()), Err(SessionError::Newer { found: 3, .. })));
}

#[test]
fn part_of_the_reserve_is_made_whole() {
    let directory = TempDir::new().unwrap();
    let reserve = directory.path().join(RESERVE_NAME);
    for before in [None, Some(""), Some("a part")] {
        if let Some(text) = before {
            fs::write(&reserve, text).unwrap();
        }
        Sessions::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), RESERVE_BYTES as u64, "{before:?}");
    }
}
