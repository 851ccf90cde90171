//! Who has been refused too often.

use axum::http::StatusCode;
use std::time::Duration;

use crate::fixture::{Fixture, Options};

#[tokio::test]
async fn too_many_refusals_become_429_and_a_good_token_still_passes() {
    let server = Fixture::with(Options { refusals_per_minute: 3, ..Options::default() });
    let (used, good) = (server.token(), server.token());
    server.handshake(&used).await;
    for _ in 0..2 {
        assert_eq!(server.handshake("nonsense").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(server.handshake(&used).await.status, StatusCode::UNAUTHORIZED);
    for token in ["nonsense", &used] {
        let answer = server.handshake(token).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "whatever the reason would be");
        assert_eq!(answer.header("retry-after"), "20");
    }
    assert_eq!(server.handshake(&good).await.status, StatusCode::OK, "nobody can lock a tracker out");
    server.clock.advance(Duration::from_secs(20));
    assert_eq!(server.handshake("nonsense").await.status, StatusCode::NOT_FOUND);
}
