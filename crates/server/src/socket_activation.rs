//! Sockets that a service manager opened and hands over when it starts the server (`sd_listen_fds(3)`).
//!
//! So the server may use ports that its user could not open, and connections that arrive during a restart wait instead of
//! being refused.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use listenfd::ListenFd;
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use crate::address::Bound;

/// What was handed over, and not taken yet.
#[must_use]
pub struct ActivatedSockets {
    sockets: ListenFd,
    /// A name for each of them, in the same order.
    names: Vec<String>,
}

impl ActivatedSockets {
    /// Reads `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`. Must be used once in the life of a process: a socket that
    /// is taken twice is closed under its second owner.
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }

    /// None, as for a server without socket activation.
    pub fn nothing() -> Self {
        Self { sockets: ListenFd::empty(), names: Vec::new() }
    }

    /// Takes all sockets of that name that are left: a socket unit gives each of its addresses the same name.
    ///
    /// # Errors
    ///
    /// If there is none, or one of another kind than TCP and Unix.
    pub(crate) fn take(&mut self, name: &str) -> io::Result<Vec<Bound>> {
        let indices: Vec<usize> = (0..self.sockets.len())
            .filter(|&index| self.names.get(index).is_some_and(|known| known == name))
            .collect();
        let mut taken = Vec::new();
        for index in indices {
            taken.extend(self.take_at(index)?);
        }
        if !taken.is_empty() {
            return Ok(taken);
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "no such socket was handed over; systemd does so for a socket unit with FileDescriptorName={name}, when it \
                 is that unit's turn to start this server"
            ),
        ))
    }

    /// Takes one socket; `None` if it was taken before.
    fn take_at(&mut self, index: usize) -> io::Result<Option<Bound>> {
        // Asked for as the wrong kind, a socket stays where it is.
        if let Ok(Some(listener)) = self.sockets.take_tcp_listener(index) {
            check_that_it_listens(&listener)?;
            listener.set_nonblocking(true)?;
            return TcpListener::from_std(listener).map(|listener| Some(Bound::Tcp(listener)));
        }
        let Some(listener) = self.sockets.take_unix_listener(index)? else { return Ok(None) };
        check_that_it_listens(&listener)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(|listener| Some(Bound::Unix(listener, None)))
    }
}

/// One that does not listen would be announced, and never accept a connection.
fn check_that_it_listens(socket: &impl AsFd) -> io::Result<()> {
    if SockRef::from(socket).is_listener()? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "a socket of this name was handed over that does not listen; systemd has it listen if it is a ListenStream= of a socket \
         unit with Accept=no",
    ))
}

impl fmt::Debug for ActivatedSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivatedSockets").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn socket_that_does_not_listen_is_rejected() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let error = check_that_it_listens(&socket).unwrap_err().to_string();
        assert!(error.contains("does not listen"), "{error}");
        socket.listen(1).unwrap();
        check_that_it_listens(&socket).unwrap();
    }
}
