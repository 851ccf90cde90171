//! The token server of Countersign, around the domain of `countersign-core`.
//!
//! Where to look first:
//!
//! - [`routes`]: every route of both listeners;
//! - [`public`]: the handshake, for bug trackers;
//! - [`private`]: issuing, looking and revoking by XML-RPC and JSON, for the service that owns the server;
//! - [`Events`]: from the handlers to the store, to followers and to alarms;
//! - [`Traces`]: spans of requests, for a collector;
//! - [`Server`]: two listeners, limits, and a graceful stop;
//! - [`limits`]: how much of everything there may be;
//! - [`KeyFile`]: the key ring on disk.

mod accept;
mod activity;
mod address;
mod alarms;
mod app;
mod arrival;
mod bearer;
mod caller;
mod callers;
mod change;
mod coding;
mod connection_limit;
mod deadline;
mod effective_config;
mod events;
mod file_version;
mod handshake_outcome;
mod health;
mod history;
mod key_file;
mod latency;
mod limiter;
pub mod limits;
mod listener;
mod message;
mod metrics;
mod outage_log;
pub mod private;
mod problem;
mod proxies;
pub mod public;
mod record_count;
mod replace;
pub mod routes;
mod secret;
mod server;
mod socket;
mod socket_activation;
mod sum;
mod tasks;
mod tls;
mod traces;

/// The server's `User-Agent` where it is the client.
pub(crate) const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

pub use address::{Address, Bound, Connection, NotAnAddress, OWNER_ONLY, SocketFile, accept};
pub use alarms::{Webhook, WebhookError};
pub use app::{App, Names, SpentStatus, log_finding};
pub use arrival::{ClientCertificate, Peer};
pub use bearer::{Bearer, WeakSecret};
pub use callers::{
    AudiencePattern, CALLERS_FILE, CallerRule, Callers, CallersChange, CallersError, CallersFile,
    CallersFileError, CertificateName, HttpsUrl, ISSUER_AUTHORITIES, ISSUER_KEYS, IssuerUrl, JwtRule,
    NotACertificateName, NotAScope, NotAnHttpsUrl, PatternError, Scope, SecretHash, files as caller_files,
    judge_jwt, new_secret, parse as parse_callers,
};
pub use effective_config::{BoundListener, EffectiveConfig, Look, PassedOver, Setting, Source, absolute};
pub use events::{EventCounts, EventPolicy, Events};
pub use key_file::{KeyFile, KeyFileError};
pub use limiter::RefusalLimiter;
pub use metrics::metrics_answer;
pub use private::admin::StoreDocument;
pub use private::keys::KeysDocument;
pub use private::server::{
    CallerDocument, CertificateDocument, ExposureDocument, FileDocument, IssuerDocument, JwtDocument,
    ListenerDocument, ServerDocument, TracesDocument,
};
pub use problem::PROBLEMS;
pub use proxies::{ForwardedHeader, TrustedProxies};
pub use secret::{DATABASE, Exposure, SecretFile, exposure_of, exposure_of_open, warn_of_exposure};
pub use server::{ListenerConfig, Server, StartError};
pub use socket_activation::ActivatedSockets;
pub use tasks::Tasks;
pub use tls::{Tls, TlsError, TlsFiles};
pub use traces::{Collector, Traces, TracesError};
