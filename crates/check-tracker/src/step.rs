//! The steps of a check: what the worker brings, and what the issuer answers.

use std::fmt;

/// How the issuer of the checks is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum IssuerScheme {
    /// By plain HTTP, on this machine or in a private network.
    Http,
    /// By HTTPS, with a certificate that nobody can trust.
    SelfSigned,
}

/// The worker comes to the tracker once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) credential: Credential,
    pub(crate) with: RequestExtra,
    /// What the issuer answers to the first POST, the second, and so on; to every later one as to the last.
    pub(crate) issuer: &'static [Reply],
}

/// What the worker comes with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Credential {
    /// A new token.
    Token,
    /// The token of the step before.
    SameToken,
    /// A text that is no token.
    Text(&'static str),
    /// A new token, with a request of this method that is not a login.
    Look(&'static str),
    /// Nothing: it wants to know whether there is a plugin.
    Nothing,
}

/// Additions to the worker's request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestExtra {
    /// Nothing.
    Nothing,
    /// A header.
    Header(&'static str, &'static str),
    /// The claim that tracker and issuer are somewhere else: at an address where the checks listen, too.
    Claim(ForgedOrigin),
    /// The cookies that the tracker set in the step before.
    CookiesOfBefore,
    /// The same cookies by name, but with [`CHOSEN`] for their values.
    ChosenCookies,
}

/// The place in a request where such a claim stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ForgedOrigin {
    /// A header with a host and a port.
    Host(&'static str),
    /// A header with a port.
    Port(&'static str),
    /// A header with a URL.
    Url(&'static str),
    /// The header `Forwarded` (RFC 7239).
    Forwarded,
    /// Cookies by every name that a program may look for.
    Cookies,
    /// Parameters of the query, by the same names.
    Query,
}

/// Names of cookies and of parameters by which a careless program lets the caller say where the issuer is ...
pub(crate) const ISSUER_NAMES: &[&str] = &[
    "auth_server",
    "launchpad_auth_server",
    "issuer",
    "handshake",
    "handshake_url",
    "token_server",
    "server",
    "callback",
];

/// ... and where the tracker is.
pub(crate) const TRACKER_NAMES: &[&str] =
    &["audience", "launchpad_audience", "base_url", "urlbase", "bugtracker_url", "url", "host"];

impl fmt::Display for ForgedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) | Self::Port(name) | Self::Url(name) => write!(f, "the header {name}"),
            Self::Forwarded => f.write_str("the header forwarded"),
            Self::Cookies => f.write_str("a cookie"),
            Self::Query => f.write_str("the query of the request"),
        }
    }
}

/// The value of a session that the worker would like to have.
pub(crate) const CHOSEN: &str = "0123456789abcdef0123456789abcdef";

/// What the issuer does when it is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    /// It answers with this HTTP status.
    Status(u16),
    /// It answers with this HTTP status, and names another place where it would say yes.
    Redirect(u16),
    /// It closes the connection without a word.
    Cut,
    /// It says nothing, and holds the connection.
    Silent,
    /// It says yes, with a body of [`crate::issuer::LONG_BODY`] bytes.
    LongBody,
    /// It says yes, but from this part of the answer on a byte at a time, and to no end.
    Drip(Part),
    /// It says `100 Continue`, again and again.
    Continue,
    /// It sends this text and closes the connection.
    Raw(&'static str),
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    StatusLine,
    Headers,
    Body,
}

/// Only HTTP 200 means success.
pub(crate) const YES: Reply = Reply::Status(200);

impl Step {
    /// A login with a new token.
    pub(crate) const fn login(issuer: &'static [Reply]) -> Self {
        Self { credential: Credential::Token, with: RequestExtra::Nothing, issuer }
    }

    /// A text that is no token, which the issuer would not like either.
    pub(crate) const fn text(text: &'static str) -> Self {
        Self {
            credential: Credential::Text(text),
            with: RequestExtra::Nothing,
            issuer: &[Reply::Status(404)],
        }
    }

    pub(crate) const fn bringing(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    pub(crate) const fn with(mut self, with: RequestExtra) -> Self {
        self.with = with;
        self
    }
}

/// What is used of the API.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ApiStep {
    Find,
    CallWithoutSession,
    CallWithOldSession,
    ReadWithoutSession,
    LogIn,
    Time,
    Bug,
    Status,
    MissingBug,
    Comments,
    AddComment,
    Changes,
    Link,
}
