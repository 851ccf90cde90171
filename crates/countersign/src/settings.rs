//! The settings of a server: from flags, then from variables, then from the file, then from the defaults.
//!
//! [`Settings`] is the one list of settings, which clap reads. [`Given`] gathers what the sources say; [`Resolved`] has
//! everything checked.

mod file;
mod given;
mod reported;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use countersign_core::{MAX_LIFETIME, Policy};
use countersign_server::{
    Address, Collector, EventPolicy, ForwardedHeader, ListenerConfig, PassedOver, Setting, SpentStatus,
    TlsFiles, TrustedProxies, absolute,
};
use countersign_store::place::{StorePlace, StoreUrl};
use countersign_store::postgres::{LibpqEnvironment, PostgresOptions};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::Serialize;
use url::Url;

use crate::output::Failure;

pub(crate) use self::given::Given;
pub(crate) use self::reported::{giver, resolve as resolve_said};

pub(crate) const SERVE_HELP: &str = "\
Every flag is also a variable, and a key of the configuration file: --public-listen is \
COUNTERSIGN_PUBLIC_LISTEN and public_listen. A flag overrides a variable, and a variable overrides the file.

When the server is ready it prints two lines, `public URL` and `private URL`, such as \
`public http://127.0.0.1:8080`. Logs go to standard error; RUST_LOG=debug logs more.

SIGTERM or Ctrl-C stops the server after the requests under way; a second Ctrl-C stops it at once, with exit code 130. \
On SIGHUP the server reads the key ring, the TLS files, the bearer file and the callers file again, and logs the result.";

/// The longest time that events can be kept: ten years.
const MAX_EVENT_RETENTION: Duration = Duration::from_hours(10 * 365 * 24);

/// Configuration as it is given: settings, and the file with more of them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    /// The configuration file [default: /etc/countersign/countersign.toml, or else ./countersign.toml, if there is one]
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) given: Given,
}

/// Every setting of a server. A field is the one declaration of a setting: its flag, its variable, its key of the file, its
/// line of the help and of the reference, and its entry in the sample file come from it.
///
/// The first paragraph of a field's comment is its help. The others stand in the sample file only; the last one, `Example:`,
/// is the value there of a setting that has no default.
#[derive(Args, Serialize)]
pub(crate) struct Settings {
    /// The directory of the store and the key ring; created if missing
    ///
    /// Only the server's user can enter the directory that the server creates.
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR", default_value = "countersign-data")]
    data_dir: PathBuf,
    /// The address of the public listener, for bug trackers: IP:PORT, unix:PATH, or systemd:NAME for a socket that
    /// the service manager passes on
    ///
    /// Port 0 takes a free port. The NAME of a socket is the `FileDescriptorName` in its socket unit.
    #[arg(long, env = "COUNTERSIGN_PUBLIC_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    public_listen: Address,
    /// The address of the private listener, for the issuer's own processes: IP:PORT, unix:PATH or systemd:NAME
    ///
    /// Beyond loopback it needs `callers_file`, `private_bearer_file` or `private_client_ca`. Only the server's own user can
    /// use a Unix socket.
    #[arg(long, env = "COUNTERSIGN_PRIVATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8087")]
    private_listen: Address,
    /// The URL under which trackers reach the public listener; token URLs begin with it [default: where it listens]
    ///
    /// In production, an https URL of a proxy in front of the server.
    ///
    /// Example: `http://127.0.0.1:8080`
    #[arg(long, env = "COUNTERSIGN_PUBLIC_URL", value_name = "URL", value_parser = parse_url)]
    public_url: Option<Url>,
    /// The store of used tokens: sqlite: in the data directory, sqlite:PATH, a postgres: URL for several servers, or
    /// memory:, which is lost when the server stops
    ///
    /// The URL of a PostgreSQL store is postgres://USER@HOST:PORT/DATABASE; see docs/scaling.md.
    #[arg(long, env = "COUNTERSIGN_STORE", value_name = "URL", default_value = "sqlite:")]
    store: String,
    /// A file with the password for a PostgreSQL store, read again for each connection [default: the URL's, or
    /// libpq's: PGPASSWORD, PGPASSFILE, ~/.pgpass]
    ///
    /// The password is the file's first line.
    ///
    /// Example: `/etc/countersign/store-password`
    #[arg(long, env = "COUNTERSIGN_STORE_PASSWORD_FILE", value_name = "FILE")]
    store_password_file: Option<PathBuf>,
    /// The schema in which a PostgreSQL store keeps its tables
    #[arg(long, env = "COUNTERSIGN_STORE_SCHEMA", value_name = "NAME", default_value = "countersign")]
    store_schema: String,
    /// Certificate authorities (PEM) to trust for a PostgreSQL store [default: the system's]
    ///
    /// Example: `/etc/countersign/store-ca.pem`
    #[arg(long, env = "COUNTERSIGN_STORE_CA_FILE", value_name = "FILE")]
    store_ca_file: Option<PathBuf>,
    /// The file of the keys that seal tokens; created if missing [default: key-ring.toml in the data directory]
    ///
    /// The server creates it with mode 0600: anybody who reads it can make tokens.
    ///
    /// Example: `countersign-data/key-ring.toml`
    #[arg(long, env = "COUNTERSIGN_KEY_RING", value_name = "FILE")]
    key_ring: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the public listener; read again when it changes
    ///
    /// For a listener that has no proxy in front of it. By default there is no TLS.
    ///
    /// Example: `/etc/countersign/public.crt`
    #[arg(long, env = "COUNTERSIGN_PUBLIC_TLS_CERTIFICATE", value_name = "FILE")]
    public_tls_certificate: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    ///
    /// Example: `/etc/countersign/public.key`
    #[arg(long, env = "COUNTERSIGN_PUBLIC_TLS_KEY", value_name = "FILE")]
    public_tls_key: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the private listener
    ///
    /// Example: `/etc/countersign/private.crt`
    #[arg(long, env = "COUNTERSIGN_PRIVATE_TLS_CERTIFICATE", value_name = "FILE")]
    private_tls_certificate: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    ///
    /// Example: `/etc/countersign/private.key`
    #[arg(long, env = "COUNTERSIGN_PRIVATE_TLS_KEY", value_name = "FILE")]
    private_tls_key: Option<PathBuf>,
    /// Certificate authorities (PEM) of the client certificates that callers of the private API must present
    ///
    /// By default callers need no certificate.
    ///
    /// Example: `/etc/countersign/clients.crt`
    #[arg(long, env = "COUNTERSIGN_PRIVATE_CLIENT_CA", value_name = "FILE")]
    private_client_ca: Option<PathBuf>,
    /// A file with the secret that callers of the private API must send; beyond this machine, this, a callers file or
    /// client certificates are required
    ///
    /// Callers send it as `Authorization: Bearer ...`. By default there is none, and the private API stays on loopback.
    ///
    /// Example: `/etc/countersign/private-bearer`
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    private_bearer_file: Option<PathBuf>,
    /// A file that names the callers of the private API, with what each may do; read again when it changes
    ///
    /// `countersign callers` writes it. With it, every caller must show a secret or a client certificate. By default every
    /// caller may do everything.
    ///
    /// Example: `/etc/countersign/callers.toml`
    #[arg(long, env = "COUNTERSIGN_CALLERS_FILE", value_name = "FILE")]
    callers_file: Option<PathBuf>,
    /// The issuer's name in the title of a token
    #[arg(long, env = "COUNTERSIGN_ISSUER", value_name = "NAME", default_value = "Launchpad")]
    issuer: String,
    /// How long a token lives, such as 90s or 5m; at most 24h
    #[arg(long, env = "COUNTERSIGN_TOKEN_LIFETIME", value_name = "DURATION", value_parser = parse_duration,
          default_value = "5m")]
    token_lifetime: SignedDuration,
    /// How long the record of a used token is kept after the token's expiry; at least 2m
    #[arg(long, env = "COUNTERSIGN_RETENTION", value_name = "DURATION", value_parser = parse_duration,
          default_value = "24h")]
    retention: SignedDuration,
    /// Issue only tokens that are bound to one bug tracker
    ///
    /// Unbound tokens can be relayed by a hostile tracker; set this to true as soon as all your trackers' plugins state their
    /// audience.
    #[arg(long, env = "COUNTERSIGN_REQUIRE_AUDIENCE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    require_audience: bool,
    /// The status for a token that is used, expired or revoked: 401 as in the original protocol, or 410
    ///
    /// Present-day Launchpad answers 410.
    #[arg(long, env = "COUNTERSIGN_SPENT_STATUS", value_name = "STATUS", default_value = "401")]
    spent_status: u16,
    /// Refusals that one address may cause in a minute; the rest become 429; 0 means no limit
    ///
    /// A good token is always accepted.
    #[arg(long, env = "COUNTERSIGN_REFUSALS_PER_MINUTE", value_name = "NUMBER", default_value = "1000")]
    refusals_per_minute: u32,
    /// Reverse proxies that are trusted to name the client's address, such as 127.0.0.1 or 10.0.0.0/8 [default: none]
    ///
    /// Refusal limits, records and events use this address. Name only proxies that set the header themselves.
    #[arg(long, env = "COUNTERSIGN_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    trusted_proxies: Vec<Network>,
    /// The header in which they name it: x-forwarded-for or forwarded
    #[arg(
        long,
        env = "COUNTERSIGN_FORWARDED_HEADER",
        value_name = "HEADER",
        default_value = "x-forwarded-for",
        hide_possible_values = true
    )]
    forwarded_header: HeaderName,
    /// How long events are kept, such as 720h; 0s keeps none
    ///
    /// Events are replays, relay attempts, refusals and rotated keys; `countersign events` lists them.
    #[arg(long, env = "COUNTERSIGN_EVENT_RETENTION", value_name = "DURATION", value_parser = parse_duration,
          default_value = "720h")]
    event_retention: SignedDuration,
    /// Keep an event for each token that is issued
    ///
    /// Redemptions and revocations are on record anyway.
    #[arg(long, env = "COUNTERSIGN_RECORD_ISSUED", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    record_issued: bool,
    /// The https URL that receives an alarm when a token is replayed or relayed, or when somebody guesses secrets;
    /// signed as in Standard Webhooks [default: nowhere]
    ///
    /// Example: `https://alarms.example.org/countersign`
    #[arg(long, env = "COUNTERSIGN_ALARM_WEBHOOK", value_name = "URL", value_parser = parse_url)]
    alarm_webhook: Option<Url>,
    /// A file with the secret that alarms are signed with: whsec_ and Base64
    ///
    /// Example: `/etc/countersign/alarm-secret`
    #[arg(long, env = "COUNTERSIGN_ALARM_SECRET_FILE", value_name = "FILE")]
    alarm_secret_file: Option<PathBuf>,
    /// The base URL of the OpenTelemetry collector that receives traces by OTLP over HTTP, usually on port 4318
    /// [default: nowhere]
    ///
    /// Example: `http://127.0.0.1:4318`
    #[arg(long, env = "COUNTERSIGN_TRACES", value_name = "URL", value_parser = parse_url)]
    traces: Option<Url>,
    /// The share of requests to trace, from 0 to 1; a caller of the private API can decide with a traceparent
    ///
    /// 0.01 is one request in a hundred.
    #[arg(long, env = "COUNTERSIGN_TRACE_RATIO", value_name = "NUMBER", default_value = "1")]
    trace_ratio: f64,
    /// The format of the log: human or json
    #[arg(
        long,
        env = "COUNTERSIGN_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "human",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

/// A network, or one address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| "write an address or a network, such as 127.0.0.1 or 10.0.0.0/8")
    }
}

impl From<Network> for IpNet {
    fn from(Network(network): Network) -> Self {
        network
    }
}

/// Where a proxy says whom it forwards for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeaderName {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for a person.
    Human,
    /// An object a line, for a program.
    Json,
}

/// Settings with nothing left open.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) data_dir: PathBuf,
    pub(crate) public: ListenerConfig,
    pub(crate) private: ListenerConfig,
    pub(crate) proxies: TrustedProxies,
    /// `None`: the address that is listened on.
    pub(crate) public_url: Option<Url>,
    pub(crate) store: StorePlace,
    pub(crate) key_ring: PathBuf,
    pub(crate) private_bearer_file: Option<PathBuf>,
    pub(crate) callers_file: Option<PathBuf>,
    pub(crate) issuer: String,
    pub(crate) policy: Policy,
    pub(crate) spent_status: SpentStatus,
    pub(crate) refusals_per_minute: u32,
    pub(crate) events: EventPolicy,
    /// Where alarms go, and the file with the secret.
    pub(crate) alarms: Option<(Url, PathBuf)>,
    /// Where traces go, and which share of the requests is traced.
    pub(crate) traces: Option<(Collector, f64)>,
    pub(crate) log_format: LogFormat,
    /// The file that was read, if one was.
    pub(crate) config_file: Option<PathBuf>,
    /// Every setting as it was said, without secrets, and who said it.
    pub(crate) said: Vec<Setting>,
}

impl ServeArgs {
    /// Reads the file, lays flags and variables over it, and fills in the defaults.
    pub(crate) fn resolve(self) -> Result<Resolved, Failure> {
        let config_file = file::find(self.config)?;
        let file = config_file.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let resolved = file.overlaid_with(self.given).resolve(&libpq_environment())?;
        Ok(Resolved { config_file: config_file.map(|path| absolute(&path)), ..resolved })
    }
}

/// Variables of libpq, and its password file, that could be meant for this store but have no effect.
pub(crate) fn passed_over(store: &StorePlace) -> Vec<PassedOver> {
    let StoreUrl::Postgres(url) = &store.url else { return Vec::new() };
    let variables = libpq_environment().passed_over().into_iter().map(|(variable, reason)| PassedOver {
        what: format!("the variable {variable} of libpq"),
        reason: reason.to_owned(),
    });
    let file = url.passed_over_password_file(&store.postgres).map(|(path, reason)| PassedOver {
        what: format!("the password file {}", absolute(&path).display()),
        reason,
    });
    variables.chain(file).collect()
}

/// The variables of libpq of this process.
pub(crate) fn libpq_environment() -> LibpqEnvironment {
    LibpqEnvironment::new(std::env::vars_os(), std::env::home_dir())
}

impl Given {
    fn resolve(&self, libpq: &LibpqEnvironment) -> Result<Resolved, Failure> {
        let settings = self.settings()?;
        let said = reported::settings(&settings, self, libpq)?;
        settings.resolve(said, libpq)
    }
}

impl Settings {
    fn resolve(self, mut said: Vec<Setting>, libpq: &LibpqEnvironment) -> Result<Resolved, Failure> {
        let data_dir = self.data_dir;
        let key_ring = self.key_ring.unwrap_or_else(|| data_dir.join("key-ring.toml"));
        reported::name_places(&mut said, &[("data_dir", &data_dir), ("key_ring", &key_ring)]);
        let public = ListenerConfig {
            address: self.public_listen,
            tls: tls_files("public", self.public_tls_certificate, self.public_tls_key, None)?,
        };
        let private = ListenerConfig {
            address: self.private_listen,
            tls: tls_files(
                "private",
                self.private_tls_certificate,
                self.private_tls_key,
                self.private_client_ca,
            )?,
        };
        let policy = Policy {
            lifetime: duration("token_lifetime", self.token_lifetime, 1, MAX_LIFETIME)?,
            retention: duration("retention", self.retention, 120, Duration::MAX)?,
            require_audience: self.require_audience,
        };
        let events = EventPolicy {
            retention: duration("event_retention", self.event_retention, 0, MAX_EVENT_RETENTION)?,
            record_issued: self.record_issued,
        };
        let alarms = match (self.alarm_webhook, self.alarm_secret_file) {
            (Some(webhook), Some(secret)) => Some((webhook, secret)),
            (None, None) => None,
            _ => return Err(Failure::usage("alarms take both alarm_webhook and alarm_secret_file")),
        };
        let traces = self.traces.as_ref().map(Collector::at).transpose().map_err(Failure::usage)?;
        let ratio = self.trace_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Failure::usage(format!(
                "trace_ratio must be a number from 0 to 1, such as 0.01 for one request in a hundred, not {ratio}"
            )));
        }
        let spent_status = spent_status(self.spent_status)?;
        if let Some(url) = &self.public_url {
            check_public_url(url)?;
        } else if !has_a_name(&public.address) {
            return Err(Failure::usage(
                "trackers cannot tell from public_listen where to reach the server, so public_url has to say it; give \
                 it as https://HOST",
            ));
        }
        let issuer = self.issuer;
        if issuer.trim().is_empty() || issuer.chars().any(char::is_control) {
            return Err(Failure::usage("issuer must be a name in one line, such as Launchpad"));
        }
        Ok(Resolved {
            public,
            private,
            proxies: TrustedProxies {
                networks: self.trusted_proxies.into_iter().map(IpNet::from).collect(),
                header: match self.forwarded_header {
                    HeaderName::XForwardedFor => ForwardedHeader::XForwardedFor,
                    HeaderName::Forwarded => ForwardedHeader::Forwarded,
                },
            },
            public_url: self.public_url,
            store: StorePlace {
                url: StoreUrl::read(&self.store, libpq).map_err(Failure::usage)?,
                data_dir: data_dir.clone(),
                postgres: PostgresOptions {
                    password_file: self.store_password_file,
                    schema: self.store_schema.parse().map_err(Failure::usage)?,
                    ca_file: self.store_ca_file,
                },
            },
            key_ring,
            data_dir,
            private_bearer_file: self.private_bearer_file,
            callers_file: self.callers_file,
            issuer,
            policy,
            spent_status,
            refusals_per_minute: self.refusals_per_minute,
            events,
            alarms,
            traces: traces.map(|collector| (collector, ratio)),
            log_format: self.log_format,
            config_file: None,
            said,
        })
    }
}

/// Reads the text of a configuration file as `countersign serve` does, but opens none of the files that it names, and looks
/// at no variables.
/// Returns what it decides about tokens.
///
/// # Errors
///
/// What is wrong with it, for a person.
pub fn check(text: &str) -> Result<Policy, String> {
    let given = file::parse(text).map_err(|error| error.to_string())?;
    given
        .resolve(&LibpqEnvironment::default())
        .map(|resolved| resolved.policy)
        .map_err(Failure::into_sentence)
}

/// Reads a duration.
pub(crate) fn parse_duration(text: &str) -> Result<SignedDuration, &'static str> {
    text.parse().map_err(|_| "write a number and its unit, such as 90s, 5m or 24h")
}

/// Reads the base URL of a tracker. An empty one is mostly a variable that was not set, and never means any tracker.
pub(crate) fn parse_audience(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() {
        return Err("it is empty; give the base URL of the bug tracker, such as https://bugs.example.org/");
    }
    Ok(text.to_owned())
}

/// Reads a URL.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    text.parse().map_err(|error| format!("not a URL ({error}); write one such as https://tokens.example.org"))
}

fn spent_status(given: u16) -> Result<SpentStatus, Failure> {
    match given {
        401 => Ok(SpentStatus::Unauthorized),
        410 => Ok(SpentStatus::Gone),
        other => Err(Failure::usage(format!("spent_status must be 401 or 410, not {other}"))),
    }
}

/// Whether an address alone tells others where to go.
fn has_a_name(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => !address.ip().is_unspecified(),
        Address::Unix(_) | Address::Systemd(_) => false,
    }
}

/// A listener's TLS files: both or none.
fn tls_files(
    listener: &str,
    certificates: Option<PathBuf>,
    key: Option<PathBuf>,
    client_authorities: Option<PathBuf>,
) -> Result<Option<TlsFiles>, Failure> {
    match (certificates, key) {
        (Some(certificates), Some(key)) => Ok(Some(TlsFiles { certificates, key, client_authorities })),
        (None, None) if client_authorities.is_none() => Ok(None),
        _ => Err(Failure::usage(format!(
            "TLS on the {listener} listener takes both {listener}_tls_certificate and {listener}_tls_key"
        ))),
    }
}

fn check_public_url(url: &Url) -> Result<(), Failure> {
    let sound = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if sound {
        Ok(())
    } else {
        Err(Failure::usage(
            "public_url must be https://HOST or http://HOST, with a path if need be, and nothing else",
        ))
    }
}

/// A duration in whole seconds and within bounds.
fn duration(
    name: &str,
    given: SignedDuration,
    least_seconds: u64,
    most: Duration,
) -> Result<Duration, Failure> {
    let most_says =
        if most == Duration::MAX { String::new() } else { format!(" and at most {} s", most.as_secs()) };
    let wrong =
        || Failure::usage(format!("{name} must be whole seconds, at least {least_seconds} s{most_says}"));
    let duration = Duration::try_from(given).map_err(|_| wrong())?;
    if duration.subsec_nanos() != 0 || duration.as_secs() < least_seconds || duration > most {
        return Err(wrong());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests;
