//! The two listeners, what goes on beside them, and the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{App, listener, routes};

/// How often the key file is looked at.
const KEY_FILE_PERIOD: Duration = Duration::from_secs(2);

/// How often old records are purged.
const PURGE_PERIOD: Duration = Duration::from_mins(1);

/// A server that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    public: TcpListener,
    private: TcpListener,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For bug trackers.
    pub public: SocketAddr,
    /// For the issuer's own processes.
    pub private: SocketAddr,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {error}; stop the program that uses it, or choose another with {flag}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that chooses it.
        flag: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
    /// Anybody could issue tokens.
    #[error(
        "the private API would listen on {0}, which is not this machine's loopback, and would ask for no credential, \
         so that anybody could issue tokens; give it a secret with --private-bearer-file FILE, or keep it on 127.0.0.1"
    )]
    Exposed(SocketAddr),
}

impl Server {
    /// Takes both addresses; port 0 takes any free port. From here on connections wait to be answered.
    ///
    /// # Errors
    ///
    /// If an address cannot be had, or if the private API would be open to anybody.
    pub async fn bind(addresses: Addresses, private_asks_for_credential: bool) -> Result<Self, StartError> {
        if !addresses.private.ip().to_canonical().is_loopback() && !private_asks_for_credential {
            return Err(StartError::Exposed(addresses.private));
        }
        Ok(Self {
            public: bind(addresses.public, "--public-listen").await?,
            private: bind(addresses.private, "--private-listen").await?,
        })
    }

    /// Where it listens, with the ports it got.
    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses { public: self.public.local_addr()?, private: self.private.local_addr()? })
    }

    /// Answers until `shutdown` resolves; then finishes the requests under way and closes the store.
    pub async fn run(self, app: Arc<App>, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let public =
            tokio::spawn(listener::serve(self.public, routes::public(Arc::clone(&app)), stopped.clone()));
        let private = tokio::spawn(listener::serve(self.private, routes::private(Arc::clone(&app)), stopped));
        let chores = [tokio::spawn(watch_key_file(Arc::clone(&app))), tokio::spawn(purge(Arc::clone(&app)))];
        shutdown.await;
        stop.send_replace(true);
        for listener in [public, private] {
            if let Err(error) = listener.await {
                tracing::error!(%error, "a listener ended badly");
            }
        }
        for chore in chores {
            chore.abort();
        }
        app.tokens.store().close().await;
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, flag, error })
}

/// Looks at the key file now and then.
async fn watch_key_file(app: Arc<App>) {
    let mut ticks = tokio::time::interval(KEY_FILE_PERIOD);
    loop {
        ticks.tick().await;
        app.reload_keys().await;
    }
}

/// Forgets what need not be remembered.
async fn purge(app: Arc<App>) {
    let mut ticks = tokio::time::interval(PURGE_PERIOD);
    loop {
        ticks.tick().await;
        match app.tokens.purge().await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, "forgot tokens that expired long ago"),
            Err(error) => tracing::warn!(%error, "cannot purge; trying again in a minute"),
        }
        app.limiter.forget_the_calm();
    }
}
