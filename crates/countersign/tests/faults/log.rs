//! Whoever reads the log: gone, full, asleep.

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
async fn a_log_that_is_closed_full_or_left_by_its_reader() {
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
async fn a_log_that_nobody_reads_holds_up_nobody() {
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
