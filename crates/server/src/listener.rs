//! Accepting connections and serving them, within limits.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt;

/// How long a client may take to send a request's head, or to send nothing on a connection that is kept alive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a whole request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head. A token with the longest audience and claims takes 2.5 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long to wait when no connection can be accepted, which is mostly because the process has used up its file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address that a request comes from; `None` where there is no such thing.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<IpAddr>);

/// Serves `router` on `listener` until `stop` turns true, and then until the requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are short and must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        let peer = Peer(Some(address.ip().to_canonical()));
        let router = router.clone();
        let service = service_fn(move |request| answer(router.clone(), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!(
            "some requests were still under way after {} seconds and were cut off",
            GRACE.as_secs()
        );
    }
}

async fn answer(
    router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    match tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request)).await {
        Ok(answered) => answered,
        Err(_) => Ok((StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response()),
    }
}
