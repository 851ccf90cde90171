//! What an operator sets: one TOML file.
//!
//! An error names the setting and what it takes, and never the value that was found: a URL can hold a password.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use countersign_audience::Audience;
use countersign_server::{Address, NotAnAddress, OWNER_ONLY};
use countersign_tls::small_file;
use countersign_verifier::{DEFAULT_TIMEOUT, MAX_TIMEOUT};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::Deserialize;
use url::Url;

use crate::request_path::RequestPath;
use crate::routes::OWN_PATHS;
use crate::rules::Rule;

/// Where the gate listens if nothing is set.
const DEFAULT_LISTEN: Address = Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8090));

/// How long a session lasts if nothing is set: a working day.
const DEFAULT_LIFETIME: SignedDuration = SignedDuration::from_hours(8);

/// The longest time that a session may be given.
const MAX_LIFETIME: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many sessions of an issuer go on at a time if nothing is set.
const DEFAULT_SESSIONS: u32 = 100;

/// The most that can be set.
const MAX_SESSIONS: u32 = 100_000;

/// How many logins an address may try in a minute if nothing is set.
const DEFAULT_LOGINS_PER_MINUTE: u32 = 60;

/// The longest name of an issuer or a user.
const MAX_NAME_BYTES: usize = 256;

/// Headers that mean something else to a proxy or a tracker.
const OTHER_HEADERS: [&str; 10] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "location",
    "set-cookie",
    "transfer-encoding",
    "www-authenticate",
];

/// The settings of a gate.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the proxy reaches the gate; port 0 takes any free one.
    pub listen: Address,
    /// The mode of the Unix socket, if `listen` is one that the gate makes: who may connect to it is taken for the proxy.
    pub socket_mode: u32,
    /// The tracker's base URL, as its users see it: the audience that is stated to the issuers.
    pub base_url: Url,
    /// Where the sessions and the secret are.
    pub data_dir: PathBuf,
    /// The proxy in front of the tracker.
    pub proxy: ReverseProxy,
    /// Which addresses the proxy may have. Only they are told who is logged in.
    pub trusted_proxies: Vec<IpNet>,
    /// The header of the answer that carries the user's name.
    pub user_header: HeaderName,
    /// Whether requests without a session pass, without a user's name. They are rejected otherwise.
    pub anonymous: bool,
    /// How many logins an address may try in a minute; 0 for any number.
    pub logins_per_minute: u32,
    /// Who may log in.
    pub issuers: Vec<IssuerConfig>,
}

/// An issuer, and what its sessions may do.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Its name in lists, metrics and the log.
    pub name: String,
    /// Its base URL, or the URL of its handshake with `%s` for the token.
    pub url: String,
    /// The tracker's user that it is logged in as.
    pub user: HeaderValue,
    /// The path below the base URL at which its tokens arrive, such as `/launchpad-auth`.
    pub login_path: String,
    /// How long a session lasts.
    pub session_lifetime: SignedDuration,
    /// How many sessions go on at a time. One more ends the oldest.
    pub max_sessions: u32,
    /// How long the issuer may take for an answer.
    pub timeout: Duration,
    /// Certificate authorities (PEM) to trust in place of the machine's.
    pub certificate_authorities: Option<PathBuf>,
    /// An HTTP proxy on the way to the issuer.
    pub http_proxy: Option<String>,
    /// Whether it may be asked over `http` on another machine.
    pub allow_insecure_http: bool,
    /// Which requests its sessions may send.
    pub allow: Vec<Rule>,
}

/// A kind of reverse proxy, by where it states the request that it asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReverseProxy {
    /// `X-Original-URI` and `X-Original-Method`, as the sample for nginx sets them.
    Nginx,
    /// `X-Forwarded-Uri` and `X-Forwarded-Method`, which `forward_auth` sets.
    Caddy,
    /// The same, which `ForwardAuth` sets.
    Traefik,
    /// The question itself, with which `ext_authz` repeats the request's method, and its target below a prefix.
    Envoy,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Unreadable(String),
    /// It is not TOML, or has a setting that does not exist, twice, or of another type.
    #[error("line {line}, column {column}: {what}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// A setting has a value that it does not take.
    #[error("`{setting}`: {what}")]
    Value {
        /// Which one.
        setting: String,
        /// What it takes.
        what: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    listen: Option<String>,
    socket_mode: Option<String>,
    base_url: String,
    data_dir: PathBuf,
    proxy: String,
    trusted_proxies: Option<Vec<String>>,
    user_header: Option<String>,
    #[serde(default)]
    anonymous: bool,
    logins_per_minute: Option<u32>,
    #[serde(default)]
    issuer: Vec<IssuerTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerTable {
    name: String,
    url: String,
    user: String,
    login_path: Option<String>,
    session_lifetime: Option<String>,
    max_sessions: Option<u32>,
    timeout: Option<String>,
    certificate_authorities: Option<PathBuf>,
    http_proxy: Option<String>,
    #[serde(default)]
    allow_insecure_http: bool,
    #[serde(default)]
    allow: Vec<Rule>,
}

impl Config {
    /// Reads the file. Paths in it are relative to the working directory.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = small_file::read_text(path, small_file::MAX_SETTINGS_BYTES);
        let text = text.map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        Self::parse(&text)
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| toml_error(text, &error))?;
        let base_url = base_url(&file.base_url)?;
        let user_header = file.user_header.as_deref().unwrap_or("X-Remote-User");
        let issuers: Vec<IssuerConfig> =
            file.issuer.into_iter().map(IssuerTable::check).collect::<Result<_, _>>()?;
        check_issuers(&issuers)?;
        Ok(Self {
            listen: match file.listen {
                None => DEFAULT_LISTEN,
                Some(text) => {
                    text.parse().map_err(|error: NotAnAddress| value("listen", error.to_string()))?
                }
            },
            socket_mode: file.socket_mode.as_deref().map_or(Ok(OWNER_ONLY), socket_mode)?,
            base_url,
            data_dir: file.data_dir,
            proxy: match &*file.proxy {
                "nginx" => ReverseProxy::Nginx,
                "caddy" => ReverseProxy::Caddy,
                "traefik" => ReverseProxy::Traefik,
                "envoy" => ReverseProxy::Envoy,
                _ => return Err(value("proxy", "give nginx, caddy, traefik or envoy")),
            },
            trusted_proxies: match file.trusted_proxies {
                None => vec![
                    IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                    IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
                ],
                Some(texts) => networks(&texts)?,
            },
            user_header: header(user_header)?,
            anonymous: file.anonymous,
            logins_per_minute: file.logins_per_minute.unwrap_or(DEFAULT_LOGINS_PER_MINUTE),
            issuers,
        })
    }

    /// The path of the base URL, without a slash at its end.
    pub(crate) fn base_path(&self) -> &str {
        self.base_url.path().trim_end_matches('/')
    }
}

/// Not for everybody: every client of the socket is taken for the proxy.
fn socket_mode(text: &str) -> Result<u32, ConfigError> {
    match text {
        "600" => Ok(OWNER_ONLY),
        "660" => Ok(0o660),
        _ => Err(value("socket_mode", "give \"600\" or \"660\"; whoever can connect is taken for the proxy")),
    }
}

impl IssuerTable {
    fn check(self) -> Result<IssuerConfig, ConfigError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || !self.name.bytes().all(is_name) {
            return Err(value("issuer.name", "give a name of letters, digits, `-`, `_` and `.`"));
        }
        let setting = |key: &str| format!("issuer {}, {key}", self.name);
        let duration = |key: &str, text: Option<&str>, default: SignedDuration, most: SignedDuration| {
            let Some(text) = text else { return Ok(default) };
            let read = text.parse().ok();
            read.filter(|read| (SignedDuration::from_secs(1)..=most).contains(read)).ok_or_else(|| {
                value(
                    &setting(key),
                    format!("give a time of at least 1s and at most {most:#}, such as 8h or 10s"),
                )
            })
        };
        let by_verifier = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let timeout = duration(
            "timeout",
            self.timeout.as_deref(),
            by_verifier(DEFAULT_TIMEOUT),
            by_verifier(MAX_TIMEOUT),
        )?;
        let session_lifetime =
            duration("session_lifetime", self.session_lifetime.as_deref(), DEFAULT_LIFETIME, MAX_LIFETIME)?;
        let user = user(&self.user).ok_or_else(|| {
            value(
                &setting("user"),
                format!(
                    "give the name of a user of the tracker, at most {MAX_NAME_BYTES} ASCII characters, without spaces at \
                     its ends"
                ),
            )
        })?;
        let login_path = self.login_path.as_deref().unwrap_or("/launchpad-auth");
        let login_path = login_path_of(login_path).ok_or_else(|| {
            value(
                &setting("login_path"),
                "give a path below the base URL, such as /launchpad-auth, of letters, digits, `-`, `_` and `.`",
            )
        })?;
        let max_sessions = self.max_sessions.unwrap_or(DEFAULT_SESSIONS);
        if !(1..=MAX_SESSIONS).contains(&max_sessions) {
            return Err(value(&setting("max_sessions"), format!("give a number from 1 to {MAX_SESSIONS}")));
        }
        if self.allow.is_empty() || self.allow.iter().any(Rule::is_empty) {
            return Err(value(
                &setting("allow"),
                "say which requests its sessions may send; what no rule allows is forbidden. All of them: \
                 allow = [{ methods = [\"GET\", \"POST\"], paths = [\"/**\"] }]",
            ));
        }
        Ok(IssuerConfig {
            user,
            login_path,
            session_lifetime,
            max_sessions,
            timeout: Duration::try_from(timeout).unwrap_or(DEFAULT_TIMEOUT),
            name: self.name,
            url: self.url,
            certificate_authorities: self.certificate_authorities,
            http_proxy: self.http_proxy,
            allow_insecure_http: self.allow_insecure_http,
            allow: self.allow,
        })
    }
}

fn value(setting: &str, what: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting: setting.to_owned(), what: what.into() }
}

/// The tracker's base URL. Its path is compared with paths of requests, so it must have one reading, too.
fn base_url(text: &str) -> Result<Url, ConfigError> {
    Audience::parse(text).map_err(|error| value("base_url", format!("it {error}")))?;
    let url = Url::parse(text.trim()).map_err(|_| value("base_url", "it is not a URL"))?;
    RequestPath::parse(url.path())
        .map_err(|error| value("base_url", format!("its path cannot be used: {error}")))?;
    Ok(url)
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let network =
        |text: &String| text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)));
    let read: Option<Vec<IpNet>> = texts.iter().map(network).collect();
    read.ok_or_else(|| value("trusted_proxies", "give addresses or networks, such as 10.0.0.0/8"))
}

fn header(text: &str) -> Result<HeaderName, ConfigError> {
    let text = text.to_ascii_lowercase();
    // Not `_`: many servers take it for `-`, and a sample could not remove all spellings.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let name = HeaderName::try_from(&*text).ok().filter(|name| name.as_str().bytes().all(is_plain));
    name.filter(|name| !OTHER_HEADERS.contains(&name.as_str())).ok_or_else(|| {
        value(
            "user_header",
            "give the name of a header of its own, of letters, digits and `-`, such as X-Remote-User",
        )
    })
}

fn user(text: &str) -> Option<HeaderValue> {
    let is_visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let fits = !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text.trim() == text
        && text.bytes().all(is_visible);
    HeaderValue::from_str(text).ok().filter(|_| fits)
}

fn login_path_of(text: &str) -> Option<String> {
    let path = RequestPath::parse(text).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let fits = text.bytes().all(is_plain) && path.segments().iter().all(|segment| !segment.is_empty());
    fits.then(|| text.to_owned())
}

/// A token must reach one issuer and no other.
fn check_issuers(issuers: &[IssuerConfig]) -> Result<(), ConfigError> {
    if issuers.is_empty() {
        return Err(value("issuer", "add a table [[issuer]]; nobody can log in without one"));
    }
    for (place, issuer) in issuers.iter().enumerate() {
        let setting = format!("issuer {}, login_path", issuer.name);
        if OWN_PATHS.iter().any(|own| is_same_or_below(&issuer.login_path, own)) {
            return Err(value(&setting, format!("the gate itself uses {}", OWN_PATHS.join(", "))));
        }
        for other in issuers.iter().skip(place + 1) {
            if other.name == issuer.name {
                return Err(value("issuer.name", format!("two issuers are called {}", issuer.name)));
            }
            if is_same_or_below(&other.login_path, &issuer.login_path)
                || is_same_or_below(&issuer.login_path, &other.login_path)
            {
                return Err(value(
                    &setting,
                    format!(
                        "give this issuer and {} paths of their own, neither below the other: a token must not reach an \
                         issuer that it is not of",
                        other.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn is_same_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is wrong with the text. Values are left out.
fn toml_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    // These texts are about names; others quote what was found.
    let names_only =
        ["unknown field", "missing field", "duplicate key", "a path must", "`**` must", "a method must"];
    let what = if names_only.iter().any(|start| error.message().starts_with(start)) {
        error.message().to_owned()
    } else {
        "this is not TOML, or a value of another kind than this setting takes; see the sample, gate.toml"
            .to_owned()
    };
    ConfigError::Toml { line, column, what }
}

#[cfg(test)]
mod tests;
