//! Everything that the gate decides with.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::http::HeaderMap;
use countersign_audience::{Audience, AudienceError};
use countersign_core::{Clock, Entropy};
use countersign_server::{ForwardedHeader, RefusalLimiter, TrustedProxies};
use countersign_tls::small_file;
use countersign_verifier::{SetupError, Verifier};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::{Config, IssuerConfig};
use crate::cookies::Cookies;
use crate::events::Event;
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::request_path::RequestPath;
use crate::routes::{Peer, routes};
use crate::secret::{self, SecretError};
use crate::sessions::{FILE_NAME, Session, SessionError, Sessions};

/// The name of the secret's file in the data directory.
const SECRET_FILE: &str = "gate-secret";

/// The most logins at a time.
const MAX_LOGINS: usize = 128;

/// A gate that can begin to serve.
pub struct Gate {
    pub(crate) config: Config,
    pub(crate) issuers: Vec<Issuer>,
    /// The base URL in its normal form.
    pub(crate) tracker: String,
    /// The base URL's path, decoded.
    pub(crate) base: Vec<String>,
    pub(crate) cookies: Cookies,
    pub(crate) sessions: Sessions,
    pub(crate) proxies: TrustedProxies,
    pub(crate) limiter: RefusalLimiter,
    pub(crate) metrics: Metrics,
    pub(crate) log_limit: Arc<LogLimit>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Logins under way, which run to their end.
    pub(crate) tasks: TaskTracker,
    /// Places for logins. They are fewer than those for connections, so that slow logins leave room for the proxy's
    /// questions.
    pub(crate) login_places: Semaphore,
}

/// An issuer that can be asked.
pub(crate) struct Issuer {
    pub(crate) config: IssuerConfig,
    pub(crate) verifier: Verifier,
    /// The whole path at which its tokens arrive.
    pub(crate) login_path: String,
}

/// Why a gate cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The files of the data directory cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The sessions cannot be used.
    #[error(transparent)]
    Sessions(#[from] SessionError),
    /// The base URL is no audience.
    #[error("`base_url`: it {0}")]
    Audience(#[from] AudienceError),
    /// An issuer cannot be asked.
    #[error("issuer {issuer}: {error}")]
    Issuer {
        /// Its name.
        issuer: String,
        /// Why.
        error: SetupError,
    },
    /// A file with certificate authorities cannot be read.
    #[error("issuer {issuer}: cannot read the certificate authorities in {path}: {error}", path = .path.display())]
    Authorities {
        /// The issuer's name.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Gate {
    /// Whether the issuers of this configuration could be asked. Changes nothing.
    ///
    /// # Errors
    ///
    /// If a gate with this configuration would not start.
    pub fn check(config: &Config) -> Result<(), OpenError> {
        Audience::parse(config.base_url.as_str())?;
        secret::check_file_system(&config.data_dir)?;
        config.issuers.iter().try_for_each(|issuer| Issuer::new(issuer, config).map(drop))
    }

    /// The files in the data directory that only the gate may read or change.
    pub fn files(data_dir: &Path) -> [PathBuf; 2] {
        [SECRET_FILE, FILE_NAME].map(|name| data_dir.join(name))
    }

    /// Makes what is missing in the data directory, and reads it.
    pub fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, OpenError> {
        let issuers = config.issuers.iter().map(|issuer| Issuer::new(issuer, &config));
        let issuers = issuers.collect::<Result<Vec<_>, _>>()?;
        let tracker = Audience::parse(config.base_url.as_str())?.as_str().to_owned();
        secret::make_directory(&config.data_dir)?;
        let key = secret::read_or_make(&config.data_dir.join(SECRET_FILE), &*entropy)?;
        let sessions = Sessions::open(&config.data_dir)?;
        // `Config::parse` made sure that it can be read.
        let base =
            RequestPath::parse(config.base_path()).map(|path| path.segments().to_vec()).unwrap_or_default();
        Ok(Arc::new(Self {
            cookies: Cookies::new(key, &config.base_url),
            proxies: TrustedProxies {
                networks: config.trusted_proxies.clone(),
                header: ForwardedHeader::XForwardedFor,
            },
            limiter: RefusalLimiter::new(config.logins_per_minute, Arc::clone(&clock)),
            metrics: Metrics::new(&config.issuers),
            log_limit: Arc::default(),
            tasks: TaskTracker::new(),
            login_places: Semaphore::new(MAX_LOGINS),
            issuers,
            tracker,
            base,
            sessions,
            clock,
            entropy,
            config,
        }))
    }

    /// The issuer of a session, if it is still configured as it was at the login: one that was removed, or that is another
    /// user now, has no sessions.
    pub(crate) fn issuer_of(&self, session: &Session) -> Option<&Issuer> {
        if session.tracker != self.tracker {
            return None;
        }
        self.issuers
            .iter()
            .find(|issuer| issuer.config.name == session.issuer && issuer.config.user == session.user)
    }

    /// What answers requests of the client at this address; `None` for a Unix socket.
    pub fn router(self: &Arc<Self>, peer: Option<IpAddr>) -> Router {
        routes(Arc::clone(self)).layer(Extension(Peer(peer)))
    }

    /// The client's address, if the proxy says it.
    pub(crate) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        match peer {
            Some(_) => self.proxies.client(peer, headers),
            // Only the proxy can connect to the gate's Unix socket.
            None => self.proxies.forwarded_for(headers),
        }
    }

    /// Records a refusal. Nothing waits for it but the end of the gate.
    pub(crate) fn note(&self, event: Event) {
        let (sessions, log_limit) = (self.sessions.clone(), Arc::clone(&self.log_limit));
        self.tasks.spawn(async move {
            let at = event.at;
            if let Err(error) = sessions.note(event).await {
                log_limit.warn("unrecorded", at, &format!("cannot record a refusal: {error}"));
            }
        });
    }

    /// The issuer whose tokens arrive at this path, and what stands where a token should.
    pub(crate) fn issuer_at<'p>(&self, path: &'p str) -> Option<(usize, &'p str)> {
        self.issuers.iter().enumerate().find_map(|(place, issuer)| {
            match path.strip_prefix(&*issuer.login_path)? {
                "" => Some((place, "")),
                rest => Some((place, rest.strip_prefix('/')?)),
            }
        })
    }
}

impl Issuer {
    fn new(issuer: &IssuerConfig, config: &Config) -> Result<Self, OpenError> {
        let mut verifier =
            Verifier::builder(&issuer.url).audience(config.base_url.as_str()).timeout(issuer.timeout);
        if let Some(path) = &issuer.certificate_authorities {
            let pem = small_file::read(path, small_file::MAX_PEM_BYTES).map_err(|error| {
                OpenError::Authorities { issuer: issuer.name.clone(), path: path.clone(), error }
            })?;
            verifier = verifier.certificate_authorities(pem.to_vec());
        }
        if let Some(proxy) = &issuer.http_proxy {
            verifier = verifier.proxy(proxy);
        }
        if issuer.allow_insecure_http {
            verifier = verifier.allow_insecure_http();
        }
        let verifier =
            verifier.build().map_err(|error| OpenError::Issuer { issuer: issuer.name.clone(), error })?;
        let login_path = format!("{}{}", config.base_path(), issuer.login_path);
        Ok(Self { config: issuer.clone(), verifier, login_path })
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("config", &self.config).finish_non_exhaustive()
    }
}
