//! The connection settings: those in the URL, and those beside it.

use std::fmt;
use std::net::IpAddr;
#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, percent_encode};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host as Name, SslMode};

use super::environment::LibpqEnvironment;
use super::hosts::Host;
use super::passwords::Passwords;
use crate::error::OpenError;

/// The schema in which the tables are, unless another is named.
pub const DEFAULT_SCHEMA: &str = "countersign";

/// What a `postgres:` store needs to know besides its URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresOptions {
    /// A file whose first line is the password. It is read for each connection, so that it can be changed.
    pub password_file: Option<PathBuf>,
    /// The schema in which the tables are.
    pub schema: SchemaName,
    /// The authorities (PEM) that the server's certificate may come from, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether a new store's fence stands where the database's clock says, as it does outside of unit tests.
    #[cfg(test)]
    pub(super) made_by_the_database: bool,
}

/// The name of a schema: a lower-case letter or `_`, then those and digits, at most 63 in all, and not beginning with
/// `pg_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

impl SchemaName {
    /// The name as it is.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name as it stands in a statement.
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self(DEFAULT_SCHEMA.to_owned())
    }
}

impl FromStr for SchemaName {
    type Err = OpenError;

    fn from_str(name: &str) -> Result<Self, OpenError> {
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let sound = name.len() <= 63
            && name.chars().next().is_some_and(first)
            && name.chars().all(|c| first(c) || c.is_ascii_digit())
            && !name.starts_with("pg_");
        if sound { Ok(Self(name.to_owned())) } else { Err(OpenError::SchemaName) }
    }
}

/// A `postgres:` URL. It may hold a password, so its `Debug` and its `Display` leave out everything but the user, the
/// hosts and the database.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// Without hosts, and without a password.
    config: Config,
    hosts: Vec<Host>,
    passwords: Passwords,
    mode: TlsMode,
    ca_file: Option<PathBuf>,
    wants: TargetSession,
    connect_timeout: Option<Duration>,
    is_random: bool,
}

/// How far the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Not at all.
    Disable,
    /// Encrypted if the server supports it. The server's identity is not checked.
    Prefer,
    /// Encrypted, and the server shows a certificate for its name from an authority that is trusted.
    Verify,
}

/// Which server will do (`target_session_attrs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetSession {
    /// Any that takes connections.
    Any,
    /// One whose transactions can write.
    ReadWrite,
    /// One that is no standby.
    Primary,
}

/// After so long without a sign of life the system asks the other side whether it is there, and again as often, up to
/// [`GONE`].
const KEEPALIVE: Duration = Duration::from_secs(5);

/// After so long without an answer to what was sent the other side is gone, and so is what it had under way.
const GONE: Duration = Duration::from_secs(10);

/// How long making a connection may take, unless `connect_timeout` says so.
pub const CONNECT: Duration = Duration::from_secs(5);

/// The same for each host, if there are several: none of them may hide the next one for long.
pub const CONNECT_TO_ONE: Duration = Duration::from_secs(3);

impl PostgresUrl {
    /// Reads a URL as `libpq` does, together with its variables, but for `sslmode`: `require` and `verify-ca` check as much
    /// as `verify-full`, and that is the default too, unless the server is on this machine.
    pub fn read(url: &str, environment: &LibpqEnvironment) -> Result<Self, OpenError> {
        let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
        // An `@` more is the end of a password, which would be taken for a host, and shown.
        if place.matches('@').count() > 1 || parameters.contains('@') {
            return Err(OpenError::UnescapedUrl);
        }
        let mut options = Options::default();
        let (mut named, mut kept) = (Vec::new(), Vec::new());
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            named.push(name);
            if !options.take(name, &value, &format!("{name} in the store's URL"))? {
                kept.push(parameter);
            }
        }
        let rest = if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) };
        let read: Config =
            rest.parse().map_err(|error: tokio_postgres::Error| OpenError::PostgresUrl(reason(&error)))?;
        for (variable, option, value) in environment.options() {
            if !named.contains(&option) {
                options.take(option, &value.to_string_lossy(), &format!("the variable {variable}"))?;
            }
        }
        let hosts = hosts(&read)?;
        let is_local = hosts.iter().all(is_local);
        let mode = options.mode.unwrap_or(if is_local { TlsMode::Prefer } else { TlsMode::Verify });
        // A store is written to, so among several hosts it is the one that takes writes that is meant.
        let wants = if hosts.len() > 1 { TargetSession::ReadWrite } else { TargetSession::Any };
        Ok(Self {
            config: options.config(&read, mode),
            hosts,
            passwords: Passwords {
                file: None,
                in_url: read.get_password().filter(|password| !password.is_empty()).map(ToOwned::to_owned),
                variable: environment.password().cloned(),
                passfile: options.passfile.or_else(|| environment.usual_password_file()),
            },
            mode,
            ca_file: options.ca_file,
            wants: options.wants.unwrap_or(wants),
            connect_timeout: options.connect_timeout,
            is_random: options.is_random.unwrap_or(false),
        })
    }

    /// What a connection to each of its hosts has in common.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Where a password may be, unless it is in `file`.
    pub(super) fn passwords(&self, file: Option<PathBuf>) -> Passwords {
        Passwords { file, ..self.passwords.clone() }
    }

    /// The password file of libpq, if it is passed over as it is now, and why.
    pub fn passed_over_password_file(&self, options: &PostgresOptions) -> Option<(PathBuf, String)> {
        let passwords = self.passwords(options.password_file.clone());
        passwords.passed_over().map(|(path, reason)| (path.to_owned(), reason))
    }

    pub(super) fn mode(&self) -> TlsMode {
        self.mode
    }

    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    pub(super) fn wants(&self) -> TargetSession {
        self.wants
    }

    /// How long each server has to take a connection and to answer on it.
    pub(super) fn connect_timeout(&self) -> Duration {
        let default = if self.hosts.len() > 1 { CONNECT_TO_ONE } else { CONNECT };
        self.connect_timeout.unwrap_or(default)
    }

    /// Whether the hosts are tried in a random order.
    pub(super) fn is_random(&self) -> bool {
        self.is_random
    }

    /// Which database, the same for every user: its hosts, their ports, and its name.
    pub(super) fn database(&self) -> String {
        let places = self.hosts.iter().map(|Host { name, address, port }| {
            let host = match (name, address) {
                (Some(Name::Tcp(name)), _) if name.contains(':') => format!("[{name}]"),
                (Some(Name::Tcp(name)), _) => name.clone(),
                #[cfg(unix)]
                (Some(Name::Unix(path)), _) => path.display().to_string(),
                (None, Some(address)) => address.to_string(),
                (None, None) => String::new(),
            };
            format!("{host}:{port}")
        });
        let places = places.collect::<Vec<_>>().join(",");
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{places}/{database}")
    }

    /// The URL with this host alone, without its password.
    pub(super) fn with_host(&self, host: &Host) -> String {
        RedactedUrl { config: &self.config, hosts: std::slice::from_ref(host) }.to_string()
    }
}

impl FromStr for PostgresUrl {
    type Err = OpenError;

    /// The same without any variables.
    fn from_str(url: &str) -> Result<Self, OpenError> {
        Self::read(url, &LibpqEnvironment::default())
    }
}

/// The hosts of a URL, each with its port.
fn hosts(config: &Config) -> Result<Vec<Host>, OpenError> {
    let wrong = |reason: &str| Err(OpenError::PostgresUrl(reason.to_owned()));
    let (names, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addresses.len());
    if count == 0 {
        return wrong("it names no host");
    }
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return wrong("it has not as many values of hostaddr as hosts");
    }
    if ports.len() > 1 && ports.len() != count {
        return wrong("it has not as many ports as hosts");
    }
    let hosts = (0..count).map(|n| Host {
        name: names.get(n).cloned(),
        address: addresses.get(n).copied(),
        // One port for all hosts, or one for each.
        port: ports.get(n).or(ports.first()).copied().unwrap_or(5432),
    });
    Ok(hosts.collect())
}

/// Whether a host is this machine, as libpq names hosts: by a name, an address or a socket, and not by a URL.
fn is_local(host: &Host) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let is_local_name = host.name.as_ref().is_none_or(|name| match name {
        Name::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(is_loopback),
        #[cfg(unix)]
        Name::Unix(_) => true,
    });
    is_local_name && host.address.is_none_or(is_loopback)
}

/// The options that this program reads by itself; the driver reads the others.
#[derive(Default)]
struct Options {
    mode: Option<TlsMode>,
    ca_file: Option<PathBuf>,
    passfile: Option<PathBuf>,
    wants: Option<TargetSession>,
    connect_timeout: Option<Duration>,
    is_random: Option<bool>,
    application_name: Option<String>,
    for_the_server: Option<String>,
    channel_binding: Option<ChannelBinding>,
    tcp_user_timeout: Option<Duration>,
    keepalives: Option<bool>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
}

impl Options {
    /// Takes an option that is one of these. `from` is what to call it in an error, which never shows the value: it can be
    /// the rest of a password.
    fn take(&mut self, name: &str, value: &str, from: &str) -> Result<bool, OpenError> {
        let must = |must| OpenError::PostgresOption { option: from.to_owned(), must };
        let seconds = || match value.parse::<i64>() {
            // As libpq has it: not said.
            Ok(seconds) => Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)),
            Err(_) => Err(must("be a number of seconds")),
        };
        match name {
            "sslmode" => {
                self.mode = Some(match value {
                    "disable" => TlsMode::Disable,
                    "prefer" => TlsMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => TlsMode::Verify,
                    _ => return Err(must("be disable, prefer, require, verify-ca or verify-full")),
                });
            }
            "sslrootcert" => self.ca_file = (value != "system").then(|| PathBuf::from(value)),
            "passfile" => self.passfile = Some(PathBuf::from(value)),
            "target_session_attrs" => {
                self.wants = Some(match value {
                    "any" => TargetSession::Any,
                    "read-write" => TargetSession::ReadWrite,
                    "primary" => TargetSession::Primary,
                    _ => return Err(must("be any, read-write or primary, because a store is written to")),
                });
            }
            // Less than two seconds libpq does not wait either.
            "connect_timeout" => {
                self.connect_timeout = seconds()?.map(|seconds| Duration::from_secs(seconds.max(2)));
            }
            "load_balance_hosts" => {
                self.is_random = Some(match value {
                    "disable" => false,
                    "random" => true,
                    _ => return Err(must("be disable or random")),
                });
            }
            "application_name" => self.application_name = Some(value.to_owned()),
            "options" => self.for_the_server = Some(value.to_owned()),
            "channel_binding" => {
                self.channel_binding = Some(match value {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(must("be disable, prefer or require")),
                });
            }
            // In milliseconds, unlike the others.
            "tcp_user_timeout" => {
                let milliseconds = value.parse::<u32>().map_err(|_| must("be a number of milliseconds"))?;
                self.tcp_user_timeout =
                    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
            }
            "keepalives" => {
                let number = value.parse::<u32>().map_err(|_| must("be 1 or 0"))?;
                self.keepalives = Some(number != 0);
            }
            "keepalives_idle" => self.idle = seconds()?.map(Duration::from_secs),
            "keepalives_interval" => self.interval = seconds()?.map(Duration::from_secs),
            "keepalives_count" | "keepalives_retries" => {
                let count = value.parse::<u32>().map_err(|_| must("be a number"))?;
                self.probes = (count > 0).then_some(count);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn config(&self, read: &Config, mode: TlsMode) -> Config {
        let mut config = Config::new();
        if let Some(user) = read.get_user() {
            config.user(user);
        }
        if let Some(database) = read.get_dbname() {
            config.dbname(database);
        }
        if let Some(options) = &self.for_the_server {
            config.options(options);
        }
        config
            .application_name(self.application_name.as_deref().unwrap_or("countersign"))
            .ssl_negotiation(read.get_ssl_negotiation())
            .ssl_mode(match mode {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Verify => SslMode::Require,
            })
            .channel_binding(self.channel_binding.unwrap_or(ChannelBinding::Prefer))
            .tcp_user_timeout(self.tcp_user_timeout.unwrap_or(GONE))
            .keepalives(self.keepalives.unwrap_or(true))
            .keepalives_idle(self.idle.unwrap_or(KEEPALIVE))
            .keepalives_interval(self.interval.unwrap_or(KEEPALIVE))
            .keepalives_retries(self.probes.unwrap_or(2));
        config
    }
}

/// The options of libpq that this program does not know.
const OPTIONS_OF_LIBPQ: [&str; 20] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "require_auth",
    "requirepeer",
    "replication",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslsni",
];

/// The fault of a URL. It names an option only if libpq knows it: an unknown one can be the rest of a password with a `?` in it.
fn reason(error: &tokio_postgres::Error) -> String {
    let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    match reason.strip_prefix("unknown option `").and_then(|rest| rest.strip_suffix('`')) {
        Some(option) if OPTIONS_OF_LIBPQ.contains(&option) => {
            format!("`{option}` is an option of libpq that this program does not have; leave it out")
        }
        Some(_) => "it has an option that there is not".to_owned(),
        None => reason,
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RedactedUrl { config: &self.config, hosts: &self.hosts }.fmt(f)
    }
}

/// Some hosts of a URL as a URL again, so each part is escaped: a host with a `/` in it stays a host.
struct RedactedUrl<'a> {
    config: &'a Config,
    hosts: &'a [Host],
}

impl fmt::Display for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{}@", escaped(user))?;
        }
        for (n, Host { name, address, port }) in self.hosts.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            match (name, address) {
                (Some(Name::Tcp(name)), _) if name.contains(':') => {
                    write!(f, "[{}]", percent_encode(name.as_bytes(), ESCAPED_IN_BRACKETS))?;
                }
                (Some(Name::Tcp(name)), _) => write!(f, "{}", escaped(name))?,
                #[cfg(unix)]
                (Some(Name::Unix(path)), _) => {
                    write!(f, "{}", percent_encode(path.as_os_str().as_bytes(), ESCAPED))?;
                }
                (None, Some(address)) if address.is_ipv6() => write!(f, "[{address}]")?,
                (None, Some(address)) => write!(f, "{address}")?,
                (None, None) => {}
            }
            write!(f, ":{port}")?;
        }
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(f, "/{}", escaped(database))
    }
}

/// All but what stands for itself in every part of a URL (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const ESCAPED_IN_BRACKETS: &AsciiSet = &ESCAPED.remove(b':');

fn escaped(part: &str) -> PercentEncode<'_> {
    percent_encode(part.as_bytes(), ESCAPED)
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}
