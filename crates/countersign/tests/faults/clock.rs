//! A wall clock that steps.

use crate::server::{Launch, Place};
use crate::shim::Dial;

const HOUR: i64 = 3600;

#[tokio::test]
async fn no_step_makes_a_used_token_good_or_ends_the_server() {
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
async fn what_a_purge_has_forgotten_stays_dead_when_the_clock_steps_back() {
    let place = Place::new();
    let server = place.start_with(Launch { arguments: &["--retention", "1h"], ..Launch::default() }).await;
    let (used, live) = (server.token().await, server.token().await);
    assert_eq!(server.handshake(&used).await.status, 200);
    place.shim.set(Dial::ClockOffset, 2 * HOUR);
    assert_eq!(server.private("POST", "/v1/store/purge").await.status, 200);
    assert_eq!(server.private("GET", "/v1/store").await.json()["consumed"], 0);
    place.shim.set(Dial::ClockOffset, 0);
    for token in [&used, &live] {
        assert_eq!(server.handshake(token).await.status, 401);
    }
}
