//! The disk: full, broken, read-only, too small. Each time: nothing is accepted, one sentence says why, it comes back by
//! itself, and nothing is lost that was answered.

use rlimit::Resource;

use crate::server::{Place, Turned, assert_fails_closed, assert_is_back};
use crate::shim::Dial;

/// Lets a server run into a fault and out of it. Returns what it logged when the fault began.
async fn through(dials: &[(Dial, i32)]) -> String {
    let place = Place::new();
    let server = place.start().await;
    let (used, late) = (server.tokens(5).await, server.tokens(3).await);
    for token in &used {
        assert_eq!(server.handshake(token).await.status, 200);
    }
    let turned: Vec<_> = dials.iter().map(|(dial, error)| Turned::to(&place.shim, *dial, *error)).collect();
    for token in &late {
        assert_fails_closed(&server, token).await;
    }
    let said = place.logged("the store is not usable; no token is consumed until it is").await;
    let doctor = place.doctor(&server).await;
    assert!(
        doctor.contains("it answers, and is not ready to issue and redeem tokens: the store is not usable"),
        "{doctor}"
    );
    for _ in 0..200 {
        // Anybody can do so, and as fast as they like.
        assert_fails_closed(&server, &late[0]).await;
    }
    let lines = place.log().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(lines <= 4, "{lines} lines for one fault: {}", place.log());
    drop(turned);
    assert_is_back(&server, &used, &late).await;
    place.logged("the store is usable again").await;
    assert_eq!(
        place.log().matches("no token is consumed until it is").count(),
        1,
        "said once: {}",
        place.log()
    );
    server.stop().await;

    let server = place.start().await;
    for token in used.iter().chain(&late) {
        assert_eq!(server.handshake(token).await.status, 401, "it is on disk");
    }
    said
}

#[tokio::test]
async fn full_disk_loses_no_answered_record() {
    let said = through(&[(Dial::WriteError, libc::ENOSPC)]).await;
    assert!(said.contains("countersign.db is full; make room, and it goes on by itself"), "{said}");
}

#[tokio::test]
async fn failed_sync_loses_no_answered_record() {
    let said = through(&[(Dial::SyncError, libc::EIO)]).await;
    assert!(said.contains("check the disk and its limits, and it goes on by itself"), "{said}");
}

/// As file systems that are set to `errors=remount-ro` become after a fault.
#[tokio::test]
async fn read_only_disk_loses_no_answered_record() {
    let said = through(&[(Dial::WriteError, libc::EROFS), (Dial::OpenError, libc::EROFS)]).await;
    assert!(said.contains("and it goes on by itself"), "{said}");
}

#[tokio::test]
async fn file_size_limit_loses_no_answered_record() {
    let place = Place::new();
    let server = place.start().await;
    let (used, late) = (server.tokens(5).await, server.tokens(3).await);
    for token in &used {
        assert_eq!(server.handshake(token).await.status, 200);
    }
    let log = place.data().join("countersign.db-wal");
    server.limit(Resource::FSIZE, std::fs::metadata(log).unwrap().len() + 100);
    for token in &late {
        assert_fails_closed(&server, token).await;
    }
    let said = place.logged("the store is not usable; no token is consumed until it is").await;
    assert!(said.contains("check the disk and its limits, and it goes on by itself"), "{said}");
    server.limit(Resource::FSIZE, 0);
    assert_is_back(&server, &used, &late).await;
}

#[tokio::test]
async fn locked_store_is_survived() {
    let place = Place::new();
    let server = place.start().await;
    let (used, late) = (server.tokens(5).await, server.tokens(1).await);
    for token in &used {
        assert_eq!(server.handshake(token).await.status, 200);
    }
    let other = rusqlite::Connection::open(place.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_fails_closed(&server, &late[0]).await;
    let said = place.logged("the store is not usable; no token is consumed until it is").await;
    assert!(said.contains("another program keeps "), "{said}");
    assert!(said.contains("locked; close it, and it goes on by itself"), "{said}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_is_back(&server, &used, &late).await;
}

#[tokio::test]
async fn unwritable_place_is_refused_at_start() {
    let place = Place::new();
    let read_only = Turned::to(&place.shim, Dial::OpenError, libc::EROFS);
    let said = place.refused().await;
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.ends_with("check that it is a place on a local disk that this user may write"), "{said}");
    drop(read_only);
    let server = place.start().await;
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
}
