//! `countersign serve`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use countersign_core::{
    Clock, KeyRing, LoginTokenSet, NodeFacts, NodeId, OsEntropy, SystemClock, TokenStore, read_or_put,
};
use countersign_http_client::is_this_machine;
use countersign_server::limits::{ALARM_PAUSE, MIN_DESCRIPTORS};
use countersign_server::{
    App, Bearer, Callers, EffectiveConfig, Events, KeyFile, Look, Names, PassedOver, RefusalLimiter, Server,
    Traces, Webhook, log_finding,
};
use countersign_store::backend::IfMissing;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use url::Url;

use crate::cli::unknown_variables;
use crate::output::{Failure, print};
use crate::remote::{read_secret, read_secret_in};
use crate::service_manager;
use crate::settings::{Resolved, ServeArgs, passed_over};
use crate::{exposure, log};

/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

pub(crate) async fn run(args: Box<ServeArgs>) -> Result<(), Failure> {
    let settings = args.resolve()?;
    let log = log::start(settings.log_format)?;
    for (variable, meant) in unknown_variables() {
        tracing::warn!(variable, meant, "this variable is no setting and has no effect");
    }
    let bearer = bearer(&settings)?;
    let callers = callers(&settings)?;
    let webhook = webhook(&settings)?;
    let traces = traces(&settings)?;
    let mut signals = Signals::catch()?;
    raise_descriptor_limit()?;

    make_data_dir(&settings.data_dir)?;
    exposure::warn(&settings);
    warn_about_libpq(&settings);
    let started = tokio::select! {
        started = Box::pin(start(settings, bearer, callers, webhook, traces)) => started?,
        // A store that is waited for is no reason to go on.
        () = signals.stop_asked() => {
            tracing::info!("stopped before it was ready");
            drop(log);
            // The runtime would wait for a look-up of the database's name.
            std::process::exit(0);
        }
    };
    let Started { server, app, public, private } = started;
    print(format!("public {public}\nprivate {private}"))?;
    service_manager::tell(service_manager::READY);
    let reload = Arc::new(Notify::new());
    server.run(app, Arc::clone(&reload), signals.stop(reload)).await;
    tracing::info!("stopped");
    Ok(())
}

/// A server that can begin to serve, and the URLs of its listeners.
struct Started {
    server: Server,
    app: Arc<App>,
    public: String,
    private: String,
}

/// Opens the store, takes up the keys, and binds.
async fn start(
    settings: Resolved,
    bearer: Option<Bearer>,
    callers: Option<Callers>,
    webhook: Option<Webhook>,
    traces: Option<Arc<Traces>>,
) -> Result<Started, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // The store comes before the keys: it makes sure that this is the only server on its directory.
    let backend = settings.store.backend();
    let store = backend.open(IfMissing::Make, Arc::clone(&clock), Arc::new(OsEntropy)).await;
    let store = store.map_err(Failure::failed)?;
    let events = backend.events();
    let events = Events::new(settings.events, events, Arc::clone(&clock), Arc::new(OsEntropy));
    let events = match webhook {
        Some(webhook) => events.with_alarms(webhook, ALARM_PAUSE),
        None => events,
    };
    let mut effective_config = effective_config(&settings);
    let key_file = KeyFile::new(settings.key_ring);
    let keys = load_keys(&key_file, &*store, clock.now()).await?;
    let server = Server::bind(settings.public, settings.private, bearer.is_some() || callers.is_some())
        .await
        .map_err(Failure::failed)?;
    let public = server.public_url().map_err(Failure::failed)?;
    let private = server.private_url().map_err(Failure::failed)?;
    effective_config.listeners = server.listeners();

    let public_url = match settings.public_url {
        Some(url) => url,
        None => Url::parse(&public).map_err(Failure::failed)?,
    };
    warn_without_tls(&public_url);
    let store = if traces.is_some() { Traces::of_store(store) } else { store };
    let tokens = LoginTokenSet::new(keys, store, Arc::clone(&clock), Arc::new(OsEntropy), settings.policy);
    let app = Arc::new(App {
        events: Arc::new(events),
        spent_status: settings.spent_status,
        proxies: settings.proxies,
        limiter: RefusalLimiter::new(settings.refusals_per_minute, clock),
        bearer,
        callers,
        traces,
        effective_config,
        ..App::new(tokens, key_file, Names::new(settings.issuer, &public_url))
    });
    join(&app.tokens, private.clone()).await?;
    tracing::info!(data_dir = %settings.data_dir.display(), store = %settings.store.url, %public_url, "ready");
    Ok(Started { server, app, public, private })
}

/// Says what of libpq's changes nothing, and is there for a store that it could be meant for.
fn warn_about_libpq(settings: &Resolved) {
    for PassedOver { what, reason } in passed_over(&settings.store) {
        tracing::warn!("{what} changes nothing: {reason}");
    }
}

/// Takes as many file descriptors as the system grants: each connection needs one, and the usual 1024 are few. With fewer than
/// [`MIN_DESCRIPTORS`] a server would say that it is ready, and could neither take a connection nor keep events.
pub(crate) fn raise_descriptor_limit() -> Result<(), Failure> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) if descriptors < u64::try_from(MIN_DESCRIPTORS).unwrap_or(u64::MAX) => {
            Err(Failure::failed(format!(
                "it may open {descriptors} files, and needs {MIN_DESCRIPTORS} at least; raise the hard limit (`ulimit -Hn`, \
                 LimitNOFILE= of a systemd unit)"
            )))
        }
        Ok(descriptors) => {
            tracing::debug!(descriptors, "may open so many files and connections");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit on open files (RLIMIT_NOFILE)");
            Ok(())
        }
    }
}

/// Reads the key file. Without one, makes one, unless there is a sign that there has been one before: then it is at the
/// wrong place or lost, and a new one in silence would refuse every token that was issued so far.
///
/// If the file is new, the ring of a shared store begins with other keys than the file: the file alone is then useless to a thief.
async fn load_keys(key_file: &KeyFile, store: &dyn TokenStore, now: Timestamp) -> Result<KeyRing, Failure> {
    let path = key_file.path();
    if matches!(path.try_exists(), Ok(false)) {
        if store.ring().await.map_err(Failure::failed)?.is_some() {
            return Err(Failure::failed(format!(
                "there is no key file at {}, and the store keeps a key ring that such a file unlocks: copy the key file of a \
                 server that serves from this store here, with mode 0600; if it is lost everywhere, make a new one with \
                 `countersign keys new` and put its keys into the store with `countersign keys import`, and every token \
                 issued so far is refused",
                path.display()
            )));
        }
        let stats = store.stats().await.map_err(Failure::failed)?;
        let remembered = stats.consumed + stats.revoked;
        if remembered > 0 {
            return Err(Failure::failed(format!(
                "there is no key ring at {}, but the store remembers {remembered} tokens of one: put it back, or name its \
                 place with --key-ring; if it is lost, make a new one with `countersign keys new`, and every token issued \
                 so far is refused",
                path.display()
            )));
        }
    }
    let (keys, new) = key_file.load_or_create(now, &OsEntropy).map_err(Failure::failed)?;
    if new {
        tracing::info!(file = %path.display(), "made a new key ring; whoever can read it can make tokens");
    }
    if new && store.is_shared() {
        let first = KeyRing::generate(now, &OsEntropy).map_err(Failure::failed)?;
        read_or_put(store, &keys, &first, &OsEntropy).await.map_err(Failure::failed)?;
    }
    Ok(keys)
}

/// Takes up the store's key ring, checks in there, and says which tokens will be refused although they may be good.
async fn join(tokens: &LoginTokenSet, private_url: String) -> Result<(), Failure> {
    let facts = NodeFacts {
        id: NodeId::generate(&**tokens.entropy()).map_err(Failure::failed)?,
        host: host(),
        private_url,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    tokens.join(facts).await.map_err(Failure::failed)?.iter().for_each(log_finding);
    Ok(())
}

/// Makes the data directory for its owner only. A store may lie elsewhere, or in memory; the key ring still needs it.
fn make_data_dir(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::failed(format!(
            "cannot make the data directory {}: {error}; name another with --data-dir",
            path.display()
        ))
    })
}

fn bearer(settings: &Resolved) -> Result<Option<Bearer>, Failure> {
    let Some(path) = &settings.private_bearer_file else { return Ok(None) };
    let bearer = Bearer::new(read_secret(path)?)
        .map_err(|error| Failure::usage(format!("the bearer file {} {error}", path.display())))?;
    Ok(Some(bearer.kept_in(path)))
}

fn callers(settings: &Resolved) -> Result<Option<Callers>, Failure> {
    let Some(path) = &settings.callers_file else { return Ok(None) };
    let callers = Callers::load(path, Arc::new(SystemClock));
    callers.map(Some).map_err(|error| {
        Failure::usage(format!(
            "the callers file {} {error}; `countersign callers new` makes one",
            path.display()
        ))
    })
}

/// Where alarms go.
fn webhook(settings: &Resolved) -> Result<Option<Webhook>, Failure> {
    let Some((url, secret)) = &settings.alarms else { return Ok(None) };
    let secret = read_secret_in("alarm secret", secret)?;
    Webhook::new(url, &secret, None).map(Some).map_err(Failure::usage)
}

/// The settings of this server, as `GET /v1/server` shows them.
fn effective_config(settings: &Resolved) -> EffectiveConfig {
    EffectiveConfig {
        config_file: settings.config_file.clone(),
        settings: settings.said.clone(),
        secrets: exposure::secrets(settings),
        directories: exposure::directories(settings),
        listeners: Vec::new(),
        passed_over: {
            let store = settings.store.clone();
            Look::by(move || passed_over(&store))
        },
    }
}

/// Where traces go.
fn traces(settings: &Resolved) -> Result<Option<Arc<Traces>>, Failure> {
    let Some((collector, ratio)) = &settings.traces else { return Ok(None) };
    let traces = Traces::new(collector.clone(), *ratio, host()).map_err(Failure::failed)?;
    Ok(Some(Arc::new(traces)))
}

/// This machine's host name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn warn_without_tls(public_url: &Url) {
    if public_url.scheme() == "http" && !is_this_machine(public_url) {
        tracing::warn!(
            %public_url,
            "trackers reach this server without TLS, so anybody between can answer in its place; use https"
        );
    }
}

/// The signals that a server listens to, caught from the start so that none is missed.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Caught and not looked at, so that a file which may not grow any more (`RLIMIT_FSIZE`) fails one write and does not
    /// end the process.
    _file_too_long: Signal,
    /// The same: what other servers mean by them is nothing here, and no reason to end.
    _of_others: [Signal; 2],
}

impl Signals {
    pub(crate) fn catch() -> Result<Self, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            _file_too_long: catch(SignalKind::from_raw(libc::SIGXFSZ))?,
            _of_others: [catch(SignalKind::user_defined1())?, catch(SignalKind::user_defined2())?],
        })
    }

    /// Waits for the signal to stop.
    async fn stop_asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits until the server is to stop. After that, another Ctrl-C ends the process at once.
    pub(crate) async fn stop(mut self, reload: Arc<Notify>) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => break,
                _ = self.terminate.recv() => break,
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
        service_manager::tell(service_manager::STOPPING);
        tracing::info!("stopping after the requests under way; Ctrl-C stops at once");
        tokio::spawn(async move {
            self.interrupt.recv().await;
            std::process::exit(INTERRUPTED);
        });
    }
}
