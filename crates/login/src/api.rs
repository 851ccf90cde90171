//! The plugin API of a tracker: reading bugs and comments, and writing comments and links.
//!
//! It is called as Launchpad's worker calls it, and of an answer what that reads is read, as strictly: an answer that Launchpad
//! could not use is [`ApiFailure::Unusable`].

mod bugzilla;
mod error;
mod part;
mod status;
mod trac;

use jiff::{SignedDuration, Timestamp};
use url::Url;

pub use self::error::{ApiError, ApiFailure};
pub use self::status::is_known_to_launchpad;
use crate::answer::{CallOutcome, Value};
use crate::call::call_document;
use crate::error::TrackerMessage;
use crate::http::{Http, HttpResponse, below};
use crate::{Login, LoginError, Session, Tracker};

/// Launchpad does not work with a tracker whose clock is further off.
pub const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(10);

/// The answer on which Launchpad's worker logs in, in words.
pub fn login_wanted(tracker: Tracker) -> &'static str {
    match tracker {
        Tracker::Trac => "HTTP status 403",
        Tracker::Bugzilla => "fault 410",
    }
}

/// The API of one tracker, called with the cookies of a session, or without.
pub struct PluginApi {
    tracker: Tracker,
    base: Url,
    http: Http,
    cookies: String,
}

/// A bug as the tracker describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bug {
    /// Its number or, in a Bugzilla, perhaps its alias, as the caller gave it.
    pub id: String,
    /// Its status, in the tracker's word.
    pub status: String,
    /// Its resolution; empty if it has none.
    pub resolution: String,
    number: i32,
    /// The ids of its comments, where the tracker states them with the bug.
    comments: Option<Vec<String>>,
    /// The number of the issuer's bug, where the tracker states it with the bug.
    link: Option<i32>,
}

/// A comment on a bug.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Comment {
    /// By what the tracker knows it.
    pub id: String,
    /// The author, such as `Name <mail>`.
    pub author: String,
    /// When it was written.
    pub time: Timestamp,
    /// The text.
    pub text: String,
}

impl Login<'_> {
    /// The API of this tracker, called without a session.
    ///
    /// # Errors
    ///
    /// Those with which [`Self::run`] begins, about how the tracker is reached.
    pub fn plugin_api(&self) -> Result<PluginApi, LoginError> {
        let http = Http::new(&self.http, &self.base)?;
        Ok(PluginApi { tracker: self.tracker, base: self.base.clone(), http, cookies: String::new() })
    }
}

impl PluginApi {
    /// Calls with these cookies from now on, as far as a client would send them.
    ///
    /// # Errors
    ///
    /// [`ApiFailure::CookiesElsewhere`] if it would send none.
    pub fn use_session(&mut self, session: &Session) -> Result<(), ApiError> {
        let url = self.endpoint();
        self.cookies = session.cookies_for(&url);
        if self.cookies.is_empty() {
            return Err(self.error("the login", ApiFailure::CookiesElsewhere { url }));
        }
        Ok(())
    }

    /// Finds out whether there is a plugin, before anything else is asked.
    pub async fn find(&self) -> Result<(), ApiError> {
        match self.tracker {
            Tracker::Trac => trac::find(self).await,
            Tracker::Bugzilla => bugzilla::find(self).await,
        }
    }

    /// The tracker's clock.
    pub async fn time(&self) -> Result<Timestamp, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::time(self).await,
            Tracker::Bugzilla => bugzilla::time(self).await,
        }
    }

    /// The bug of this id; `None` if the tracker has none, or does not show it to this session.
    pub async fn bug(&self, id: &str) -> Result<Option<Bug>, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::bug(self, id).await,
            Tracker::Bugzilla => bugzilla::bug(self, id).await,
        }
    }

    /// Those of these ids whose bugs have changed since then, by the tracker's clock.
    pub async fn changed_since(&self, ids: &[&str], since: Timestamp) -> Result<Vec<String>, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::changed_since(self, ids, since).await,
            Tracker::Bugzilla => bugzilla::changed_since(self, ids, since).await,
        }
    }

    /// All comments on a bug, first their ids and then the rest.
    pub async fn comments(&self, bug: &Bug) -> Result<Vec<Comment>, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::comments(self, bug).await,
            Tracker::Bugzilla => bugzilla::comments(self, bug).await,
        }
    }

    /// Adds a comment, and returns its id.
    pub async fn add_comment(&self, bug: &Bug, text: &str) -> Result<String, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::add_comment(self, bug, text).await,
            Tracker::Bugzilla => bugzilla::add_comment(self, bug, text).await,
        }
    }

    /// The number of the issuer's bug that this one is linked with.
    ///
    /// # Errors
    ///
    /// Also [`ApiFailure::NoSuchBug`].
    pub async fn link(&self, id: &str) -> Result<Option<i32>, ApiError> {
        match self.tracker {
            Tracker::Trac => trac::link(self, id).await,
            Tracker::Bugzilla => bugzilla::link(self, id).await,
        }
    }

    /// Links a bug with one of the issuer's, or removes the link.
    pub async fn set_link(&self, bug: &Bug, number: Option<i32>) -> Result<(), ApiError> {
        match self.tracker {
            Tracker::Trac => trac::set_link(self, bug, number).await,
            Tracker::Bugzilla => bugzilla::set_link(self, bug, number).await,
        }
    }

    fn endpoint(&self) -> Url {
        below(&self.base, &[if self.tracker == Tracker::Trac { trac::ENDPOINT } else { bugzilla::ENDPOINT }])
    }

    fn error(&self, method: &'static str, trouble: ApiFailure) -> ApiError {
        ApiError { tracker: self.tracker, method, trouble }
    }

    async fn call(&self, method: &'static str, parameters: Vec<dxr::Value>) -> Result<Value, ApiError> {
        let error = |trouble| self.error(method, trouble);
        let document = call_document(method, parameters)
            .ok_or_else(|| error(ApiFailure::NoAnswer("the call cannot be written".to_owned())))?;
        let answer = self.http.post_xml(&self.endpoint(), document, Some(&self.cookies)).await;
        let answer = answer.map_err(|trouble| error(trouble.into()))?;
        if let Some(trouble) = self.not_a_result(&answer) {
            return Err(error(trouble));
        }
        match answer.xml_rpc() {
            Some(CallOutcome::Returned(value)) => Ok(value),
            Some(CallOutcome::Fault { code, text }) => Err(error(self.fault(code, &text))),
            None => Err(error(ApiFailure::NotXmlRpc(answer.broken))),
        }
    }

    /// What an HTTP status other than 200 means.
    fn not_a_result(&self, answer: &HttpResponse) -> Option<ApiFailure> {
        let url = self.endpoint();
        if answer.status.is_redirection() {
            return Some(ApiFailure::Redirected { to: answer.location(&url) });
        }
        let said = || answer.plain_text().map(|text| TrackerMessage::new(&text, "")).unwrap_or_default();
        Some(match (self.tracker, answer.status.as_u16()) {
            (_, 200..=299) => return None,
            (Tracker::Trac, 403) => ApiFailure::LoginWanted { said: said() },
            (_, 401) if answer.asks_for_password() => ApiFailure::PasswordAsked,
            (_, 404) => ApiFailure::NoMethod { found: "HTTP status 404".to_owned() },
            (_, status) => ApiFailure::Status { status, said: said() },
        })
    }

    fn fault(&self, code: String, text: &str) -> ApiFailure {
        let said = TrackerMessage::new(text, "");
        match (self.tracker, code.as_str()) {
            (Tracker::Bugzilla, "410") => ApiFailure::LoginWanted { said },
            (_, "-32601") | (Tracker::Bugzilla, "Client") => {
                ApiFailure::NoMethod { found: format!("fault {code}") }
            }
            (Tracker::Trac, "1001") | (Tracker::Bugzilla, "100" | "101" | "102") => {
                ApiFailure::NoSuchBug { said }
            }
            _ => ApiFailure::Fault { code, said },
        }
    }
}
