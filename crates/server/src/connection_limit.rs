//! Limits the connections of a listener, and those of one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::App;
use crate::limiter::party;

/// Of how many parts of a listener's connections one address may have one.
pub const SHARES: usize = 4;

/// How often, at most, it is logged that an address wants more than its share.
const COMPLAINT_PERIOD: Duration = Duration::from_mins(1);

/// The places for a listener's connections.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    places: Arc<Semaphore>,
    shares: Option<Arc<PerAddressLimit>>,
}

/// How many of the places each address has.
#[derive(Debug)]
struct PerAddressLimit {
    app: Arc<App>,
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
    complained: Mutex<Option<Instant>>,
}

/// A place, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _place: OwnedSemaphorePermit,
    _share: Option<AddressPermit>,
}

#[derive(Debug)]
struct AddressPermit {
    shares: Arc<PerAddressLimit>,
    by: IpAddr,
}

impl ConnectionLimit {
    /// Room for so many connections, from any address.
    pub(crate) fn for_all(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), shares: None }
    }

    /// Room for this many connections. One address may not take all of it, except trusted proxies, which bring many clients.
    pub(crate) fn in_shares(places: usize, app: Arc<App>) -> Self {
        let shares = PerAddressLimit {
            app,
            most: (places / SHARES).max(1),
            taken: Mutex::default(),
            complained: Mutex::default(),
        };
        Self { shares: Some(Arc::new(shares)), ..Self::for_all(places) }
    }

    /// Waits until a place is free.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // An error would mean a closed semaphore, and nothing closes it.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Gives a place to a client, unless its address has its share already.
    pub(crate) fn seat(&self, place: OwnedSemaphorePermit, peer: Option<IpAddr>) -> Option<ConnectionPermit> {
        let share = match (&self.shares, peer) {
            (Some(shares), Some(peer)) if !shares.is_exempt(peer) => Some(shares.take(peer)?),
            _ => None,
        };
        Some(ConnectionPermit { _place: place, _share: share })
    }
}

impl PerAddressLimit {
    fn is_exempt(&self, peer: IpAddr) -> bool {
        self.app.proxies.networks.iter().any(|network| network.contains(&peer))
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, peer: IpAddr) -> Option<AddressPermit> {
        let by = party(peer);
        let is_too_many = {
            let mut taken = self.taken();
            let count = taken.entry(by).or_default();
            let is_too_many = *count >= self.most;
            *count += usize::from(!is_too_many);
            is_too_many
        };
        if is_too_many {
            self.turn_away(peer);
            return None;
        }
        Some(AddressPermit { shares: Arc::clone(self), by })
    }

    fn turn_away(&self, peer: IpAddr) {
        self.app.events.tally().turned_away.inc();
        let now = Instant::now();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| now.duration_since(last) >= COMPLAINT_PERIOD) {
            *complained = Some(now);
            tracing::warn!(
                %peer,
                share = self.most,
                "an address has its share of the connections, and further ones are closed; if it is your reverse proxy, \
                 name it in trusted_proxies"
            );
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.shares.taken().entry(self.by) {
            match entry.get().checked_sub(1) {
                Some(left @ 1..) => *entry.get_mut() = left,
                _ => {
                    entry.remove();
                }
            }
        }
    }
}
