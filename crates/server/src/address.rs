//! The address of a listener.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::socket_activation::ActivatedSockets;

/// An address to listen on: `HOST:PORT` in numbers, where port 0 takes any free port, `unix:PATH`, or `systemd:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix socket, which only the server's own user can use.
    Unix(PathBuf),
    /// A socket that the service manager listens on already and hands over under this name: `FileDescriptorName=` of a
    /// systemd socket unit (`sd_listen_fds(3)`).
    Systemd(String),
}

/// A text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address is an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080, or unix:PATH, or systemd:NAME"
)]
pub struct NotAnAddress;

impl Address {
    /// Whether only processes on this machine can reach it; `None` if only the socket itself can tell.
    pub fn is_local(&self) -> Option<bool> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical().is_loopback()),
            Self::Unix(_) => Some(true),
            Self::Systemd(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        match text.split_once(':') {
            Some(("unix" | "systemd", "")) => Err(NotAnAddress),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("systemd", name)) => Ok(Self::Systemd(name.to_owned())),
            _ => text.parse().map(Self::Tcp).map_err(|_| NotAnAddress),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// The mode of a Unix socket that only the server's own user can use.
pub const OWNER_ONLY: u32 = 0o600;

/// A bound address. The file of a Unix socket goes when this is dropped, if this made it.
#[derive(Debug)]
pub enum Bound {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, and its file, if this made it.
    Unix(UnixListener, Option<SocketFile>),
}

/// A connection that was accepted.
#[derive(Debug)]
pub enum Connection {
    /// By TCP.
    Tcp(TcpStream),
    /// By a Unix socket.
    Unix(UnixStream),
}

/// Accepts a connection at any of these addresses, with the address at its other end; `None` for a Unix socket.
///
/// # Errors
///
/// If none can be accepted now, mostly because the process has used up its file descriptors.
pub async fn accept(bound: &mut [Bound]) -> io::Result<(Connection, Option<IpAddr>)> {
    poll_fn(|context| poll_accept(bound, context)).await
}

fn poll_accept(
    bound: &mut [Bound],
    context: &mut Context<'_>,
) -> Poll<io::Result<(Connection, Option<IpAddr>)>> {
    for place in bound.iter() {
        let accepted = match place {
            Bound::Tcp(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, address)| (Connection::Tcp(stream), Some(address.ip().to_canonical()))),
            Bound::Unix(listener, _) => {
                listener.poll_accept(context).map_ok(|(stream, _)| (Connection::Unix(stream), None))
            }
        };
        if accepted.is_ready() {
            // The next one is asked first, so that a busy address leaves no other one waiting.
            bound.rotate_left(1);
            return accepted;
        }
    }
    Poll::Pending
}

/// The file of a Unix socket.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Listens there, on one socket or more. `activated` has the sockets that the service manager handed over.
    pub async fn to(address: &Address, activated: &mut ActivatedSockets) -> io::Result<Vec<Self>> {
        Self::with_mode(address, OWNER_ONLY, activated).await
    }

    /// The same, where the file of a Unix socket that this makes gets this mode.
    pub async fn with_mode(
        address: &Address,
        mode: u32,
        activated: &mut ActivatedSockets,
    ) -> io::Result<Vec<Self>> {
        match address {
            Address::Systemd(name) => activated.take(name),
            Address::Tcp(address) => Ok(vec![Self::Tcp(TcpListener::bind(address).await?)]),
            Address::Unix(path) => {
                remove_stale(path).await?;
                let listener = bind_privately(path, mode)?;
                Ok(vec![Self::Unix(listener, Some(SocketFile(path.clone())))])
            }
        }
    }

    /// Where it listens, with the port it got.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, Some(file)) => Ok(Address::Unix(file.0.clone())),
            Self::Unix(listener, None) => match listener.local_addr()?.as_pathname() {
                Some(path) => Ok(Address::Unix(path.to_owned())),
                None => Err(io::Error::new(io::ErrorKind::Unsupported, "a Unix socket needs a path")),
            },
        }
    }
}

/// Binds a socket so that its mode applies from the first moment: it is created in a directory of its owner alone,
/// gets its mode there, and only then its name.
fn bind_privately(path: &Path, mode: u32) -> io::Result<UnixListener> {
    use std::os::unix::fs::DirBuilderExt;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Short, because the whole path must not be longer than some hundred bytes.
    let dir = parent.join(format!(".cs{}", std::process::id()));
    let inside = dir.join("s");
    // A process with the same number may have been killed at this very moment. An unremovable socket makes the bind below fail.
    let remove = || {
        let _ = std::fs::remove_file(&inside);
        let _ = std::fs::remove_dir(&dir);
    };
    remove();
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    let bound = (|| {
        let listener = UnixListener::bind(&inside)?;
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    })();
    remove();
    bound
}

/// Removes the socket that a killed process left behind, and nothing else.
async fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of that name, and it is not a socket",
        )),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, local) in [
            ("127.0.0.1:8080", Some(true)),
            ("[::1]:0", Some(true)),
            ("[::ffff:127.0.0.1]:1", Some(true)),
            ("0.0.0.0:80", Some(false)),
            ("192.0.2.1:80", Some(false)),
            ("unix:/run/countersign.sock", Some(true)),
            ("systemd:public", None),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, local));
        }
        for text in
            ["", "localhost:80", "127.0.0.1", "unix:", "systemd:", "/run/a.sock", "http://127.0.0.1:80"]
        {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress), "{text}");
        }
    }

    #[tokio::test]
    async fn socket_is_private_and_replaces_a_stale_one() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("a.sock");
        let address = Address::Unix(path.clone());
        let mut activated = ActivatedSockets::nothing();
        let bound = Bound::to(&address, &mut activated).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(Bound::to(&address, &mut activated).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        let bound = Bound::with_mode(&address, 0o660, &mut activated).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(bound);
        // A process that was killed leaves its socket behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = Bound::to(&address, &mut activated).await.unwrap();
        assert_eq!(bound[0].address().unwrap(), address);
        drop(bound);
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            Bound::to(&address, &mut activated).await.unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
