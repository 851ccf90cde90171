//! Accepts connections of the proxy, and stops in order.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use countersign_server::{ActivatedSockets, Address, Bound, Connection, accept};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::IssuerConfig;
use crate::gate::Gate;
use crate::login::BODY_TIMEOUT;
use crate::routes::{Peer, routes};

/// How long a client may take to send a request's head, or to send nothing on a connection that is kept alive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take, with its answer. Longer than any login.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(4);

/// The most bytes of a request's head; nginx and Caddy pass on 32 KiB at most by default.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most connections at a time; further ones wait.
const MAX_CONNECTIONS: usize = 1024;

/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests under way may take when the gate stops: as long as the longest login, of which a verifier's call takes
/// three times its timeout at most.
fn grace(issuers: &[IssuerConfig]) -> Duration {
    BODY_TIMEOUT + issuers.iter().map(|issuer| issuer.timeout * 3).max().unwrap_or_default()
}

/// Whether a Unix socket is for the proxy alone, as far as its mode says.
///
/// # Errors
///
/// If its mode lets in others, who would be taken for the proxy, or if the socket cannot be looked at.
pub fn check_socket(path: &Path) -> io::Result<()> {
    let shown = path.display();
    let metadata = std::fs::metadata(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot look at {shown}: {error}")))?;
    let mode = metadata.permissions().mode() & 0o777;
    let for_others = mode & 0o007;
    if for_others == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{shown} is not for the proxy alone: its mode is {mode:o}, and others who can connect would be taken for the proxy; with systemd, set \
             SocketMode=0660 and SocketGroup= to the proxy's group, and restart the socket"
        ),
    ))
}

/// A gate that listens, and does not answer yet.
#[derive(Debug)]
pub struct BoundGate {
    gate: Arc<Gate>,
    /// At least one: a service manager can hand over several of one name.
    bound: Vec<Bound>,
}

impl BoundGate {
    /// Takes the address that is configured, or those among `inherited` that a service manager has opened for it.
    ///
    /// # Errors
    ///
    /// If the address cannot be used, or is a Unix socket whose mode lets in others.
    pub async fn bind(gate: Arc<Gate>, inherited: &mut ActivatedSockets) -> io::Result<Self> {
        let bound = Bound::with_mode(&gate.config.listen, gate.config.socket_mode, inherited).await?;
        for place in &bound {
            // An abstract socket, which has no path, has no address here.
            if let Address::Unix(path) = place.address()? {
                check_socket(&path)?;
            }
        }
        Ok(Self { gate, bound })
    }

    /// The first address, with the port that it got.
    pub fn address(&self) -> io::Result<Address> {
        self.bound.first().ok_or(io::ErrorKind::AddrNotAvailable)?.address()
    }

    /// Answers until `shutdown` resolves, and then until the requests and the logins under way are done.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let router = routes(Arc::clone(&self.gate));
        let (stop, stopped) = watch::channel(false);
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accepting = async {
            loop {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                match accept(&mut self.bound).await {
                    Ok((connection, peer)) => {
                        let (router, stopped) = (router.clone(), stopped.clone());
                        connections.spawn(async move {
                            match connection {
                                Connection::Tcp(stream) => {
                                    // Without it small answers may wait; a connection that is gone already says so soon enough.
                                    let _ = stream.set_nodelay(true);
                                    serve(stream, peer, router, stopped).await;
                                }
                                Connection::Unix(stream) => serve(stream, peer, router, stopped).await,
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        self.gate.log_limit.warn(
                            "accept",
                            self.gate.clock.now(),
                            &format!("cannot accept a connection: {error}; trying again"),
                        );
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
        drop(self.bound);
        stop.send_replace(true);
        connections.close();
        self.gate.tasks.close();
        let done = async {
            connections.wait().await;
            self.gate.tasks.wait().await;
        };
        let grace = grace(&self.gate.config.issuers);
        if tokio::time::timeout(grace, done).await.is_err() {
            tracing::warn!(
                "some requests were still under way after {} seconds and were cut off",
                grace.as_secs()
            );
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Option<IpAddr>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        let answering = router.clone().oneshot(request);
        async move {
            let answered = tokio::time::timeout(REQUEST_TIMEOUT, answering).await;
            Ok::<_, Infallible>(match answered {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    crate::routes::text(axum::http::StatusCode::REQUEST_TIMEOUT, "The request took too long.")
                }
            })
        }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(true);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = peer.map(tracing::field::display), "a connection ended early");
    }
}

/// Waits until the gate is to stop, or is gone.
async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn stopping_waits_for_the_longest_login() {
        let issuer = |name: &str, timeout: &str| {
            format!(
                "[[issuer]]\nname = \"{name}\"\nurl = \"https://{name}.example.org\"\nuser = \"{name}\"\n\
                 login_path = \"/{name}\"\nallow = [{{ methods = [\"GET\"], paths = [\"/**\"] }}]\ntimeout = \"{timeout}\"\n"
            )
        };
        let config = Config::parse(&format!(
            "base_url = \"https://bugs.example.org/\"\ndata_dir = \"gate\"\nproxy = \"nginx\"\n{}{}",
            issuer("one", "60s"),
            issuer("two", "1s")
        ));
        let longest = grace(&config.unwrap().issuers);
        assert_eq!(longest, Duration::from_secs(190));
        assert!(longest < REQUEST_TIMEOUT);
    }
}
