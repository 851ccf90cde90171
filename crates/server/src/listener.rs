//! Accepting connections and serving them, within limits.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, Response};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::rustls;
use tokio_util::task::TaskTracker;

use crate::App;
use crate::address::{Bound, Connection, accept};
use crate::arrival::{Arrival, ClientCertificate, Peer};
use crate::caller::{self, RequestIds, X_REQUEST_ID};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::deadline::{BodyDemand, Deadline};
use crate::message;
use crate::outage_log::{OutageLog, OutageNotice};
use crate::problem::with_common_headers;
use crate::routes::Routes;
use crate::socket::{ConnectionState, Socket, Stream, part, prepare};
use crate::tls::Tls;
use crate::traces::RequestSpans;

/// How long a client may take to send a request's head, or to send nothing on a connection that is kept alive; and how
/// long a TLS handshake may take.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after the arrival of its head a request is answered at the latest, its body and the store included.
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

/// How many connections a listener serves at least.
const MIN_CONNECTIONS: usize = 4;

/// How many file descriptors a server must be able to have.
pub const MIN_DESCRIPTORS: usize = RESERVED_DESCRIPTORS + 2 * MIN_CONNECTIONS;

/// How long to wait when no connection can be accepted, which is mostly because the process has used up its file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The addresses of one listener, and what is spoken there.
#[derive(Debug)]
pub(crate) struct Listener {
    /// At least one: a service manager can hand over several of one name.
    pub(crate) bound: Vec<Bound>,
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
    app: Arc<App>,
    routes: Routes,
    ids: Arc<RequestIds>,
    /// `None` where traces are off.
    spans: Option<Arc<RequestSpans>>,
}

/// What the connections of a listener share.
struct ConnectionContext {
    service: Arc<Service>,
    peer: Peer,
    /// What a client certificate says, if one was shown.
    certificate: Option<ClientCertificate>,
    tls: Option<Arc<Tls>>,
    stop: watch::Receiver<bool>,
}

impl Listener {
    /// Serves `routes` on as many connections as there is room for until `stop` turns true, and then until the requests
    /// under way are answered.
    pub(crate) async fn serve(
        mut self,
        app: Arc<App>,
        routes: Routes,
        ids: Arc<RequestIds>,
        spans: Option<Arc<RequestSpans>>,
        room: ConnectionLimit,
        mut stop: watch::Receiver<bool>,
    ) {
        let connections = TaskTracker::new();
        let service = Arc::new(Service { app, routes, ids, spans });
        let outage = OutageLog::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&room) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (connection, peer, seat) = match accepted {
                Ok(accepted) => {
                    if let Some(failures) = outage.succeeded(Instant::now()) {
                        tracing::info!(failures, "connections are accepted again");
                    }
                    let Some(accepted) = accepted else { continue };
                    accepted
                }
                Err(error) => {
                    match outage.failed(Instant::now()) {
                        Some(OutageNotice::Begins) => {
                            tracing::warn!(%error, "cannot accept a connection; retrying");
                        }
                        Some(OutageNotice::GoesOn(failures)) => {
                            tracing::warn!(%error, failures, "still cannot accept connections");
                        }
                        None => {}
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let client = ConnectionContext {
                service: Arc::clone(&service),
                peer,
                certificate: None,
                tls: self.tls.clone(),
                stop: stop.clone(),
            };
            connections.spawn(async move {
                let _seat = seat;
                let served = match connection {
                    Connection::Tcp(stream) => accept_tls(stream, client).await,
                    Connection::Unix(stream) => accept_tls(stream, client).await,
                };
                if let Err(reason) = served {
                    tracing::debug!(%reason, peer = peer.0.map(tracing::field::display), "a connection ended early");
                }
            });
        }
        drop(self);
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::warn!(
                "some requests were still under way after {} seconds and were cut off",
                GRACE.as_secs()
            );
        }
    }

    /// Waits for a connection; `None` if there is no room for one of this address.
    async fn accept(
        &mut self,
        room: &ConnectionLimit,
    ) -> io::Result<Option<(Connection, Peer, ConnectionPermit)>> {
        let Some(place) = room.place().await else { return Ok(None) };
        let (connection, peer) = accept(&mut self.bound).await?;
        if let Connection::Tcp(stream) = &connection {
            prepare(stream)?;
        }
        Ok(room.seat(place, peer).map(|seat| (connection, Peer(peer), seat)))
    }
}

/// Speaks TLS first, where that is asked for.
async fn accept_tls<S: Stream>(stream: S, mut client: ConnectionContext) -> Result<(), String> {
    let connection = Arc::<ConnectionState>::default();
    let stream = Socket::new(stream, Arc::clone(&connection));
    let Some(tls) = client.tls.take() else { return serve_http(stream, connection, client).await };
    let greeting = tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor().accept(stream));
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        // There was no request, so no answer is missing.
        _ = client.stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let stream = greeted.map_err(|_| "no TLS handshake in time".to_owned())?.map_err(|error| {
        if shows_wrong_certificate(&error) {
            client.service.app.certificate_rejected(client.peer, &error);
        }
        error.to_string()
    })?;
    client.certificate = client_certificate(stream.get_ref().1);
    serve_http(stream, connection, client).await
}

/// The names in the certificate that the client has shown, which has been verified by now.
fn client_certificate(connection: &rustls::ServerConnection) -> Option<ClientCertificate> {
    let shown = connection.peer_certificates()?.first()?;
    Some(ClientCertificate(countersign_tls::names(shown).into()))
}

/// Whether a TLS handshake failed because of the certificate that the client showed. To show none is no guess, as a request
/// without a bearer is none.
fn shows_wrong_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}

/// Speaks HTTP.
async fn serve_http<S>(
    stream: S,
    connection: Arc<ConnectionState>,
    client: ConnectionContext,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ConnectionContext { service, peer, certificate, mut stop, .. } = client;
    let ends = Arc::clone(&connection);
    let service = service_fn(move |request| {
        connection.ask();
        answer(Arc::clone(&service), Arc::clone(&connection), peer, certificate.clone(), request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        // A client that has sent a whole request may close its side and wait for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut stopping = pin!(stop.wait_for(|stop| *stop));
    let mut stops = false;
    let ended = poll_fn(|context| {
        // First what has arrived: a request counts as under way even if the server stops at the same moment.
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(Some(ended));
        }
        if stops || stopping.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        stops = true;
        if !ends.was_asked() {
            // Silence, or half a head.
            return Poll::Ready(None);
        }
        Pin::new(&mut connection).graceful_shutdown();
        Pin::new(&mut connection).poll(context).map(Some)
    })
    .await;
    let Some(ended) = ended else { return Ok(()) };
    // An invalid request has been answered, too.
    if ended.as_ref().err().is_none_or(hyper::Error::is_parse) {
        let parting = part(connection.into_parts().io.into_inner());
        if stops {
            // The last request has been read to its end, so a client that does not part is not waited for.
            let _ = parting.now_or_never();
        } else {
            tokio::select! {
                () = parting => {}
                _ = stopping => {}
            }
        }
    }
    ended.map_err(|error| error.to_string())
}

async fn answer(
    service: Arc<Service>,
    connection: Arc<ConnectionState>,
    peer: Peer,
    certificate: Option<ClientCertificate>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (mut request, awaited) = BodyDemand::watch(request);
    if let Some(certificate) = certificate {
        request.extensions_mut().insert(certificate);
    }
    let id = service.ids.next();
    let arrival = Arrival { peer: peer.0, id: Some(id), deadline: Deadline::from_now() };
    let span = service.spans.as_ref().and_then(|spans| spans.begin(&request, &arrival, id));
    let answering = async {
        match message::check(&request) {
            Ok(()) => service.routes.answer_by(request, arrival, awaited).await,
            Err(malformed) => with_common_headers(malformed.into_response()),
        }
    };
    let mut response = match &span {
        None => answering.await,
        // In a box, so that a request without a span takes no room for one.
        Some(span) => Box::pin(span.around(answering)).await,
    };
    if is_endless(response.headers()) {
        connection.stream();
    }
    response.headers_mut().insert(X_REQUEST_ID, caller::header(id));
    if let Some(span) = span {
        span.answered(response.status());
    }
    Ok(response)
}

/// Whether an answer lasts until one of the two sides leaves.
fn is_endless(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_descriptors_stay_free() {
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
