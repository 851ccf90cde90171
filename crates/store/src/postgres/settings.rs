//! How to reach the database: what its URL says, and what is said beside it.

use std::fmt;
#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, percent_encode};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::OpenError;

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
    config: Config,
    mode: TlsMode,
    ca_file: Option<PathBuf>,
}

/// How far the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Not at all.
    Disable,
    /// Encrypted if the server can. Whose server it is, nobody checks.
    Prefer,
    /// Encrypted, and the server shows a certificate for its name from an authority that is trusted.
    Verify,
}

impl PostgresUrl {
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn mode(&self) -> TlsMode {
        self.mode
    }

    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    /// Which database, whoever asks for it: its hosts, their ports, and its name.
    pub(super) fn database(&self) -> String {
        let ports = self.config.get_ports();
        let hostaddrs = self.config.get_hostaddrs();
        let hosts = self.config.get_hosts();
        let places = (0..hosts.len().max(hostaddrs.len())).map(|n| {
            let host = match (hosts.get(n), hostaddrs.get(n)) {
                (Some(Host::Tcp(name)), _) if name.contains(':') => format!("[{name}]"),
                (Some(Host::Tcp(name)), _) => name.clone(),
                #[cfg(unix)]
                (Some(Host::Unix(path)), _) => path.display().to_string(),
                (None, Some(address)) => address.to_string(),
                (None, None) => String::new(),
            };
            format!("{host}:{}", ports.get(n).or(ports.first()).unwrap_or(&5432))
        });
        let places = places.collect::<Vec<_>>().join(",");
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{places}/{database}")
    }

    /// Whether all its hosts are this machine.
    fn is_local(config: &Config) -> bool {
        config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            #[cfg(unix)]
            Host::Unix(_) => true,
        }) && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
    }
}

impl FromStr for PostgresUrl {
    type Err = OpenError;

    /// Reads the URL as `libpq` does, but for `sslmode`: `require` and `verify-ca` check as much as `verify-full`, and
    /// that is the default too, unless the server is on this machine.
    fn from_str(url: &str) -> Result<Self, OpenError> {
        let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
        // An `@` more is the end of a password, which would be taken for a host, and shown.
        if place.matches('@').count() > 1 || parameters.contains('@') {
            return Err(OpenError::UnescapedUrl);
        }
        let (mut mode, mut ca_file, mut kept) = (None, None, Vec::new());
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match name {
                "sslmode" => {
                    mode = Some(match &*value {
                        "disable" => TlsMode::Disable,
                        "prefer" => TlsMode::Prefer,
                        "require" | "verify-ca" | "verify-full" => TlsMode::Verify,
                        _ => return Err(OpenError::SslMode),
                    });
                }
                "sslrootcert" if value == "system" => {}
                "sslrootcert" => ca_file = Some(PathBuf::from(value.into_owned())),
                _ => kept.push(parameter),
            }
        }
        let rest = if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) };
        let mut config: Config =
            rest.parse().map_err(|error: tokio_postgres::Error| OpenError::PostgresUrl(reason(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(OpenError::PostgresUrl("it names no host".to_owned()));
        }
        let local = Self::is_local(&config);
        let mode = mode.unwrap_or(if local { TlsMode::Prefer } else { TlsMode::Verify });
        config.ssl_mode(match mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Verify => SslMode::Require,
        });
        Ok(Self { config, mode, ca_file })
    }
}

/// The options of libpq that this program does not know.
const OPTIONS_OF_LIBPQ: [&str; 19] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "require_auth",
    "requirepeer",
    "replication",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslkey",
    "sslsni",
];

/// What is wrong with a URL. It names an option only if libpq knows it: what stands in the place of an option can be the
/// rest of a password with a `?` in it.
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
    /// As a URL again, so each part is escaped: a host with a `/` in it stays a host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{}@", escaped(user))?;
        }
        let ports = self.config.get_ports();
        let hostaddrs = self.config.get_hostaddrs();
        for n in 0..self.config.get_hosts().len().max(hostaddrs.len()) {
            if n > 0 {
                f.write_str(",")?;
            }
            match (self.config.get_hosts().get(n), hostaddrs.get(n)) {
                (Some(Host::Tcp(name)), _) if name.contains(':') => {
                    write!(f, "[{}]", percent_encode(name.as_bytes(), ESCAPED_IN_BRACKETS))?;
                }
                (Some(Host::Tcp(name)), _) => write!(f, "{}", escaped(name))?,
                #[cfg(unix)]
                (Some(Host::Unix(path)), _) => {
                    write!(f, "{}", percent_encode(path.as_os_str().as_bytes(), ESCAPED))?;
                }
                (None, Some(address)) if address.is_ipv6() => write!(f, "[{address}]")?,
                (None, Some(address)) => write!(f, "{address}")?,
                (None, None) => {}
            }
            // One port for all hosts, or one for each.
            if let Some(port) = ports.get(n).or(ports.first()) {
                write!(f, ":{port}")?;
            }
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
