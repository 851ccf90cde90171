//! Who has been rejected too often.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use countersign_server::TrustedProxies;

use crate::fixture::{Fixture, Options, handshake_path, post};

#[tokio::test]
async fn refused_address_gets_429_and_valid_token_passes() {
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

#[tokio::test]
async fn clients_behind_a_proxy_are_limited_separately() {
    let networks = vec!["192.0.2.7/32".parse().unwrap()];
    let proxies = TrustedProxies { networks, ..TrustedProxies::default() };
    for (proxies, second) in
        [(proxies, StatusCode::NOT_FOUND), (TrustedProxies::default(), StatusCode::TOO_MANY_REQUESTS)]
    {
        let server = Fixture::with(Options { refusals_per_minute: 1, proxies, ..Options::default() });
        let ask = async |client: &str| {
            let request = post(&handshake_path("nonsense")).header("x-forwarded-for", client);
            server.public(request.body(Body::empty()).unwrap()).await.status
        };
        assert_eq!(ask("198.51.100.1").await, StatusCode::NOT_FOUND);
        assert_eq!(ask("198.51.100.2").await, second);
        assert_eq!(ask("198.51.100.1").await, StatusCode::TOO_MANY_REQUESTS);
    }
}
