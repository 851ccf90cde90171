//! A wall clock that steps.

use crate::server::{Launch, Place};
use crate::shim::Dial;

const HOUR: i64 = 3600;

#[tokio::test]
async fn clock_steps_revive_no_token() {
    let place = Place::new();
    place.shim.set(Dial::ClockOffset, -2 * HOUR);
    let server = place.start_with(Launch { arguments: &["--retention", "1h"], ..Launch::default() }).await;
    let step = |offset: i64| place.shim.set(Dial::ClockOffset, offset);

    step(0);
    let (used, live) = (server.token().await, server.token().await);
    assert_eq!(server.handshake(&used).await.status, 200);

    step(-HOUR);
    assert_eq!(server.handshake(&live).await.status, 401, "it is from the future");
    assert_eq!(server.handshake(&used).await.status, 401);
    let early = server.token().await;
    assert_eq!(server.handshake(&early).await.status, 200, "life goes on");
    assert_eq!(server.get(server.public, "/readyz").await.status, 200);

    step(HOUR);
    assert_eq!(server.handshake(&live).await.status, 401, "it has expired");
    assert_eq!(server.handshake(&used).await.status, 401);
    assert_eq!(server.handshake(&server.token().await).await.status, 200);

    // Neither of them consumed it.
    step(0);
    assert_eq!(server.handshake(&live).await.status, 200);
    for token in [&used, &live, &early] {
        assert_eq!(server.handshake(token).await.status, 401);
    }
    server.stop().await;
}

#[tokio::test]
async fn purged_token_stays_dead_after_a_clock_step() {
    let place = Place::new();
    let hour = || Launch { arguments: &["--retention", "1h"], ..Launch::default() };
    let server = place.start_with(hour()).await;
    // Issued before the one that is used, it may have been used itself, as far as the store knows then.
    let (live, used) = (server.token().await, server.token().await);
    assert_eq!(server.handshake(&used).await.status, 200);
    place.shim.set(Dial::ClockOffset, 2 * HOUR);
    let refused = server.private("POST", "/v1/store/purge").await;
    assert_eq!(refused.status, 503, "the clock was set a moment ago");
    assert!(refused.body.contains("s ahead; nothing is purged until"), "{}", refused.body);
    server.stop().await;
    // Another run knows nothing of that, and an operator may purge at once.
    let server = place.start_with(hour()).await;
    assert_eq!(server.private("POST", "/v1/store/purge").await.json()["purged"], 1);
    place.shim.set(Dial::ClockOffset, 0);
    for token in [&used, &live] {
        assert_eq!(server.handshake(token).await.status, 401);
    }
    let later = server.token().await;
    assert_eq!(server.handshake(&later).await.status, 200, "what is issued later is good");
    assert_eq!(server.handshake(&later).await.status, 401);
}

#[tokio::test]
async fn wrong_clock_at_start_purges_nothing_by_itself() {
    let place = Place::new();
    let server = place.start().await;
    let (used, live) = (server.token().await, server.token().await);
    assert_eq!(server.handshake(&used).await.status, 200);
    server.stop().await;
    for offset in [72 * HOUR, 73 * 365 * 24 * HOUR] {
        place.shim.set(Dial::ClockOffset, offset);
        // Ignore what an earlier round logged.
        place.clear_log();
        let server = place.start_with(Launch { log_level: "debug", ..Launch::default() }).await;
        place.logged("nothing is purged").await;
        assert_eq!(server.handshake(&used).await.status, 401);
        server.stop().await;
    }
    place.shim.set(Dial::ClockOffset, 0);
    let server = place.start().await;
    assert_eq!(server.private("GET", "/v1/store").await.json()["consumed"], 1);
    assert_eq!(server.handshake(&live).await.status, 200, "it was outstanding all the time");
    assert_eq!(server.handshake(&used).await.status, 401);
}

#[tokio::test]
async fn store_of_a_wrong_clock_is_reported() {
    let place = Place::new();
    place.shim.set(Dial::ClockOffset, 73 * 365 * 24 * HOUR);
    let server = place.start().await;
    let stolen = server.token().await;
    assert_eq!(server.handshake(&stolen).await.status, 200);
    place.shim.set(Dial::ClockOffset, 0);
    let ready = server.get(server.public, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("clock is behind the store"), "{}", ready.body);
    assert_eq!(server.private("POST", "/v1/tokens").await.status, 503);
    let doctor = place.doctor(&server).await;
    assert!(doctor.contains("it answers, and is not ready to issue and redeem tokens: "), "{doctor}");
    assert!(doctor.contains("clock is behind the store"), "{doctor}");
    place.logged("no token is issued here").await;
    server.stop().await;

    // As docs/backups.md has it: a new store, and a new key ring.
    for file in ["countersign.db", "countersign.db-wal", "countersign.db-shm", "key-ring.toml"] {
        let _ = std::fs::rename(place.data().join(file), place.data().join(format!("old-{file}")));
    }
    let server = place.start().await;
    assert_eq!(server.get(server.public, "/readyz").await.body, "ready\n");
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    place.shim.set(Dial::ClockOffset, 73 * 365 * 24 * HOUR);
    assert_eq!(server.handshake(&stolen).await.status, 404, "its key is gone, whenever it comes again");
}
