//! Ending a token's life, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use countersign_core::{Clock, EndResult, before};

use super::Subject;
use super::fixture::{Fixture, consumed};

/// The first ending is recorded; every later call, of either kind, is answered with the first.
pub async fn ending_is_recorded_once_and_reported_afterwards(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (taken, revoked) = (f.token(), f.token());
    let consumption = consumed(f.clock.now(), Some(Ipv4Addr::new(192, 0, 2, 7).into()), Some(b"first key"));
    let revocation = f.revocation();

    assert_eq!(f.end(taken, &consumption).await, Ok(EndResult::Recorded));
    assert_eq!(f.end(revoked, &revocation).await, Ok(EndResult::Recorded));

    f.clock.advance(Duration::from_millis(1234));
    let other = consumed(f.clock.now(), Some(Ipv6Addr::LOCALHOST.into()), Some(b"other key"));
    for _ in 0..2 {
        assert_eq!(f.end(taken, &other).await, Ok(EndResult::Already(consumption.clone())));
        assert_eq!(f.end(taken, &f.revocation()).await, Ok(EndResult::Already(consumption.clone())));
        assert_eq!(f.end(revoked, &other).await, Ok(EndResult::Already(revocation.clone())));
        assert_eq!(f.look_up(taken).await, EndResult::Already(consumption.clone()));
        assert_eq!(f.look_up(revoked).await, EndResult::Already(revocation.clone()));
    }
}

/// Addresses of both kinds and none, keys and none, and times before, at and after the token's own come back exactly.
pub async fn addresses_and_retry_keys_round_trip(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let now = f.clock.now();
    let addresses: [Option<IpAddr>; 8] = [
        None,
        Some(Ipv4Addr::UNSPECIFIED.into()),
        Some(Ipv4Addr::BROADCAST.into()),
        Some(Ipv4Addr::new(203, 0, 113, 9).into()),
        Some(Ipv6Addr::UNSPECIFIED.into()),
        Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
        Some(Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped().into()),
        Some(Ipv6Addr::from([0xff; 16]).into()),
    ];
    let keys: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"8e03978e-40d5-43e8-bc93-6894a57f9324")];
    // The clocks of two servers may be apart, so a token can be consumed a little before it was made.
    let times = [now, before(now, Duration::from_secs(29)), super::fixture::beginning()];
    f.clock.advance(Duration::from_secs(17));
    for by in addresses {
        for key in keys {
            for at in times {
                let (token, ending) = (f.token(), consumed(at, by, key));
                assert_eq!(f.end(token, &ending).await, Ok(EndResult::Recorded));
                assert_eq!(f.end(token, &f.revocation()).await, Ok(EndResult::Already(ending.clone())));
                assert_eq!(f.look_up(token).await, EndResult::Already(ending));
            }
        }
    }
}

/// However often one looks, the token can still be ended.
pub async fn lookup_changes_nothing(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let token = f.token();
    for _ in 0..3 {
        assert_eq!(f.look_up(token).await, EndResult::Recorded);
    }
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!((stats.consumed, stats.revoked), (0, 0));
    assert_eq!(f.consume(token).await, EndResult::Recorded);
}

/// Ending one token ends no other, not even one of the same millisecond, nor one whose id differs in its last bit.
pub async fn tokens_are_independent(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (one, other) = (f.token(), f.token());
    let mut bytes = *one.id.as_bytes();
    bytes[15] ^= 1;
    let twin = super::fixture::Token { id: countersign_core::TokenId::from_bytes(bytes), ..one };

    assert_eq!(f.consume(one).await, EndResult::Recorded);
    assert_eq!(f.look_up(other).await, EndResult::Recorded);
    assert_eq!(f.look_up(twin).await, EndResult::Recorded);
    assert_eq!(f.consume(twin).await, EndResult::Recorded);
    assert_eq!(f.consume(other).await, EndResult::Recorded);
}
