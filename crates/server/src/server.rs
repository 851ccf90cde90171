//! Runs the two listeners and the background tasks, and stops them in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{CHECK_IN_PERIOD, CallerName, ClockError};
use countersign_tls::Validity;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::App;
use crate::address::{Address, Bound};
use crate::alarms::Alarms;
use crate::caller::RequestIds;
use crate::connection_limit::ConnectionLimit;
use crate::effective_config::BoundListener;
use crate::listener::{GRACE, Listener, share_descriptors};
use crate::routes::{self, Routes};
use crate::socket_activation::ActivatedSockets;
use crate::tls::{Tls, TlsError, TlsFiles};
use crate::traces::{ListenerKind, RequestSpans};

/// How often the files that may change are looked at.
const FILES_PERIOD: Duration = Duration::from_secs(2);

/// How often old records are purged.
const PURGE_PERIOD: Duration = Duration::from_mins(1);

/// How often it is noted how many handshakes there were: each minute of the page's chart is right to so much.
const HISTORY_PERIOD: Duration = Duration::from_secs(1);

/// How often a server checks in that has its store for itself: only its successor will want to know which keys it had.
const LONE_CHECK_IN_PERIOD: Duration = Duration::from_hours(1);

/// A server that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    public: Listener,
    private: Listener,
}

/// Where a listener listens, and with which TLS, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address.
    pub address: Address,
    /// The TLS files.
    pub tls: Option<TlsFiles>,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {error}; {}choose another with {flag}",
        remedy(.address, .error)
    )]
    Listen {
        /// The address.
        address: Address,
        /// The flag that chooses it.
        flag: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
    /// Anybody could issue tokens.
    #[error(
        "the private API would listen on {0}, which is not this machine's loopback, and would ask for no credential, \
         so that anybody could issue tokens; give it callers with secrets (--callers-file), or one secret \
         (--private-bearer-file), or let it ask for certificates (--private-client-ca), or keep it on 127.0.0.1"
    )]
    Exposed(Address),
    /// The TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The remedy for an unusable address, other than choosing another one.
fn remedy(address: &Address, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (Address::Systemd(_), _) => "",
        (_, io::ErrorKind::AddrInUse) => "stop the program that uses it, or ",
        (Address::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "no network interface of this machine has this address; give it to one, or "
        }
        (Address::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "ports below 1024 take a privilege (CAP_NET_BIND_SERVICE, or a socket of systemd: systemd:NAME); give it, or "
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => "make the directory, or ",
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            "let this server's user write to the directory, or "
        }
        _ => "",
    }
}

impl Server {
    /// Takes both addresses; port 0 takes any free port. From here on connections wait to be answered.
    ///
    /// # Errors
    ///
    /// If an address or a certificate cannot be used, or if the private API would be open to anybody.
    pub async fn bind(
        public: ListenerConfig,
        private: ListenerConfig,
        private_asks_for_secret: bool,
    ) -> Result<Self, StartError> {
        let (public_tls, private_tls) = (load(public.tls)?, load(private.tls)?);
        let asks_for_certificates = private_tls.as_ref().is_some_and(|tls| tls.asks_for_certificates());
        let is_for_anybody =
            |local: Option<bool>| local == Some(false) && !private_asks_for_secret && !asks_for_certificates;
        if is_for_anybody(private.address.is_local()) {
            return Err(StartError::Exposed(private.address));
        }
        let mut activated = ActivatedSockets::from_environment();
        let (public_flag, private_flag) = ("--public-listen", "--private-listen");
        let public = bind(public.address, public_flag, &mut activated).await?;
        let asked = private.address.clone();
        let private = bind(private.address, private_flag, &mut activated).await?;
        // Of a socket that was handed over it turns out only now.
        let addresses: io::Result<Vec<Address>> = private.iter().map(Bound::address).collect();
        let addresses =
            addresses.map_err(|error| StartError::Listen { address: asked, flag: private_flag, error })?;
        if let Some(address) = addresses.iter().find(|address| is_for_anybody(address.is_local())) {
            return Err(StartError::Exposed(address.clone()));
        }
        let is_remote = addresses.iter().any(|address| address.is_local() == Some(false));
        if private_asks_for_secret && is_remote && private_tls.is_none() {
            tracing::warn!(
                "the private API takes its secret in plain HTTP from other machines: anybody on the way can read it, and can \
                 have tokens issued; give it TLS (private_tls_certificate), or keep it on 127.0.0.1"
            );
        }
        Ok(Self {
            public: Listener { bound: public, tls: public_tls },
            private: Listener { bound: private, tls: private_tls },
        })
    }

    /// Both listeners, with the addresses and certificates that they got.
    pub fn listeners(&self) -> Vec<BoundListener> {
        [("public", &self.public), ("private", &self.private)]
            .map(|(name, listener)| BoundListener {
                name,
                addresses: listener.bound.iter().map(|bound| bound.address().ok()).collect(),
                tls: listener.tls.clone(),
            })
            .into()
    }

    /// The URL of the public listener, with the port it got: `http://`, `https://` or `unix:`.
    pub fn public_url(&self) -> io::Result<String> {
        self.public.url()
    }

    /// The URL of the private listener.
    pub fn private_url(&self) -> io::Result<String> {
        self.private.url()
    }

    /// Answers until `shutdown` resolves; then finishes the requests under way and closes the store. `reload` has the
    /// files that may change looked at whenever it is notified; they are also looked at every two seconds.
    pub async fn run(
        self,
        app: Arc<App>,
        reload: Arc<tokio::sync::Notify>,
        shutdown: impl Future<Output = ()>,
    ) {
        let tls = [self.public.tls.clone(), self.private.tls.clone()];
        let (stop, stopped) = watch::channel(false);
        let (public_room, private_room) = share_descriptors(descriptors());
        tracing::debug!(public = public_room, private = private_room, "connections at a time");
        let routes = (Routes::public(Arc::clone(&app)), Routes::private(Arc::clone(&app)));
        let ids = Arc::new(RequestIds::new(&**app.tokens.entropy()));
        let spans = (
            RequestSpans::new(&app, ListenerKind::Public, self.public.tls.is_some(), &routes::public_paths()),
            RequestSpans::new(
                &app,
                ListenerKind::Private,
                self.private.tls.is_some(),
                &routes::private_paths(),
            ),
        );
        let exporting = app.traces.as_ref().and_then(|traces| traces.start());
        for tls in tls.iter().flatten() {
            warn_of_certificate(tls, app.tokens.clock().now());
        }
        // Before the first request: read the fence, and check this clock.
        let mut said_of_clock = None;
        app.keep_time(&mut said_of_clock).await;
        if let Err(error) = app.events.learn_known().await {
            tracing::warn!(%error, "cannot report what changed while no server ran, and the numbers by tracker and by caller begin anew");
        }
        app.note_changes().await;
        // The issuer's own services are few, and may have it all.
        let rooms = (
            ConnectionLimit::in_shares(public_room, Arc::clone(&app)),
            ConnectionLimit::for_all(private_room),
        );
        let public = self.public.serve(
            Arc::clone(&app),
            routes.0,
            Arc::clone(&ids),
            spans.0,
            rooms.0,
            stopped.clone(),
        );
        let private = self.private.serve(Arc::clone(&app), routes.1, ids, spans.1, rooms.1, stopped);
        let (public, private) = (tokio::spawn(public), tokio::spawn(private));
        tokio::spawn(Arc::clone(&app.events).write());
        let chores = [
            tokio::spawn(watch_files(Arc::clone(&app), tls, reload)),
            tokio::spawn(purge(Arc::clone(&app))),
            tokio::spawn(check_in(Arc::clone(&app))),
            tokio::spawn(keep_time(Arc::clone(&app), said_of_clock)),
            tokio::spawn(Arc::clone(&app.events).deliver_alarms()),
            tokio::spawn(look_at_handshakes(Arc::clone(&app))),
        ];
        shutdown.await;
        let deadline = Instant::now() + GRACE;
        stop.send_replace(true);
        app.events.end_following();
        for listener in [public, private] {
            if let Err(error) = listener.await {
                tracing::error!(%error, "a listener failed");
            }
        }
        for chore in chores {
            chore.abort();
        }
        let unfinished = app.tasks.finish(deadline).await;
        if unfinished > 0 {
            tracing::warn!(
                unfinished,
                "the store has not answered; the outcome of these handshakes and changes is unknown"
            );
        }
        if let Err(error) = app.tokens.leave().await {
            tracing::debug!(%error, "cannot check out; the other servers notice by themselves");
        }
        if let Some(waiting) = app.events.alarms().map(Alarms::waiting).filter(|waiting| *waiting > 0) {
            tracing::warn!(
                waiting,
                "alarms were still to be delivered; `countersign events` has what they were about"
            );
        }
        if let Some(traces) = &app.traces {
            traces.close(exporting).await;
        }
        app.events.close().await;
        app.tokens.store().close().await;
    }
}

impl Listener {
    /// Of the first address, where there are several.
    fn url(&self) -> io::Result<String> {
        let first = self.bound.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(match (first.address()?, &self.tls) {
            (Address::Tcp(address), None) => format!("http://{address}"),
            (Address::Tcp(address), Some(_)) => format!("https://{address}"),
            (other @ (Address::Unix(_) | Address::Systemd(_)), _) => other.to_string(),
        })
    }
}

/// How many file descriptors this process may have now.
fn descriptors() -> usize {
    // Where that cannot be asked, accepting fails when they run out, and is tried again.
    let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn load(files: Option<TlsFiles>) -> Result<Option<Arc<Tls>>, TlsError> {
    files.map(|files| Tls::load(files).map(Arc::new)).transpose()
}

async fn bind(
    address: Address,
    flag: &'static str,
    activated: &mut ActivatedSockets,
) -> Result<Vec<Bound>, StartError> {
    let bound = Bound::to(&address, activated).await;
    bound.map_err(|error| StartError::Listen { address, flag, error })
}

/// Puts changed keys and certificates to use.
async fn watch_files(app: Arc<App>, tls: [Option<Arc<Tls>>; 2], reload: Arc<tokio::sync::Notify>) {
    let mut ticks = tokio::time::interval(FILES_PERIOD);
    loop {
        let asked_for = tokio::select! {
            _ = ticks.tick() => false,
            () = reload.notified() => true,
        };
        app.reload_keys(asked_for).await;
        reload_bearer(&app, asked_for).await;
        reload_callers(&app, asked_for).await;
        if let Some(callers) = &app.callers {
            callers.refresh_issuers(asked_for);
        }
        for tls in tls.iter().flatten() {
            let (tls, tls_in_use) = (Arc::clone(tls), Arc::clone(tls));
            match tokio::task::spawn_blocking(move || tls.reload_if_changed(asked_for)).await {
                Ok(Ok(true)) => {
                    tracing::info!("the TLS files were read again and are in use");
                    warn_of_certificate(&tls_in_use, app.tokens.clock().now());
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "the new TLS files cannot be used; keeping the old ones");
                }
                Ok(Ok(false)) | Err(_) => {}
            }
        }
        if asked_for && app.callers.is_some() {
            tracing::info!("SIGHUP: looked at the callers file again");
        }
        if asked_for {
            tracing::info!("SIGHUP: looked at the key ring, the TLS files and the bearer file again");
        }
    }
}

/// Warns when clients will reject the certificate. The server continues: a clock may be wrong, and a reload can replace the file.
fn warn_of_certificate(tls: &Tls, now: Timestamp) {
    let file = tls.files().certificates.display();
    if tls.is_authority() {
        tracing::warn!(
            %file,
            "the TLS certificate is an authority's (CA:TRUE), and some clients refuse it as a server's; put one there that \
             is not (with `openssl req -x509`: -addext basicConstraints=critical,CA:FALSE)"
        );
    }
    let Some(Validity { from, until }) = tls.validity() else { return };
    if now > until {
        tracing::warn!(%file, %until, "the TLS certificate has expired, and clients refuse it; put a new one there");
    } else if now < from {
        tracing::warn!(%file, %from, "the TLS certificate is not valid yet, and clients refuse it; is the clock right?");
    }
}

/// Puts another secret of the private API to use.
async fn reload_bearer(app: &Arc<App>, anyway: bool) {
    let app = Arc::clone(app);
    let reload = move || app.bearer.as_ref().map(|bearer| bearer.reload_if_changed(anyway));
    match tokio::task::spawn_blocking(reload).await {
        Ok(Some(Ok(true))) => tracing::info!("the private API's secret has changed on disk and is in use"),
        Ok(Some(Err(error))) => tracing::error!(%error, "the new secret cannot be used; keeping the old one"),
        Ok(Some(Ok(false)) | None) | Err(_) => {}
    }
}

/// Puts a changed callers file to use.
async fn reload_callers(app: &Arc<App>, anyway: bool) {
    let app = Arc::clone(app);
    let reload = move || app.callers.as_ref().map(|callers| callers.reload_if_changed(anyway));
    let listed = |names: &[CallerName]| names.iter().map(CallerName::as_str).collect::<Vec<_>>().join(", ");
    match tokio::task::spawn_blocking(reload).await {
        Ok(Some(Ok(Some(change)))) => tracing::info!(
            added = listed(&change.added),
            removed = listed(&change.removed),
            changed = listed(&change.changed),
            "the callers file has changed on disk and is in use"
        ),
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "the new callers file cannot be used; keeping the callers that were read before");
        }
        Ok(Some(Ok(None)) | None) | Err(_) => {}
    }
}

/// Tells the store who serves from it.
async fn check_in(app: Arc<App>) {
    let period = if app.tokens.store().is_shared() { CHECK_IN_PERIOD } else { LONE_CHECK_IN_PERIOD };
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // It did when it started.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        app.check_in().await;
        app.note_changes().await;
    }
}

/// Compares the clocks again and again.
async fn keep_time(app: Arc<App>, mut said: Option<ClockError>) {
    let mut ticks = tokio::time::interval(CHECK_IN_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The server did when it started.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        app.keep_time(&mut said).await;
    }
}

/// Notes how many handshakes there are in each minute.
async fn look_at_handshakes(app: Arc<App>) {
    let mut ticks = tokio::time::interval(HISTORY_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        app.events.look_at_handshakes();
    }
}

/// Forgets what need not be remembered.
async fn purge(app: Arc<App>) {
    let mut ticks = tokio::time::interval(PURGE_PERIOD);
    loop {
        ticks.tick().await;
        app.limiter.forget_the_calm();
        // A purged record does not come back when the clock is set right a minute later.
        let waits = app.tokens.purge_waits();
        if let Some(reason) = &waits {
            tracing::debug!(%reason, "nothing is purged");
        } else {
            match app.purge().await {
                Ok(0) => {}
                Ok(purged) => tracing::info!(purged, "purged tokens that expired long ago"),
                Err(error) => tracing::warn!(%error, "cannot purge; retrying in a minute"),
            }
        }
        // Where no event is kept, no clock decides.
        if waits.is_none() || !app.events.keeps() {
            match app.events.purge().await {
                Ok(0) => {}
                Ok(purged) => tracing::debug!(purged, "purged old events"),
                Err(error) => tracing::warn!(%error, "cannot purge old events; retrying in a minute"),
            }
        }
    }
}
