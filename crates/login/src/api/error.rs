//! The errors of a call of the plugin API.

use std::error::Error;
use std::fmt;

use countersign_http_client::HttpError;
use url::Url;

use crate::Tracker;
use crate::error::{TrackerMessage, shown};
use crate::http::in_words;

/// A call that is of no use. Its text says what happened and what to do next.
#[derive(Debug)]
pub struct ApiError {
    /// The kind of tracker.
    pub tracker: Tracker,
    /// The method that was called.
    pub method: &'static str,
    /// What came of it.
    pub trouble: ApiFailure,
}

/// Why the answer to a call cannot be used.
#[derive(Debug)]
pub enum ApiFailure {
    /// The tracker wants a login, in the way that makes Launchpad log in.
    LoginWanted {
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// The cookies of the session are not for the URL of the API.
    CookiesElsewhere {
        /// Where calls go.
        url: Url,
    },
    /// The method is not there.
    NoMethod {
        /// The HTTP status, or the fault, in words.
        found: String,
    },
    /// There is no such bug, or the session may not see it.
    NoSuchBug {
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// Another fault.
    Fault {
        /// Its code.
        code: String,
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// An HTTP status that says no.
    Status {
        /// The status.
        status: u16,
        /// The tracker's words.
        said: TrackerMessage,
    },
    /// The web server in front of the tracker wants a password first.
    PasswordAsked,
    /// The tracker is elsewhere.
    Redirected {
        /// Where to, if that is a URL.
        to: Option<Url>,
    },
    /// The answer is no XML-RPC, or not all of it came, and why.
    NotXmlRpc(Option<String>),
    /// The answer is XML-RPC, with something in it that Launchpad cannot use.
    Unusable(String),
    /// There is no answer, and why.
    NoAnswer(String),
    /// The certificate is not valid for this tracker, and why.
    Certificate(String),
}

impl ApiError {
    /// What happened: a sentence without a full stop.
    pub fn seen(&self) -> String {
        let method = self.method;
        match &self.trouble {
            ApiFailure::LoginWanted { said } => format!("{method} asks for a login{said}"),
            ApiFailure::CookiesElsewhere { url } => {
                format!("the cookies of {method} are not for {url}, by their path or because they are Secure")
            }
            ApiFailure::NoMethod { found } => format!("there is no method {method} ({found})"),
            ApiFailure::NoSuchBug { said } => format!("{method} does not know the bug{said}"),
            ApiFailure::Fault { code, said } => format!("{method} answers with fault {code}{said}"),
            ApiFailure::Status { status, said } => {
                format!("{method} answers with HTTP status {status}{said}")
            }
            ApiFailure::PasswordAsked => {
                format!("the web server asks for a password before {method} is reached")
            }
            ApiFailure::Redirected { to } => format!("{method} is redirected to {}", shown(to.as_ref())),
            ApiFailure::NotXmlRpc(None) => format!("{method} answers with something else than XML-RPC"),
            ApiFailure::NotXmlRpc(Some(reason)) => {
                format!("the answer to {method} is not whole ({reason})")
            }
            ApiFailure::Unusable(what) => {
                format!("Launchpad cannot use the answer to {method}: {what}")
            }
            ApiFailure::NoAnswer(reason) => format!("there is no answer to {method} ({reason})"),
            ApiFailure::Certificate(reason) => {
                format!("the tracker's TLS certificate is not to be trusted ({reason})")
            }
        }
    }

    /// What to do next: a sentence without a full stop.
    pub fn remedy(&self) -> &'static str {
        let kind = self.tracker.kind().plugin_api();
        if let Some(remedy) = kind.and_then(|kind| kind.remedy(&self.trouble)) {
            return remedy;
        }
        match &self.trouble {
            ApiFailure::LoginWanted { .. } | ApiFailure::Fault { .. } | ApiFailure::Status { .. } => {
                "see what the issuer's user may see and change, and look into the tracker's log"
            }
            ApiFailure::CookiesElsewhere { .. } => {
                "see that the tracker is called by the URL, http or https, that it is configured with"
            }
            ApiFailure::NoMethod { .. } => "install the tracker's plugin, or a newer one",
            ApiFailure::NoSuchBug { .. } => "name another bug, or let the issuer's user see this one",
            ApiFailure::PasswordAsked => "exempt the path of the API from that",
            ApiFailure::Redirected { .. } => "give the URL where the tracker is",
            ApiFailure::NotXmlRpc(None) => {
                "look for a page that a web server in front of the tracker puts in its place, and into the tracker's log"
            }
            ApiFailure::Unusable(_) => "update the tracker's plugin",
            ApiFailure::NotXmlRpc(Some(_)) | ApiFailure::NoAnswer(_) => {
                "see that the tracker can be reached from here, and look into its log; a slow one may need a longer --timeout"
            }
            ApiFailure::Certificate(_) => {
                "if an authority of your own has signed it, name that with --ca-file FILE"
            }
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.seen(), self.remedy())
    }
}

impl Error for ApiError {}

impl From<HttpError> for ApiFailure {
    fn from(trouble: HttpError) -> Self {
        match trouble {
            HttpError::Certificate(reason) => Self::Certificate(reason),
            trouble => Self::NoAnswer(in_words(&trouble)),
        }
    }
}
