//! The settings of a server: from flags, then from variables, then from the file, then from the defaults.
//!
//! [`Settings`] is the one list of settings. Its fields are flags and variables (by clap) and keys of the file (by
//! serde); [`Resolved`] has the defaults filled in and everything checked.

mod file;
mod reported;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use countersign_core::{MAX_LIFETIME, Policy};
use countersign_server::{
    Address, Collector, EventPolicy, ForwardedHeader, ListenerConfig, PassedOver, Setting, Source,
    SpentStatus, TlsFiles, TrustedProxies, absolute,
};
use countersign_store::place::{StorePlace, StoreUrl};
use countersign_store::postgres::{LibpqEnvironment, PostgresOptions, SchemaName};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::output::Failure;

pub(crate) use self::reported::{giver, resolve as resolve_said};

pub(crate) const SERVE_HELP: &str = "\
Every flag is also a variable, and a key of the configuration file: --public-listen is \
COUNTERSIGN_PUBLIC_LISTEN and public_listen. A flag overrides a variable, and a variable overrides the file.

When the server is ready it prints two lines, `public URL` and `private URL`, such as \
`public http://127.0.0.1:8080`. Logs go to standard error; RUST_LOG=debug logs more.

SIGTERM or Ctrl-C stops the server after the requests under way; a second Ctrl-C stops it at once, with exit code 130. \
On SIGHUP the server reads the key ring, the TLS files and the bearer file again, and logs the result.";

/// The longest time that events can be kept: ten years.
const MAX_EVENT_RETENTION: Duration = Duration::from_hours(10 * 365 * 24);

/// Configuration as it is given: settings, and the file with more of them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    /// The configuration file [default: /etc/countersign/countersign.toml, or else ./countersign.toml, if there is one]
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Which of the settings come from a flag or a variable.
    #[arg(skip)]
    pub(crate) sources: Sources,
}

/// Settings by name, and who said what they are.
pub(crate) type Sources = BTreeMap<String, Source>;

/// Every setting of a server; `None` where nothing was said.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The directory of the store and the key ring; created if missing [default: countersign-data]
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address of the public listener, for bug trackers: IP:PORT, unix:PATH, or systemd:NAME for a socket that
    /// the service manager passes on [default: 127.0.0.1:8080]
    #[arg(long, env = "COUNTERSIGN_PUBLIC_LISTEN", value_name = "ADDR")]
    pub(crate) public_listen: Option<Address>,
    /// The address of the private listener, for the issuer's own processes: IP:PORT, unix:PATH or systemd:NAME
    /// [default: 127.0.0.1:8087]
    #[arg(long, env = "COUNTERSIGN_PRIVATE_LISTEN", value_name = "ADDR")]
    pub(crate) private_listen: Option<Address>,
    /// The URL under which trackers reach the public listener; token URLs begin with it [default: where it listens]
    #[arg(long, env = "COUNTERSIGN_PUBLIC_URL", value_name = "URL", value_parser = parse_url)]
    #[serde(default, deserialize_with = "read_url")]
    pub(crate) public_url: Option<Url>,
    /// The store of used tokens: sqlite: in the data directory, sqlite:PATH, a postgres: URL for several servers, or
    /// memory:, which is lost when the server stops [default: sqlite:]
    #[arg(long, env = "COUNTERSIGN_STORE", value_name = "URL")]
    pub(crate) store: Option<String>,
    /// A file with the password for a PostgreSQL store, read again for each connection [default: the URL's, or
    /// libpq's: PGPASSWORD, PGPASSFILE, ~/.pgpass]
    #[arg(long, env = "COUNTERSIGN_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) store_password_file: Option<PathBuf>,
    /// The schema in which a PostgreSQL store keeps its tables [default: countersign]
    #[arg(long, env = "COUNTERSIGN_STORE_SCHEMA", value_name = "NAME")]
    pub(crate) store_schema: Option<String>,
    /// Certificate authorities (PEM) to trust for a PostgreSQL store [default: the system's]
    #[arg(long, env = "COUNTERSIGN_STORE_CA_FILE", value_name = "FILE")]
    pub(crate) store_ca_file: Option<PathBuf>,
    /// The file of the keys that seal tokens; created if missing [default: key-ring.toml in the data directory]
    #[arg(long, env = "COUNTERSIGN_KEY_RING", value_name = "FILE")]
    pub(crate) key_ring: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the public listener; read again when it changes
    #[arg(long, env = "COUNTERSIGN_PUBLIC_TLS_CERTIFICATE", value_name = "FILE")]
    pub(crate) public_tls_certificate: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, env = "COUNTERSIGN_PUBLIC_TLS_KEY", value_name = "FILE")]
    pub(crate) public_tls_key: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the private listener
    #[arg(long, env = "COUNTERSIGN_PRIVATE_TLS_CERTIFICATE", value_name = "FILE")]
    pub(crate) private_tls_certificate: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, env = "COUNTERSIGN_PRIVATE_TLS_KEY", value_name = "FILE")]
    pub(crate) private_tls_key: Option<PathBuf>,
    /// Certificate authorities (PEM) of the client certificates that callers of the private API must present
    #[arg(long, env = "COUNTERSIGN_PRIVATE_CLIENT_CA", value_name = "FILE")]
    pub(crate) private_client_ca: Option<PathBuf>,
    /// A file with the secret that callers of the private API must send; beyond this machine, this or client
    /// certificates are required
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    pub(crate) private_bearer_file: Option<PathBuf>,
    /// The issuer's name in the title of a token [default: Launchpad]
    #[arg(long, env = "COUNTERSIGN_ISSUER", value_name = "NAME")]
    pub(crate) issuer: Option<String>,
    /// How long a token lives, such as 90s or 5m; at most 24h [default: 5m]
    #[arg(long, env = "COUNTERSIGN_TOKEN_LIFETIME", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) token_lifetime: Option<SignedDuration>,
    /// How long the record of a used token is kept after the token's expiry; at least 2m [default: 24h]
    #[arg(long, env = "COUNTERSIGN_RETENTION", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) retention: Option<SignedDuration>,
    /// Issue only tokens that are bound to one bug tracker [default: false]
    #[arg(long, env = "COUNTERSIGN_REQUIRE_AUDIENCE", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) require_audience: Option<bool>,
    /// The status for a token that is used, expired or revoked: 401 as in the original protocol, or 410 [default: 401]
    #[arg(long, env = "COUNTERSIGN_SPENT_STATUS", value_name = "STATUS")]
    pub(crate) spent_status: Option<u16>,
    /// Refusals that one address may cause in a minute; the rest become 429; 0 means no limit [default: 1000]
    #[arg(long, env = "COUNTERSIGN_REFUSALS_PER_MINUTE", value_name = "NUMBER")]
    pub(crate) refusals_per_minute: Option<u32>,
    /// Reverse proxies that are trusted to name the client's address, such as 127.0.0.1 or 10.0.0.0/8 [default: none]
    #[arg(long, env = "COUNTERSIGN_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    pub(crate) trusted_proxies: Option<Vec<Network>>,
    /// The header in which they name it: x-forwarded-for or forwarded [default: x-forwarded-for]
    #[arg(long, env = "COUNTERSIGN_FORWARDED_HEADER", value_name = "HEADER", hide_possible_values = true)]
    pub(crate) forwarded_header: Option<HeaderName>,
    /// How long events are kept, such as 720h; 0s keeps none [default: 720h]
    #[arg(long, env = "COUNTERSIGN_EVENT_RETENTION", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) event_retention: Option<SignedDuration>,
    /// Keep an event for each token that is issued [default: false]
    #[arg(long, env = "COUNTERSIGN_RECORD_ISSUED", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) record_issued: Option<bool>,
    /// The https URL that receives an alarm when a token is replayed or relayed, or when somebody guesses secrets;
    /// signed as in Standard Webhooks [default: nowhere]
    #[arg(long, env = "COUNTERSIGN_ALARM_WEBHOOK", value_name = "URL", value_parser = parse_url)]
    #[serde(default, deserialize_with = "read_url")]
    pub(crate) alarm_webhook: Option<Url>,
    /// A file with the secret that alarms are signed with: whsec_ and Base64
    #[arg(long, env = "COUNTERSIGN_ALARM_SECRET_FILE", value_name = "FILE")]
    pub(crate) alarm_secret_file: Option<PathBuf>,
    /// The base URL of the OpenTelemetry collector that receives traces by OTLP over HTTP, usually on port 4318
    /// [default: nowhere]
    #[arg(long, env = "COUNTERSIGN_TRACES", value_name = "URL", value_parser = parse_url)]
    #[serde(default, deserialize_with = "read_url")]
    pub(crate) traces: Option<Url>,
    /// The share of requests to trace, from 0 to 1; a caller of the private API can decide with a traceparent
    /// [default: 1]
    #[arg(long, env = "COUNTERSIGN_TRACE_RATIO", value_name = "NUMBER")]
    pub(crate) trace_ratio: Option<f64>,
    /// The format of the log: human or json [default: human]
    #[arg(long, env = "COUNTERSIGN_LOG_FORMAT", value_name = "FORMAT", hide_possible_values = true)]
    pub(crate) log_format: Option<LogFormat>,
}

/// A network, or one address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for Network {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for IpNet {
    fn from(Network(network): Network) -> Self {
        network
    }
}

impl From<Network> for String {
    fn from(Network(network): Network) -> Self {
        network.to_string()
    }
}

/// Where a proxy says whom it forwards for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeaderName {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for a person.
    #[default]
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
        let file = match &config_file {
            Some(path) => file::read(path)?,
            None => Settings::default(),
        };
        let mut resolved = file.overlaid_with(&self.settings)?.resolve(&libpq_environment())?;
        for setting in &mut resolved.said {
            if let Some(source) = self.sources.get(&setting.name) {
                setting.source = *source;
            }
        }
        resolved.config_file = config_file.map(|path| absolute(&path));
        Ok(resolved)
    }
}

/// What could be meant for the store of these settings and changes nothing: variables of libpq, and its password file.
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

impl Settings {
    /// These settings, except where `over` says something.
    fn overlaid_with(&self, over: &Self) -> Result<Self, Failure> {
        let table = |settings| toml::Table::try_from(settings).map_err(Failure::usage);
        let mut merged = table(self)?;
        merged.extend(table(over)?);
        merged.try_into().map_err(Failure::usage)
    }

    fn resolve(self, libpq: &LibpqEnvironment) -> Result<Resolved, Failure> {
        let mut said = reported::settings(&self, libpq)?;
        let data_dir = self.data_dir.unwrap_or_else(|| PathBuf::from("countersign-data"));
        let key_ring = self.key_ring.unwrap_or_else(|| data_dir.join("key-ring.toml"));
        reported::name_places(&mut said, &[("data_dir", &data_dir), ("key_ring", &key_ring)]);
        let public = ListenerConfig {
            address: self.public_listen.unwrap_or_else(|| loopback(8080)),
            tls: tls_files("public", self.public_tls_certificate, self.public_tls_key, None)?,
        };
        let private = ListenerConfig {
            address: self.private_listen.unwrap_or_else(|| loopback(8087)),
            tls: tls_files(
                "private",
                self.private_tls_certificate,
                self.private_tls_key,
                self.private_client_ca,
            )?,
        };
        let default = Policy::default();
        let policy = Policy {
            lifetime: duration("token_lifetime", self.token_lifetime, default.lifetime, 1, MAX_LIFETIME)?,
            retention: duration("retention", self.retention, default.retention, 120, Duration::MAX)?,
            require_audience: self.require_audience.unwrap_or(default.require_audience),
        };
        let default = EventPolicy::default();
        let events = EventPolicy {
            retention: duration(
                "event_retention",
                self.event_retention,
                default.retention,
                0,
                MAX_EVENT_RETENTION,
            )?,
            record_issued: self.record_issued.unwrap_or(default.record_issued),
        };
        let alarms = match (self.alarm_webhook, self.alarm_secret_file) {
            (Some(webhook), Some(secret)) => Some((webhook, secret)),
            (None, None) => None,
            _ => return Err(Failure::usage("alarms take both alarm_webhook and alarm_secret_file")),
        };
        let traces = self.traces.as_ref().map(Collector::at).transpose().map_err(Failure::usage)?;
        let ratio = self.trace_ratio.unwrap_or(1.0);
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
        let issuer = self.issuer.unwrap_or_else(|| "Launchpad".to_owned());
        if issuer.trim().is_empty() || issuer.chars().any(char::is_control) {
            return Err(Failure::usage("issuer must be a name in one line, such as Launchpad"));
        }
        Ok(Resolved {
            public,
            private,
            proxies: TrustedProxies {
                networks: self.trusted_proxies.unwrap_or_default().into_iter().map(IpNet::from).collect(),
                header: match self.forwarded_header.unwrap_or_default() {
                    HeaderName::XForwardedFor => ForwardedHeader::XForwardedFor,
                    HeaderName::Forwarded => ForwardedHeader::Forwarded,
                },
            },
            public_url: self.public_url,
            store: StorePlace {
                url: StoreUrl::read(self.store.as_deref().unwrap_or("sqlite:"), libpq)
                    .map_err(Failure::usage)?,
                data_dir: data_dir.clone(),
                postgres: PostgresOptions {
                    password_file: self.store_password_file,
                    schema: match self.store_schema {
                        Some(name) => name.parse().map_err(Failure::usage)?,
                        None => SchemaName::default(),
                    },
                    ca_file: self.store_ca_file,
                },
            },
            key_ring,
            data_dir,
            private_bearer_file: self.private_bearer_file,
            issuer,
            policy,
            spent_status,
            refusals_per_minute: self.refusals_per_minute.unwrap_or(1000),
            events,
            alarms,
            traces: traces.map(|collector| (collector, ratio)),
            log_format: self.log_format.unwrap_or_default(),
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
    let settings = file::parse(text).map_err(|error| error.to_string())?;
    let resolved = settings
        .overlaid_with(&Settings::default())
        .and_then(|settings| settings.resolve(&LibpqEnvironment::default()));
    resolved.map(|resolved| resolved.policy).map_err(Failure::into_sentence)
}

/// Reads a duration of the command line.
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

/// Reads a URL of the command line.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    text.parse().map_err(|error| format!("not a URL ({error}); write one such as https://tokens.example.org"))
}

/// Reads a URL of the configuration file.
fn read_url<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    parse_url(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn spent_status(given: Option<u16>) -> Result<SpentStatus, Failure> {
    match given {
        None | Some(401) => Ok(SpentStatus::Unauthorized),
        Some(410) => Ok(SpentStatus::Gone),
        Some(other) => Err(Failure::usage(format!("spent_status must be 401 or 410, not {other}"))),
    }
}

fn loopback(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
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
    given: Option<SignedDuration>,
    default: Duration,
    least_seconds: u64,
    most: Duration,
) -> Result<Duration, Failure> {
    let Some(given) = given else { return Ok(default) };
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
