//! A client's socket with time limits.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep, timeout};

/// How long a client may take in nothing of an answer; and for how long one that cannot be reached is believed to be
/// there.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server keeps reading from a client after the last answer, before it closes the connection.
/// Otherwise the answer could be lost: a socket that is closed with bytes in it resets the connection.
pub const LINGER: Duration = Duration::from_secs(10);

/// How often it is asked whether a silent client is still there, and how often in vain.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// What is known about the connection of a socket.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    asked: AtomicBool,
    streams: AtomicBool,
}

impl ConnectionState {
    /// A request's head has arrived.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether one ever has.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The answer lasts as long as the client listens. A client that closes its side has stopped listening.
    pub(crate) fn stream(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    fn streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }
}

/// A stream of bytes from and to a client.
pub(crate) trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Stream for TcpStream {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_read_ready(self, context)
    }
}

impl Stream for UnixStream {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_read_ready(self, context)
    }
}

/// Prepares a connection that has been accepted.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Answers are short and must not wait for a full packet.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(WRITE_TIMEOUT)
        .with_interval(KEEPALIVE_PERIOD)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // Keep-alive does not ask while something is on its way to a client that has vanished.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT))?;
    Ok(())
}

/// A client's socket. A write that makes no progress for [`WRITE_TIMEOUT`] fails; so does flushing when there is a stream
/// that nobody listens to.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: S,
    state: Arc<ConnectionState>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: Stream> Socket<S> {
    pub(crate) fn new(stream: S, state: Arc<ConnectionState>) -> Self {
        Self { stream, state, stalled: None }
    }

    /// Fails what has been pending for too long.
    fn limit<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

/// Whether the other side will send no more.
fn has_hung_up(socket: &impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    let hung_up = PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    let hung_up = PollFlags::HUP;
    let at_once = Timespec::default();
    poll(&mut [PollFd::new(socket, hung_up)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

impl<S: Stream> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Stream> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.streams() {
            // HTTP does not read while it answers, so this is what wakes it when the client leaves.
            let _ = self.stream.poll_read_ready(context);
            if has_hung_up(&self.stream) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Closes this side of a connection on which nothing more is sent, and waits until the client has closed its side, too.
pub(crate) async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut rest = vec![0; 8 * 1024];
    let parting = async {
        // HTTP has done so, but not after CONNECT, nor after what was no HTTP/1. A client that has left is no error.
        let _ = stream.shutdown().await;
        while stream.read(&mut rest).await.is_ok_and(|length| length > 0) {}
    };
    // Too long means that the client does not want to part.
    let _ = timeout(LINGER, parting).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn accepted_socket_notices_a_client_that_vanishes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(WRITE_TIMEOUT));
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn parting_client_is_told_at_once() {
        let (server, mut client) = tokio::io::duplex(64);
        let began = tokio::time::Instant::now();
        let parting = tokio::spawn(part(server));
        assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        assert_eq!(began.elapsed(), Duration::ZERO, "not only when the client has parted, too");
        drop(client);
        parting.await.unwrap();
    }
}
