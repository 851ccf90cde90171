//! The errors of a login: one sentence each, never with a token.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::Tracker;

/// Why a login did not happen. Every text says what to do next; none has the token in it.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The address is not that of a tracker. It is not repeated: it may have a password in it.
    #[error(
        "that is not the base URL of a bug tracker; give it as https://HOST/PATH, without a user name, a query or a \
         fragment"
    )]
    Address,
    /// The token would travel in clear.
    #[error(
        "a token sent over plain http can be used by whoever sees it first; give the https URL of the tracker, or \
         accept that with --allow-http"
    )]
    PlainHttp,
    /// The file with additional certificate authorities is of no use.
    #[error("cannot read the CA file {} as PEM certificates ({reason}); name another with --ca-file", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is nothing to verify a certificate with.
    #[error(
        "this machine has no certificate authorities, so that no https tracker can be verified; install the package \
         ca-certificates, or name a PEM file with --ca-file"
    )]
    NoAuthorities,
    /// The proxy is not the address of one.
    #[error("that is not an HTTP proxy; give it as http://HOST:PORT")]
    Proxy,
    /// This kind of tracker has no API that Launchpad calls.
    #[error("a {} has no plugin API that Launchpad calls; name another kind of tracker", tracker.kind().title())]
    NoPluginApi {
        /// The kind.
        tracker: Tracker,
    },
    /// The TLS library does not work on this machine.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),

    /// No program answers at this address.
    #[error(
        "the tracker does not answer ({reason}); check its URL, and that it can be reached from here. No token was sent"
    )]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The peer cannot prove to be the tracker.
    #[error(
        "the tracker's TLS certificate is not to be trusted ({reason}); no token was sent. If an authority of your own \
         has signed it, name that with --ca-file FILE"
    )]
    Certificate {
        /// Why.
        reason: String,
    },
    /// The tracker is elsewhere.
    #[error("the tracker redirects to {}; no token was sent. If that is where it is, log in there", shown(.to.as_ref()))]
    Redirected {
        /// Where to, if that is a URL; without the part that this crate added.
        to: Option<Url>,
    },
    /// The web server in front of the tracker wants a password first.
    #[error(
        "the web server asks for a password before the tracker's plugin is reached; no token was sent. Its administrator \
         must exempt {path}"
    )]
    PasswordAsked {
        /// The path that must be free, relative to the tracker's URL.
        path: &'static str,
    },
    /// The tracker is there, and its plugin is not.
    #[error("{remedy} (it answers with {answer}). No token was sent")]
    PluginMissing {
        /// What is missing, and what to do.
        remedy: &'static str,
        /// The HTTP status, or the fault, in words.
        answer: String,
    },
    /// The server there is not the tracker's plugin.
    #[error("what answers at that URL is not {expected}: {found}. No token was sent; check the URL")]
    NotTheTracker {
        /// What should.
        expected: &'static str,
        /// What did instead.
        found: String,
    },

    /// There was no token to be had.
    #[error("there is no token to log in with: {0}")]
    NoToken(#[source] Box<dyn Error + Send + Sync>),
    /// The issuer's answer is nothing that a tracker would take.
    #[error(
        "the issuer did not give a token of 1 to 4096 letters and digits, so nothing was sent; check that it is a \
         Countersign server"
    )]
    TokenText,

    /// The issuer told the tracker no.
    #[error("the token was refused{said}; {}", refusal_remedy(audience.as_deref()))]
    Refused {
        /// The tracker's words.
        said: TrackerMessage,
        /// What the token was bound to.
        audience: Option<String>,
    },
    /// The tracker could not ask the issuer.
    #[error(
        "the tracker got no answer from the issuer of the token{said}; its administrator finds the reason in its log, and \
         should check that it names this issuer's handshake URL"
    )]
    IssuerUnreachable {
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// The plugin is there, but does not know the issuer.
    #[error(
        "login by token is not configured at the tracker{said}; its administrator must name this issuer's handshake URL \
         and a user"
    )]
    NotConfigured {
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// The account that tokens log in to is not there.
    #[error(
        "the tracker's account for this issuer is missing or disabled{said}; its administrator must create or enable it"
    )]
    UserUnavailable {
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// The tracker accepted the token and opened no session.
    #[error(
        "the tracker accepted the token but did not set the cookie {cookie}, so that there is no session; look for a \
         proxy in front of it that removes cookies, or for an outdated plugin"
    )]
    NoSession {
        /// The cookie's name.
        cookie: &'static str,
    },
    /// No answer came back to the request that had the token in it.
    #[error(
        "the tracker gave no answer to the token ({reason}), which may be used up now; start again with a new one"
    )]
    AnswerLost {
        /// Why.
        reason: String,
    },
    /// The tracker answered to the token with something that this crate does not know.
    #[error(
        "the tracker met the token with an unexpected answer, {answer}{said}; the reason may be in its log"
    )]
    Unexpected {
        /// The HTTP status, or the fault, in words.
        answer: String,
        /// The tracker's words.
        said: TrackerMessage,
    },
}

impl LoginError {
    /// Whether the caller's own wishes are at fault, rather than the tracker, the issuer or the network.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Address | Self::PlainHttp | Self::CaFile { .. } | Self::Proxy | Self::NoPluginApi { .. }
        )
    }
}

pub(crate) fn shown(to: Option<&Url>) -> &str {
    to.map_or("what is not a URL", Url::as_str)
}

fn refusal_remedy(audience: Option<&str>) -> String {
    match audience {
        Some(audience) => format!(
            "it was issued for {audience}: if the tracker is configured with another URL than that, name it with \
             --audience, and if its plugin is too old to state one, use --unbound"
        ),
        None => "it was issued for no tracker in particular: check that the tracker asks the issuer it came from, and \
                 whether that still issues such tokens"
            .to_owned(),
    }
}

/// What the tracker said, fit for a sentence: one line, printable, at most 300 characters, without the token.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrackerMessage(String);

impl TrackerMessage {
    /// The longest text that is repeated, in characters.
    const LONGEST: usize = 300;

    pub(crate) fn new(text: &str, token: &str) -> Self {
        let text = if token.is_empty() { text.to_owned() } else { text.replace(token, "[token]") };
        let mut line = printable(&text, Self::LONGEST);
        line.truncate(line.trim_end_matches('.').len());
        Self(line)
    }

    /// The text; empty if the tracker said nothing that a person could read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrackerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (the tracker says: {})", self.0) }
    }
}

/// A text from elsewhere on one line, without anything that could take over a terminal, and at most so many characters long.
pub fn printable(text: &str, longest: usize) -> String {
    let printable: String = text.chars().map(|c| if is_harmless(c) { c } else { ' ' }).collect();
    let words: Vec<&str> = printable.split_whitespace().collect();
    words.join(" ").chars().take(longest).collect()
}

/// Not a control character, nor one that reorders or hides text on a terminal.
fn is_harmless(c: char) -> bool {
    !c.is_control() && (c.is_ascii() || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_text_is_sanitized() {
        for (text, said) in [
            ("No.\n", "No"),
            ("  a\r\n\tb\u{1b}[31m\u{202e}c ", "a b [31m c"),
            ("cs1abc, cs1abc!", "[token], [token]!"),
            ("Größe", "Größe"),
            ("", ""),
        ] {
            assert_eq!(TrackerMessage::new(text, "cs1abc").as_str(), said, "{text:?}");
        }
        assert_eq!(
            TrackerMessage::new(&"é".repeat(1000), "").as_str().chars().count(),
            TrackerMessage::LONGEST
        );
    }

    #[test]
    fn token_cut_by_the_quote_limit_stays_hidden() {
        let text = format!("{}cs1abcdef", "x".repeat(TrackerMessage::LONGEST - 4));
        assert!(!TrackerMessage::new(&text, "cs1abcdef").as_str().contains("cs1"));
    }

    #[test]
    fn missing_reason_leaves_no_gap() {
        let error = LoginError::IssuerUnreachable { said: TrackerMessage::default() };
        assert!(error.to_string().contains("of the token; its"), "{error}");
    }
}
