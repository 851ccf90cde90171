//! Limits the refusals of an address in a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::Clock;
use governor::Quota;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};

/// The most addresses that are counted one by one, some 100 bytes each; further ones share one count.
pub const MAX_ADDRESSES: usize = 100_000;

/// Counts the refusals that each address gets.
///
/// Only a *rejected* handshake is counted, and only a refusal is withheld when there were too many: a good token is
/// accepted from anywhere at any time. So no client can lock a tracker out by sending rubbish from its address or through
/// its proxy, and who guesses or replays learns nothing more. It is not what keeps guessers out; 128 bits are.
#[derive(Debug)]
pub struct RefusalLimiter(Option<Limits>);

#[derive(Debug)]
struct Limits {
    by_address: governor::RateLimiter<IpAddr, DashMapStateStore<IpAddr>, LimiterClock, NoOpMiddleware<Nanos>>,
    /// Until when those are over their limit that were it last.
    over: Mutex<HashMap<IpAddr, Nanos>>,
    clock: LimiterClock,
}

impl RefusalLimiter {
    /// Allows each address so many refusals a minute, all at once or spread; 0 allows any number.
    pub fn new(per_minute: u32, clock: Arc<dyn Clock>) -> Self {
        Self(NonZeroU32::new(per_minute).map(|per_minute| {
            let clock = LimiterClock(clock);
            let by_address = governor::RateLimiter::new(
                Quota::per_minute(per_minute),
                DashMapStateStore::default(),
                clock.clone(),
            );
            Limits { by_address, over: Mutex::default(), clock }
        }))
    }

    /// Counts a refusal.
    ///
    /// # Errors
    ///
    /// If that is one too many: how long until the next one is allowed.
    pub fn count(&self, peer: Option<IpAddr>) -> Result<(), Duration> {
        let (Some(limits), Some(peer)) = (&self.0, peer) else { return Ok(()) };
        let mut address = party(peer);
        if limits.by_address.len() >= MAX_ADDRESSES {
            limits.by_address.retain_recent();
            if limits.by_address.len() >= MAX_ADDRESSES {
                address = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        limits.by_address.check_key(&address).map_err(|not_until| {
            let now = limits.clock.now();
            let wait = not_until.wait_time_from(now);
            let mut over = limits.over.lock().unwrap_or_else(PoisonError::into_inner);
            if over.len() < MAX_ADDRESSES {
                over.insert(address, now + wait);
            }
            wait
        })
    }

    /// Whether this address was over its limit, and still is; counts nothing.
    pub(crate) fn is_over(&self, peer: Option<IpAddr>) -> bool {
        let (Some(limits), Some(peer)) = (&self.0, peer) else { return false };
        let over = limits.over.lock().unwrap_or_else(PoisonError::into_inner);
        over.get(&party(peer)).is_some_and(|until| *until > limits.clock.now())
    }

    /// Forgets the addresses that have not been rejected lately.
    pub fn forget_the_calm(&self) {
        if let Some(limits) = &self.0 {
            limits.by_address.retain_recent();
            limits.by_address.shrink_to_fit();
            let now = limits.clock.now();
            let mut over = limits.over.lock().unwrap_or_else(PoisonError::into_inner);
            over.retain(|_, until| *until > now);
            over.shrink_to_fit();
        }
    }
}

/// How often in a minute something may be done.
#[derive(Clone, Debug)]
pub(crate) struct RateLimiter {
    limit: Arc<governor::RateLimiter<NotKeyed, InMemoryState, LimiterClock, NoOpMiddleware<Nanos>>>,
    clock: LimiterClock,
}

impl RateLimiter {
    /// Allows so many a minute, all at once or spread.
    pub(crate) fn new(per_minute: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let clock = LimiterClock(clock);
        let limit = governor::RateLimiter::direct_with_clock(Quota::per_minute(per_minute), clock.clone());
        Self { limit: Arc::new(limit), clock }
    }

    /// Counts one.
    ///
    /// # Errors
    ///
    /// If that is one too many: how long until the next one is allowed.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.limit.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

/// The client that an address belongs to: one IPv4 address, or one IPv6 network of 64 bits, which is what providers give to one
/// customer.
pub(crate) fn party(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// The steady clock, as the limiter wants it. Nobody sets that one: with a wall clock that steps back, every refusal until it
/// is that late again would be one too many.
#[derive(Clone, Debug)]
struct LimiterClock(Arc<dyn Clock>);

impl governor::clock::Clock for LimiterClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.steady().into()
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::ManualClock;

    use super::*;

    fn limiter(per_minute: u32) -> (RefusalLimiter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        (RefusalLimiter::new(per_minute, clock.clone()), clock)
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn each_address_has_its_own_count_and_it_recovers() {
        let (limiter, clock) = limiter(6);
        for _ in 0..6 {
            assert_eq!(limiter.count(address("192.0.2.1")), Ok(()));
        }
        assert_eq!(limiter.count(address("192.0.2.1")), Err(Duration::from_secs(10)));
        assert_eq!(
            limiter.count(address("::ffff:192.0.2.1")),
            Err(Duration::from_secs(10)),
            "the same, mapped"
        );
        assert_eq!(limiter.count(address("192.0.2.2")), Ok(()));
        clock.advance(Duration::from_secs(10));
        assert_eq!(limiter.count(address("192.0.2.1")), Ok(()));
        assert!(limiter.count(address("192.0.2.1")).is_err());
    }

    #[test]
    fn clock_stepping_back_locks_out_no_client() {
        let (limiter, clock) = limiter(6);
        let hour = Duration::from_hours(1);
        let now = clock.now();
        clock.set(countersign_core::after(now, hour));
        for _ in 0..3 {
            assert_eq!(limiter.count(address("192.0.2.1")), Ok(()));
        }
        clock.set(now);
        for _ in 0..3 {
            assert_eq!(limiter.count(address("192.0.2.1")), Ok(()));
        }
        assert_eq!(limiter.count(address("192.0.2.1")), Err(Duration::from_secs(10)), "nor does it forget");
        clock.advance(Duration::from_secs(10));
        assert_eq!(limiter.count(address("192.0.2.1")), Ok(()));
    }

    #[test]
    fn ipv6_network_counts_as_one() {
        let (limiter, _) = limiter(1);
        assert_eq!(limiter.count(address("2001:db8::1")), Ok(()));
        assert!(limiter.count(address("2001:db8::ffff:2")).is_err());
        assert_eq!(limiter.count(address("2001:db8:0:1::1")), Ok(()));
    }

    #[test]
    fn zero_is_no_limit_and_an_unknown_peer_is_not_counted() {
        let (limiter, _) = limiter(0);
        assert!((0..10_000).all(|_| limiter.count(address("192.0.2.1")).is_ok()));
        let (limiter, _) = self::limiter(1);
        assert!((0..10).all(|_| limiter.count(None).is_ok()));
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let (limiter, clock) = limiter(1);
        for bits in 0..u32::try_from(MAX_ADDRESSES).unwrap() {
            assert_eq!(limiter.count(Some(IpAddr::V4(bits.into()))), Ok(()));
        }
        assert_eq!(limiter.count(address("203.0.113.1")), Ok(()));
        assert!(limiter.count(address("203.0.113.2")).is_err(), "the crowd shares a count");
        clock.advance(Duration::from_mins(2));
        limiter.forget_the_calm();
        assert_eq!(limiter.count(address("203.0.113.1")), Ok(()));
        assert_eq!(limiter.count(address("203.0.113.2")), Ok(()));
    }
}
