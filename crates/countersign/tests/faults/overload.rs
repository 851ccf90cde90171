//! More than it can take: connections that do nothing, forged tokens, a disk that does not keep up.

use std::sync::Arc;

use crate::http::{Answer, Wire, seen, soon};
use crate::server::{Place, Server, path};
use crate::shim::Dial;

/// How many handshakes wait for the store, besides those that it is at.
pub(crate) const QUEUE: usize = 4096;

/// The memory of an idle server, and what each connection may add, in KiB. `docs/limits.md` states both.
pub(crate) const BASE_KIB: u64 = 64 * 1024;
pub(crate) const CONNECTION_KIB: u64 = 48;

/// Lets this process have so many connections.
fn make_room(connections: usize) {
    let needed = u64::try_from(connections + 200).unwrap();
    let got = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(got >= needed, "the tests need {needed} open files (ulimit -Hn), and the system grants {got}");
}

fn assert_memory_is_bounded(server: &Server, connections: usize) {
    let bound = BASE_KIB + CONNECTION_KIB * u64::try_from(connections).unwrap();
    let most = server.memory("VmHWM");
    assert!(most <= bound, "{most} KiB at the most, more than {bound} KiB for {connections} connections");
}

/// How many connections the test of the idle ones holds open.
fn idle_connections() -> usize {
    match std::env::var("COUNTERSIGN_IDLE_CONNECTIONS") {
        Ok(count) => count.parse().expect("COUNTERSIGN_IDLE_CONNECTIONS is a number"),
        Err(_) => 2000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_delay_no_request() {
    let count = idle_connections();
    make_room(count);
    let place = Place::new();
    let server = place.start_for_many().await;
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    let long = "x".repeat(15 * 1024);
    let mut idle = Vec::with_capacity(count);
    for (kind, sent) in [
        ("that sent nothing", String::new()),
        ("that were kept alive", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("with half a head", "POST /token/".to_owned()),
        ("with half a head of 15 KiB", format!("GET / HTTP/1.1\r\nX: {long}")),
        (
            "with a head of 15 KiB and half a body of 8 KiB",
            format!(
                "POST {} HTTP/1.1\r\nHost: a\r\nX: {long}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: 8000\r\n\r\naudience={}",
                path("cs1forged"),
                &long[..7500]
            ),
        ),
    ] {
        let before = server.memory("VmRSS");
        for _ in 0..count / 5 {
            let mut wire = Wire::open(server.public).await;
            wire.send(sent.as_bytes()).await;
            if sent.ends_with("\r\n\r\n") {
                assert_eq!(wire.answer().await.unwrap().status, 200);
            }
            idle.push(wire);
        }
        // This one's answer comes after the others have been read.
        assert_eq!(server.get(server.public, "/healthz").await.status, 200);
        let each = server.memory("VmRSS").saturating_sub(before) * 5 * 1024 / u64::try_from(count).unwrap();
        println!("{} connections {kind}: {each} bytes each", count / 5);
    }
    let used: Vec<String> = server.tokens(20).await;
    for token in &used {
        assert_eq!(server.handshake(token).await.status, 200);
        assert_eq!(server.handshake(token).await.status, 401);
    }
    assert!(server.sockets() >= count / 5 * 5, "they are still there: {} of {count}", server.sockets());
    println!("{count} connections: {} KiB at the most", server.memory("VmHWM"));
    assert_memory_is_bounded(&server, count);
    drop(idle);
    server.stop().await;
}

/// Tokens that are none: malformed, of another server's key, and with one letter changed.
async fn forged() -> Vec<String> {
    let (place, other) = (Place::new(), Place::new());
    let real = place.start().await.token().await;
    let mut forged = other.start().await.tokens(5).await;
    forged.extend(["x", "cs1", "cs2aaaa", "%00", "..%2f..%2f"].map(str::to_owned));
    forged.push("cs1".to_owned() + &"a".repeat(4000));
    for at in [3, 10, 30, real.len() - 1] {
        let changed = if &real[at..=at] == "b" { "c" } else { "b" };
        forged.push(format!("{}{changed}{}", &real[..at], &real[at + 1..]));
    }
    forged
}

/// Sends each of `tokens` many times over many connections. Returns how often each status was answered.
async fn flood(server: &Server, tokens: &Arc<Vec<String>>, rounds: usize) -> (usize, usize) {
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (mut wire, tokens) = (Wire::open(server.public).await, Arc::clone(tokens));
        senders.spawn(async move {
            let (mut not_found, mut too_many) = (0, 0);
            for token in tokens.iter().cycle().take(rounds * tokens.len()) {
                let answer = wire.ask("POST", &path(token), "").await;
                match answer.status {
                    404 => not_found += 1,
                    429 if answer.header("retry-after").is_some() => too_many += 1,
                    _ => panic!("{token}: {answer:?}"),
                }
            }
            (not_found, too_many)
        });
    }
    let counts = senders.join_all().await;
    (counts.iter().map(|count| count.0).sum(), counts.iter().map(|count| count.1).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_do_not_reach_the_store() {
    make_room(100);
    let tokens = Arc::new(forged().await);
    let place = Place::new();
    let server = place.start_unlimited().await;
    // An idle server has finished its work at the start.
    let settled = async || {
        let touches = place.shim.read(Dial::Touches);
        flood(&server, &tokens, 1).await;
        (place.shim.read(Dial::Touches) == touches).then_some(touches)
    };
    let touches = seen("a store at rest", settled).await;
    assert_ne!(touches, 0, "they are counted");
    let all = 32 * 20 * tokens.len();
    assert_eq!(flood(&server, &tokens, 20).await, (all, 0));
    assert_eq!(place.shim.read(Dial::Touches), touches, "neither read nor written");
    assert!(place.bytes_of_events() < 512 * 1024, "events of it take bounded room");
    assert_memory_is_bounded(&server, 100);

    let honest = server.tokens(20).await;
    let accepted = async {
        for token in &honest {
            assert_eq!(server.handshake(token).await.status, 200);
        }
    };
    tokio::join!(accepted, flood(&server, &tokens, 20));
    assert_ne!(place.shim.read(Dial::Touches), touches, "the honest ones are written");
    assert_memory_is_bounded(&server, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_over_the_limit_become_429() {
    make_room(100);
    let tokens = Arc::new(forged().await);
    let place = Place::new();
    let server = place.start().await;
    let (not_found, too_many) = flood(&server, &tokens, 10).await;
    assert!(not_found >= 1000, "{not_found} in all, and 1000 a minute are allowed");
    assert!(too_many > 0, "of {not_found}");
    // One more refusal is allowed every 60 ms, so any single one may be.
    let (_, too_many) = flood(&server, &tokens, 1).await;
    assert!(too_many > 0);
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    assert_memory_is_bounded(&server, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_of_the_disk_is_refused_without_loss() {
    const TOO_MANY: usize = 50;
    let connections = 1 + QUEUE + TOO_MANY;
    make_room(connections);
    let place = Place::new();
    let server = place.start_for_many().await;
    let tokens = server.tokens(connections).await;
    assert_eq!(server.handshake(&server.token().await).await.status, 200);

    // The disk hangs with the first one on its way, and the rest queues up behind it.
    place.shim.set(Dial::Hang, 1);
    let mut waiting = vec![asked(&server, &tokens[0]).await];
    let hangs = async || (place.shim.read(Dial::Hanging) > 0).then_some(());
    seen("a disk that hangs", hangs).await;
    for token in &tokens[1..] {
        waiting.push(asked(&server, token).await);
    }
    // Which of them find the queue full is for the server to say; it says so without waiting.
    let mut answers = tokio::task::JoinSet::new();
    for (number, mut wire) in waiting.into_iter().enumerate() {
        answers.spawn(async move { (number, wire.answer().await.expect("an answer")) });
    }
    let mut refused = Vec::new();
    for _ in 0..TOO_MANY {
        refused.push(soon("a refusal", answers.join_next()).await.unwrap().unwrap());
    }
    assert!(answers.try_join_next().is_none(), "the queue holds {QUEUE}");
    let busy = |answer: &Answer| (answer.status, answer.header("retry-after").map(str::to_owned));
    for (_, answer) in &refused {
        assert_eq!(busy(answer), (503, Some("1".to_owned())), "{answer:?}");
    }
    assert_memory_is_bounded(&server, connections);
    assert_eq!(server.handshake("cs1forged").await.status, 404);

    place.shim.set(Dial::Hang, 0);
    let accepted = soon("the rest", answers.join_all()).await;
    assert_eq!(accepted.len(), 1 + QUEUE);
    assert!(accepted.iter().all(|(_, answer)| answer.status == 200));
    for (number, _) in refused {
        assert_eq!(
            server.handshake(&tokens[number]).await.status,
            200,
            "it was not consumed without an answer"
        );
    }
    for (number, _) in accepted.iter().take(100) {
        assert_eq!(server.handshake(&tokens[*number]).await.status, 401);
    }
    server.stop().await;
}

/// Asks for a handshake and does not wait for its answer.
async fn asked(server: &Server, token: &str) -> Wire {
    let mut wire = Wire::open(server.public).await;
    wire.request("POST", &path(token), "").await;
    wire
}
