//! Accepting connections and serving them, within limits.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

use crate::address::Bound;
use crate::caller::{self, RequestIds, X_REQUEST_ID};
use crate::routes::Routes;
use crate::tls::Tls;
use crate::traces::RequestSpans;

/// How long a client may take to send a request's head, or to send nothing on a connection that is kept alive; and how
/// long a TLS handshake may take.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a whole request may take, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take when the server stops.
pub const GRACE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head. A token with the longest audience and claims takes 2.5 KiB.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most connections that one listener serves at a time; further ones wait to be accepted. `docs/limits.md` has what
/// they cost. Fewer, if the process may not open as many files: the two listeners share what [`RESERVED_DESCRIPTORS`]
/// leaves.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

/// How many file descriptors no connection gets: for the store and its readers, the key ring, the certificates, the log.
/// They add up to some 40.
pub const RESERVED_DESCRIPTORS: usize = 48;

/// How many connections a listener serves at least, whatever that takes.
const MIN_CONNECTIONS: usize = 4;

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

/// How many connections the public and the private listener may have in a process with so many file descriptors. Without
/// shares, a flood on the public one would leave none for the store and for the private API.
pub(crate) fn share_descriptors(descriptors: usize) -> (usize, usize) {
    let spare = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    let private = (spare / 4).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
    let public = spare.saturating_sub(private).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
    (public, private)
}

/// What answers requests, and names them.
struct Service {
    routes: Routes,
    ids: Arc<RequestIds>,
    /// `None` where traces are off.
    spans: Option<Arc<RequestSpans>>,
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Serves `routes` on so many connections at a time until `stop` turns true, and then until the requests under way
    /// are answered.
    pub(crate) async fn serve(
        self,
        routes: Routes,
        ids: Arc<RequestIds>,
        spans: Option<Arc<RequestSpans>>,
        room: usize,
        mut stop: watch::Receiver<bool>,
    ) {
        let connections = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(room));
        let service = Arc::new(Service { routes, ids, spans });
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
            let (service, watcher, tls) = (Arc::clone(&service), connections.watcher(), self.tls.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let served = match (connection, tls) {
                    (Connection::Tcp(stream), None) => converse(stream, service, peer, watcher).await,
                    (Connection::Tcp(stream), Some(tls)) => greet(stream, &tls, service, peer, watcher).await,
                    (Connection::Unix(stream), None) => converse(stream, service, peer, watcher).await,
                    (Connection::Unix(stream), Some(tls)) => {
                        greet(stream, &tls, service, peer, watcher).await
                    }
                };
                if let Err(reason) = served {
                    tracing::debug!(%reason, peer = peer.0.map(tracing::field::display), "a connection ended early");
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
async fn greet<S>(
    stream: S,
    tls: &Tls,
    service: Arc<Service>,
    peer: Peer,
    watcher: Watcher,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor().accept(stream)).await;
    let stream =
        greeted.map_err(|_| "no TLS handshake in time".to_owned())?.map_err(|error| error.to_string())?;
    converse(stream, service, peer, watcher).await
}

/// Speaks HTTP.
async fn converse<S>(stream: S, service: Arc<Service>, peer: Peer, watcher: Watcher) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(Arc::clone(&service), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

async fn answer(
    service: Arc<Service>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let id = service.ids.next();
    request.extensions_mut().insert(id);
    let span = service.spans.as_ref().and_then(|spans| spans.begin(&request, peer, id));
    let answering = tokio::time::timeout(REQUEST_TIMEOUT, service.routes.answer(request));
    let answered = match &span {
        None => answering.await,
        // In a box, so that a request without a span takes no room for one.
        Some(span) => Box::pin(span.around(answering)).await,
    };
    let mut response = match answered {
        Ok(answered) => answered,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response(),
    };
    response.headers_mut().insert(X_REQUEST_ID, caller::header(id));
    if let Some(span) = span {
        span.answered(response.status());
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_connection_gets_the_descriptors_that_the_rest_needs() {
        for (descriptors, public, private) in [
            (0, MIN_CONNECTIONS, MIN_CONNECTIONS),
            (64, 12, 4),
            (1024, 732, 244),
            (20_000, 14_964, 4_988),
            (usize::MAX, MAX_CONNECTIONS, MAX_CONNECTIONS),
        ] {
            assert_eq!(share_descriptors(descriptors), (public, private), "{descriptors}");
            if descriptors > 2 * MIN_CONNECTIONS + RESERVED_DESCRIPTORS {
                assert!(public + private + RESERVED_DESCRIPTORS <= descriptors, "{descriptors}");
            }
        }
    }
}
