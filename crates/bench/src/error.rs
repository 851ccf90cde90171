//! Errors before the load ([`BenchError`]) and wrong answers under it ([`ResponseError`]).

use std::fmt;
use std::io;

use crate::connection::ANSWER_TIMEOUT;
use crate::workload::Step;

/// Why there is no report. Every text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// That is not a URL that can be loaded.
    #[error("{url} must be http://HOST:PORT, with a path if need be, and nothing else: {reason}")]
    Url {
        /// What was given, in quotes, or a word for it.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The load would go to another machine.
    #[error(
        "{url} is on another machine, which a benchmark loads only if that is said; add --allow-remote if the server is \
         yours"
    )]
    Remote {
        /// The URL.
        url: String,
    },
    /// The name has no address.
    #[error("cannot find the address of {url}: {reason}; check its name")]
    NoAddress {
        /// The URL.
        url: String,
        /// Why.
        reason: io::Error,
    },
    /// A number is out of range.
    #[error("{0}")]
    Range(String),
    /// The server says that trackers reach it where this cannot.
    #[error(
        "the server says that trackers reach it at {url}, and {reason}; say with --public where its public listener is"
    )]
    Discovered {
        /// What it says.
        url: String,
        /// Why that cannot be used.
        reason: String,
    },
    /// The server does not do what has to be done before the load.
    #[error("{0}")]
    Setup(#[from] PreflightError),
    /// The generator has no thread to run on.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl BenchError {
    /// Whether another command line would help, rather than another server.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Url { .. } | Self::Remote { .. } | Self::Range(_) | Self::Discovered { .. })
    }
}

/// A request that was not answered as it must be, before the load.
#[derive(Debug, thiserror::Error)]
#[error("{} at {server}: {wrong}{}", .step.name(), .wrong.detail_and_hint(*.step))]
pub struct PreflightError {
    pub(crate) step: Step,
    pub(crate) server: String,
    pub(crate) wrong: ResponseError,
}

/// How an answer is wrong. Its text is the kind, under which it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResponseError {
    /// A status that no right answer has, and the first line of the body.
    Status(u16, String),
    /// The call was understood and refused, with this sentence.
    Fault(String, String),
    /// The status is right, and the body is not, for this reason.
    Body(&'static str),
    /// What arrived is not HTTP/1, for this reason.
    NotHttp(&'static str),
    /// Nothing arrived in time.
    NoAnswer,
    /// The connection was closed before the answer was whole.
    Closed,
    /// No connection.
    Connect(io::ErrorKind),
    /// The connection broke.
    Broken(io::ErrorKind),
}

impl ResponseError {
    /// Details beyond the kind; never a token.
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::Status(_, detail) | Self::Fault(_, detail) if !detail.is_empty() => Some(detail),
            Self::Body(detail) | Self::NotHttp(detail) => Some(detail),
            _ => None,
        }
    }

    /// What to do about it, where that is clear.
    pub(crate) fn hint(&self, step: Step) -> Option<&'static str> {
        match (self, step) {
            (Self::Status(429, _), _) => {
                Some("the server limits refusals; for a benchmark, start it with --refusals-per-minute 0")
            }
            (Self::Status(401, _), Step::Issue | Step::Describe) => {
                Some("if the private API asks for a secret, name its file with --private-bearer-file")
            }
            (Self::Fault(..), Step::Issue) => {
                Some("if the server issues only bound tokens, name a tracker with --audience")
            }
            (Self::Connect(io::ErrorKind::ConnectionRefused), _) => Some(
                "start the server with `countersign serve`, or say with --private and --public where it is",
            ),
            (Self::Connect(_), _) => {
                Some("if this process may open too few files, see `ulimit -n`, or use fewer --connections")
            }
            _ => None,
        }
    }

    fn detail_and_hint(&self, step: Step) -> String {
        let detail = self.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let hint = self.hint(step).map(|hint| format!("; {hint}")).unwrap_or_default();
        detail + &hint
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, _) => write!(f, "status {status}"),
            Self::Fault(code, _) => write!(f, "fault {code}"),
            Self::Body(_) => f.write_str("wrong body"),
            Self::NotHttp(_) => f.write_str("not HTTP"),
            Self::NoAnswer => write!(f, "no answer in {} s", ANSWER_TIMEOUT.as_secs()),
            Self::Closed => f.write_str("connection closed"),
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::Broken(kind) => write!(f, "{kind}"),
        }
    }
}

/// How much of what a server says is shown.
const EXCERPT_CHARS: usize = 120;

/// As many letters and digits in a row can be a token.
const TOKEN_CHARS: usize = 16;

/// The first line of what a server says, without anything that could be a token.
pub(crate) fn excerpt(text: &str) -> String {
    let line: String = text
        .trim()
        .chars()
        .take_while(|c| *c != '\n')
        .filter(|c| !c.is_control())
        .take(EXCERPT_CHARS)
        .collect();
    line.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| if word.len() > TOKEN_CHARS { "… " } else { word })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_without_tokens() {
        assert_eq!(excerpt("Not found.\nMore."), "Not found.");
        assert_eq!(excerpt("no token cs1abcdefghijklmnopqrstuvwxyz here\x1b"), "no token … here");
        assert_eq!(excerpt("cs1abcdefghijklmnopqrstuvwxyz"), "…");
        assert!(excerpt(&"word ".repeat(100)).len() <= EXCERPT_CHARS);
    }
}
