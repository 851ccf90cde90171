//! Servers that say nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use tokio::net::TcpSocket;

/// Takes every connection and never says anything, as a frozen server does.
#[derive(Debug)]
pub struct Silent(TcpListener);

impl Silent {
    /// Begins to listen. The system takes the connections.
    pub fn start() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Waits for a connection.
    pub fn accept(&self) -> TcpStream {
        self.0.accept().expect("it listens").0
    }

    /// How many have connected, and have not been accepted.
    pub fn queued(&self) -> usize {
        self.0.set_nonblocking(true).expect("it listens");
        let queued = std::iter::from_fn(|| self.0.accept().ok()).count();
        self.0.set_nonblocking(false).expect("it listens");
        queued
    }
}

/// Drops what is sent to it, as a machine that has gone or a firewall does.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Fills the queue of a listener that accepts nobody: Linux drops what comes afterwards.
    pub fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let listener = socket.listen(0).expect("it is bound");
        let address = listener.local_addr().expect("it is bound");
        // One more than its length.
        let queued = vec![TcpStream::connect(address).expect("the queue has room for one")];
        Self { address, _listener: listener, _queued: queued }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
