//! The servers that a URL names: the order in which they are tried, and the connections that each may have.
//!
//! A server that does not answer must not hide the next one, now or at the next attempt. So a server that failed goes to
//! the end of the order, and stays there until it has answered again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::Entropy;
use tokio::sync::Semaphore;
use tokio_postgres::config::Host as Name;

/// A host of the URL: a name, an address, both, or the directory of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: Option<Name>,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// A place at which a server listens. A host has several if its name has several addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Server {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf, u16),
}

/// Where sockets are unless a URL says so: for PostgreSQL itself, and on Debian.
const USUAL_DIRECTORIES: [&str; 3] = ["/tmp", "/var/run/postgresql", "/run/postgresql"];

impl Host {
    /// Where it listens.
    pub(super) async fn servers(&self) -> std::io::Result<Vec<Server>> {
        match (self.address, &self.name) {
            (Some(address), _) => Ok(vec![Server::Tcp(SocketAddr::new(address, self.port))]),
            #[cfg(unix)]
            (None, Some(Name::Unix(directory))) => Ok(vec![Server::Unix(directory.clone(), self.port)]),
            (None, Some(Name::Tcp(name))) => {
                let mut servers = Vec::new();
                for address in tokio::net::lookup_host((&**name, self.port)).await? {
                    let server = Server::Tcp(address);
                    if !servers.contains(&server) {
                        servers.push(server);
                    }
                }
                Ok(servers)
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// What it is called in a password file.
    pub(super) fn name_for_password(&self) -> String {
        match (&self.name, self.address) {
            (Some(Name::Tcp(name)), _) => name.clone(),
            #[cfg(unix)]
            (Some(Name::Unix(directory)), _) => {
                let directory = directory.display().to_string();
                if USUAL_DIRECTORIES.contains(&&*directory) { "localhost".to_owned() } else { directory }
            }
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        }
    }
}

/// All hosts of a URL, and what is known of them. The pools of a store share it.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Each with what to call it before people.
    hosts: Vec<(Host, Arc<str>)>,
    troubled: Mutex<FailingHosts>,
}

/// Which gave trouble and have not answered since; the last one at the end.
#[derive(Debug, Default)]
struct FailingHosts {
    hosts: Vec<usize>,
    servers: Vec<Server>,
    /// Those whose connections are of no more use.
    left: Vec<Server>,
}

impl Hosts {
    pub(super) fn new(hosts: Vec<(Host, Arc<str>)>) -> Self {
        Self { hosts, troubled: Mutex::default() }
    }

    fn troubled(&self) -> MutexGuard<'_, FailingHosts> {
        // Every change is a single step, so a panic elsewhere cannot have left it half done.
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts in the order in which to try them, each with its number. With `entropy`, those without trouble are in a
    /// random order, as `load_balance_hosts=random` has it.
    pub(super) fn in_order(&self, entropy: Option<&dyn Entropy>) -> Vec<(usize, &Host, &Arc<str>)> {
        let hosts = self.hosts.iter().enumerate();
        let mut hosts: Vec<_> = hosts.map(|(number, (host, place))| (number, host, place)).collect();
        if let Some(entropy) = entropy {
            shuffle(&mut hosts, entropy);
        }
        let troubled = self.troubled();
        hosts.sort_by_key(|(number, ..)| rank(&troubled.hosts, number));
        hosts
    }

    /// Puts the servers of one host into the order in which to try them.
    pub(super) fn sort(&self, servers: &mut [Server]) {
        let troubled = self.troubled();
        servers.sort_by_key(|server| rank(&troubled.servers, server));
    }

    pub(super) fn are_several(&self) -> bool {
        self.hosts.len() > 1
    }

    /// No connection came about: the others come first from now on.
    pub(super) fn trouble(&self, host: usize, server: Option<&Server>) {
        let mut troubled = self.troubled();
        move_to_end(&mut troubled.hosts, &host);
        if let Some(server) = server {
            move_to_end(&mut troubled.servers, server);
        }
    }

    /// It does not answer on a connection that it has taken, or is not the one to use: the same, and what is connected to
    /// it is of no more use.
    pub(super) fn leave(&self, host: usize, server: &Server) {
        self.trouble(host, Some(server));
        move_to_end(&mut self.troubled().left, server);
    }

    /// It has taken a connection, and will do.
    pub(super) fn answered(&self, host: usize, server: &Server) {
        let mut troubled = self.troubled();
        troubled.hosts.retain(|other| *other != host);
        troubled.servers.retain(|other| other != server);
        troubled.left.retain(|other| other != server);
    }

    pub(super) fn is_left(&self, server: &Server) -> bool {
        self.troubled().left.contains(server)
    }
}

/// 0: no trouble.
fn rank<T: PartialEq>(troubled: &[T], one: &T) -> usize {
    troubled.iter().position(|other| other == one).map_or(0, |position| position + 1)
}

/// How many are remembered. A name may have other addresses every day.
const REMEMBERED: usize = 64;

fn move_to_end<T: PartialEq + Clone>(troubled: &mut Vec<T>, one: &T) {
    troubled.retain(|other| other != one);
    if troubled.len() >= REMEMBERED {
        troubled.remove(0);
    }
    troubled.push(one.clone());
}

fn shuffle<T>(items: &mut [T], entropy: &dyn Entropy) {
    for last in (1..items.len()).rev() {
        let mut random = [0; 8];
        // The order is of no importance.
        if entropy.fill(&mut random).is_err() {
            return;
        }
        let other = u64::from_ne_bytes(random) % (u64::try_from(last).unwrap_or(0) + 1);
        items.swap(last, usize::try_from(other).unwrap_or(0));
    }
}

/// The connections that a pool may have at each server, also counting those that it gave up and the server has not.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    size: usize,
    places: Mutex<HashMap<Server, Arc<Semaphore>>>,
}

impl ConnectionSlots {
    pub(super) fn new(size: usize) -> Self {
        Self { size, places: Mutex::default() }
    }

    /// The places at this server.
    pub(super) fn at(&self, server: &Server) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // A name may have other addresses every day.
        places.retain(|other, free| other == server || free.available_permits() < self.size);
        let new = || Arc::new(Semaphore::new(self.size));
        Arc::clone(places.entry(server.clone()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::OsEntropy;

    use super::*;

    fn host(name: &str) -> (Host, Arc<str>) {
        (Host { name: Some(Name::Tcp(name.to_owned())), address: None, port: 5432 }, name.into())
    }

    fn server(port: u16) -> Server {
        Server::Tcp(([127, 0, 0, 1], port).into())
    }

    fn order(hosts: &Hosts) -> Vec<usize> {
        hosts.in_order(None).into_iter().map(|(number, ..)| number).collect()
    }

    #[test]
    fn failed_host_is_tried_last_until_it_answers() {
        let hosts = Hosts::new(["a", "b", "c"].map(host).to_vec());
        assert_eq!(order(&hosts), [0, 1, 2]);
        hosts.trouble(0, Some(&server(1)));
        assert_eq!(order(&hosts), [1, 2, 0]);
        assert!(!hosts.is_left(&server(1)), "what is connected may go on");
        hosts.trouble(1, None);
        hosts.trouble(2, None);
        assert_eq!(order(&hosts), [0, 1, 2], "if all are in trouble, the one that was tried last comes last");
        hosts.trouble(0, None);
        assert_eq!(order(&hosts), [1, 2, 0]);
        hosts.leave(0, &server(1));
        assert_eq!(order(&hosts), [1, 2, 0]);
        assert!(hosts.is_left(&server(1)) && !hosts.is_left(&server(2)));
        hosts.answered(0, &server(1));
        assert_eq!(order(&hosts), [0, 1, 2]);
        assert!(!hosts.is_left(&server(1)));
    }

    #[test]
    fn failed_address_of_a_name_is_tried_last() {
        let hosts = Hosts::new(vec![host("a")]);
        hosts.trouble(0, Some(&server(1)));
        let mut servers = [1, 2, 3].map(server);
        hosts.sort(&mut servers);
        assert_eq!(servers, [2, 3, 1].map(server));
    }

    #[test]
    fn random_order_has_every_host_and_the_failed_one_last() {
        let hosts = Hosts::new(["a", "b", "c", "d"].map(host).to_vec());
        hosts.trouble(2, None);
        let mut firsts = [false; 4];
        while firsts != [true, true, false, true] {
            let order: Vec<usize> = hosts.in_order(Some(&OsEntropy)).into_iter().map(|(n, ..)| n).collect();
            firsts[order[0]] = true;
            assert_eq!(order[3], 2);
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn connected_servers_keep_their_place() {
        let places = ConnectionSlots::new(2);
        let held = places.at(&server(1)).try_acquire_owned().unwrap();
        drop(places.at(&server(2)));
        drop(places.at(&server(3)));
        assert_eq!(places.at(&server(1)).available_permits(), 1);
        assert_eq!(places.places.lock().unwrap().len(), 1);
        drop(held);
        assert_eq!(places.at(&server(1)).available_permits(), 2);
    }
}
