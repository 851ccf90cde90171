//! A line between a tracker and the server that breaks at the worst moment.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest request or answer that passes, in bytes.
const MAX: usize = 64 * 1024;

/// When the line breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// When the whole answer has come from the server; the tracker gets none of it.
    BeforeTheAnswer,
    /// As soon as the request has been passed on, without waiting for the answer.
    AfterTheRequest,
}

pub(crate) struct Proxy {
    listener: TcpListener,
    server: SocketAddr,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(("127.0.0.1", 0)).await?, server })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Passes one request on, then breaks both sides. Returns the body of the answer that the tracker did not get, if
    /// it came and was a 200.
    pub(crate) async fn break_one(&self, when: Break) -> io::Result<Option<Bytes>> {
        let (mut tracker, _) = self.listener.accept().await?;
        let mut server = TcpStream::connect(self.server).await?;
        let request = read_until(&mut tracker, is_whole).await?;
        server.write_all(&request).await?;
        match when {
            Break::AfterTheRequest => Ok(None),
            Break::BeforeTheAnswer => {
                let answer = read_until(&mut server, is_whole).await?;
                Ok(answer.starts_with(b"HTTP/1.1 200 ").then(|| body(&answer)))
            }
        }
    }
}

async fn read_until(from: &mut TcpStream, enough: fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    while !enough(&read) {
        if read.len() > MAX || from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read)
}

/// Whether this is a whole message, of either direction.
fn is_whole(read: &[u8]) -> bool {
    let Some(end) = head_end(read) else { return false };
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    read.len() >= end + length.unwrap_or(0)
}

fn head_end(read: &[u8]) -> Option<usize> {
    memmem::find(read, b"\r\n\r\n").map(|at| at + 4)
}

fn body(answer: &[u8]) -> Bytes {
    Bytes::copy_from_slice(answer.get(head_end(answer).unwrap_or(answer.len())..).unwrap_or_default())
}
