//! Accepting connections and serving them, within limits.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::address::Bound;
use crate::tls::Tls;

/// How long a client may take to send a request's head, or to send nothing on a connection that is kept alive; and how
/// long a TLS handshake may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a whole request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head. A token with the longest audience and claims takes 2.5 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most connections that one listener serves at a time; further ones wait to be accepted. An idle one costs some
/// 10 KiB, so that they all together stay within a few hundred MiB whatever they do.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

/// How long to wait when no connection can be accepted, which is mostly because the process has used up its file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address that a request comes from; `None` where there is no such thing.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<IpAddr>);

/// A bound address and what is spoken there.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) bound: Bound,
    pub(crate) tls: Option<Arc<Tls>>,
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Serves `router` until `stop` turns true, and then until the requests under way are answered.
    pub(crate) async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        let connections = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&room) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (connection, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (router, watcher, tls) = (router.clone(), connections.watcher(), self.tls.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let served = match (connection, tls) {
                    (Connection::Tcp(stream), None) => converse(stream, router, peer, watcher).await,
                    (Connection::Tcp(stream), Some(tls)) => greet(stream, &tls, router, peer, watcher).await,
                    (Connection::Unix(stream), None) => converse(stream, router, peer, watcher).await,
                    (Connection::Unix(stream), Some(tls)) => greet(stream, &tls, router, peer, watcher).await,
                };
                if let Err(reason) = served {
                    tracing::debug!(%reason, ?peer, "a connection ended early");
                }
            });
        }
        drop(self);
        if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
            tracing::warn!(
                "some requests were still under way after {} seconds and were cut off",
                GRACE.as_secs()
            );
        }
    }

    async fn accept(&self, room: &Arc<Semaphore>) -> io::Result<(Connection, Peer, OwnedSemaphorePermit)> {
        let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
        match &self.bound {
            Bound::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are short and must not wait for a full packet.
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream), Peer(Some(address.ip().to_canonical())), permit))
            }
            Bound::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream), Peer(None), permit))
            }
        }
    }
}

/// Speaks TLS first.
async fn greet<S>(stream: S, tls: &Tls, router: Router, peer: Peer, watcher: Watcher) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor().accept(stream)).await;
    let stream =
        greeted.map_err(|_| "no TLS handshake in time".to_owned())?.map_err(|error| error.to_string())?;
    converse(stream, router, peer, watcher).await
}

/// Speaks HTTP.
async fn converse<S>(stream: S, router: Router, peer: Peer, watcher: Watcher) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(router.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

async fn answer(
    router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    match tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request)).await {
        Ok(answered) => answered,
        Err(_) => Ok((StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response()),
    }
}
