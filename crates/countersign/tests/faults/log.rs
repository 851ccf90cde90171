//! Readers of the log that are gone, full or asleep.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use crate::http::soon;
use crate::server::{Launch, Place, Server};

/// Enough refusals to fill whatever waits for the log, each of them a line or more.
const MANY: usize = 12_000;

async fn make_it_log(server: &Server, refusals: usize) {
    let mut wires = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut wire = crate::http::Wire::open(server.public).await;
        wires.spawn(async move {
            for _ in 0..refusals / 8 {
                assert_eq!(wire.ask("POST", &crate::server::path("cs1forged"), "").await.status, 404);
            }
        });
    }
    wires.join_all().await;
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
}

fn talkative(stderr: Option<Stdio>, before: &'static str) -> Launch<'static> {
    Launch { before, stderr, log_level: "debug", arguments: &["--refusals-per-minute", "0"] }
}

#[tokio::test]
async fn closed_or_full_stderr_stops_no_server() {
    let (reader, abandoned) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for launch in [
        talkative(None, "exec 2>&-"),
        talkative(Some(full.into()), ""),
        talkative(Some(abandoned.into()), ""),
    ] {
        let place = Place::new();
        let server = place.start_with(launch).await;
        make_it_log(&server, 200).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_log_delays_nothing() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let place = Place::new();
    let server = place.start_with(talkative(Some(writer.into()), "")).await;
    make_it_log(&server, MANY).await;

    // Somebody reads after all, and is told that lines are missing.
    let reading = tokio::task::spawn_blocking(move || {
        let mut log = Vec::new();
        let mut piece = [0; 8 * 1024];
        while !String::from_utf8_lossy(&log).contains("lines of this log were lost") {
            match reader.read(&mut piece).unwrap() {
                0 => panic!("the log ends without a word about what is missing"),
                length => log.extend_from_slice(&piece[..length]),
            }
        }
        reader
    });
    let reader = soon("the word about lost lines", reading).await.unwrap();
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    server.stop().await;
    drop(reader);
}

#[tokio::test]
async fn many_replays_take_few_log_lines() {
    const REPLAYS: usize = 400;
    let place = Place::new();
    let server = place.start().await;
    let tokens = server.tokens(2).await;
    let mut wire = crate::http::Wire::open(server.public).await;
    for token in &tokens {
        assert_eq!(wire.ask("POST", &crate::server::path(token), "").await.status, 200);
        for _ in 0..REPLAYS / 2 {
            let status = wire.ask("POST", &crate::server::path(token), "").await.status;
            assert!([401, 429].contains(&status), "{status}");
        }
        assert_eq!(wire.ask("GET", &crate::server::path(token), "").await.status, 405);
    }
    let metrics = server.private("GET", "/metrics").await.body;
    let counted = format!("outcome=\"replay\"}} {REPLAYS}\n");
    assert!(metrics.contains(&counted), "{metrics}");
    // The server writes the summary of the last minute when it stops.
    server.stop().await;
    let log = place.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).collect::<Vec<_>>();
    assert_eq!(lines("a token was used a second time").len(), 1, "{log}");
    let sums = lines("more tokens were used a second time");
    assert!(matches!(*sums, [sum] if sum.contains(&format!("count={}", REPLAYS - 1))), "{log}");
    assert_eq!(lines("reason=\"method\"").len(), 2, "one in full, and one of the other: {log}");
}
