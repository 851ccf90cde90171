//! The plugin API of a tracker: reading bugs and comments, and writing comments and links.
//!
//! It calls the API as Launchpad's worker does, and reads the same parts of an answer, as strictly: an answer that Launchpad
//! could not use is [`ApiFailure::Unusable`].

mod error;
mod part;

use std::fmt;

use async_trait::async_trait;
use countersign_http_client::HttpError;
use countersign_xmlrpc::{CallOutcome, ResponseValue as Value};
use http::header::COOKIE;
use http::{HeaderValue, Method};
use jiff::{SignedDuration, Timestamp};
use url::Url;

pub use self::error::{ApiError, ApiFailure};
pub(crate) use self::part::Part;
use crate::error::TrackerMessage;
use crate::http::{Http, MAX_BODY, MAX_RESULT, TrackerResponse, below, call, in_words, request};
use crate::{Login, LoginError, Session, Tracker};

/// Launchpad does not work with a tracker whose clock is further off.
pub const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(10);

/// The plugin API of one kind of tracker: its methods, and what its answers mean.
#[async_trait]
pub trait PluginApiKind: Send + Sync {
    /// The path of the API, below the tracker's base URL.
    fn endpoint(&self) -> &'static str;

    /// The answer on which Launchpad's worker logs in.
    fn login_wanted(&self) -> Rejection<'static>;

    /// The codes of the faults that say that there is no such method.
    fn missing_method(&self) -> &'static [&'static str];

    /// The codes of the faults that say that there is no such bug.
    fn missing_bug(&self) -> &'static [&'static str];

    /// What to do about a failure, where that depends on the kind: a clause without a full stop.
    fn remedy(&self, failure: &ApiFailure) -> Option<&'static str>;

    /// Whether Launchpad reads without a session until it has written something.
    fn is_read_without_session(&self) -> bool;

    /// Whether this can be the id of a bug; if not, why, such as "is not the number of a ticket".
    fn check_id(&self, _: &str) -> Result<(), &'static str> {
        Ok(())
    }

    /// See [`PluginApi::find`].
    async fn find(&self, api: &PluginApi) -> Result<(), ApiError>;
    /// See [`PluginApi::time`].
    async fn time(&self, api: &PluginApi) -> Result<Timestamp, ApiError>;
    /// See [`PluginApi::bug`].
    async fn bug(&self, api: &PluginApi, id: &str) -> Result<Option<Bug>, ApiError>;
    /// See [`PluginApi::changed_since`].
    async fn changed_since(
        &self,
        api: &PluginApi,
        ids: &[&str],
        since: Timestamp,
    ) -> Result<Vec<String>, ApiError>;
    /// See [`PluginApi::comments`].
    async fn comments(&self, api: &PluginApi, bug: &Bug) -> Result<Vec<Comment>, ApiError>;
    /// See [`PluginApi::add_comment`].
    async fn add_comment(&self, api: &PluginApi, bug: &Bug, text: &str) -> Result<String, ApiError>;
    /// See [`PluginApi::link`].
    async fn link(&self, api: &PluginApi, id: &str) -> Result<Option<i32>, ApiError>;
    /// See [`PluginApi::set_link`].
    async fn set_link(&self, api: &PluginApi, bug: &Bug, number: Option<i32>) -> Result<(), ApiError>;
}

/// An answer to a call that is not a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejection<'a> {
    /// An HTTP status.
    Status(u16),
    /// A fault with this code.
    Fault(&'a str),
}

impl fmt::Display for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Fault(code) => write!(f, "fault {code}"),
        }
    }
}

/// The API of one tracker, called with the cookies of a session, or without.
pub struct PluginApi {
    tracker: Tracker,
    kind: &'static dyn PluginApiKind,
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
    /// Whether Launchpad has a status of its own for these two. It takes every other for unknown.
    pub is_known_to_launchpad: bool,
    pub(crate) number: i32,
    /// The ids of its comments, where the tracker states them with the bug.
    pub(crate) comments: Option<Vec<String>>,
    /// The number of the issuer's bug, where the tracker states it with the bug.
    pub(crate) link: Option<i32>,
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
    /// [`LoginError::NoPluginApi`], and those with which [`Self::run`] begins, about how the tracker is reached.
    pub fn plugin_api(&self) -> Result<PluginApi, LoginError> {
        let tracker = self.tracker;
        let kind = tracker.kind().plugin_api().ok_or(LoginError::NoPluginApi { tracker })?;
        let http = Http::new(&self.http, &self.base)?;
        Ok(PluginApi { tracker, kind, base: self.base.clone(), http, cookies: String::new() })
    }
}

impl PluginApi {
    /// Calls with these cookies from now on, as far as a client would send them.
    ///
    /// # Errors
    ///
    /// [`ApiFailure::CookiesElsewhere`] if it would send none.
    pub fn use_session(&mut self, session: &Session) -> Result<(), ApiError> {
        let url = self.endpoint_url();
        self.cookies = session.cookies_for(&url);
        if self.cookies.is_empty() {
            return Err(self.error("the login", ApiFailure::CookiesElsewhere { url }));
        }
        Ok(())
    }

    /// Finds out whether there is a plugin, before anything else is asked.
    pub async fn find(&self) -> Result<(), ApiError> {
        self.kind.find(self).await
    }

    /// The tracker's clock.
    pub async fn time(&self) -> Result<Timestamp, ApiError> {
        self.kind.time(self).await
    }

    /// The bug of this id; `None` if the tracker has none, or does not show it to this session.
    pub async fn bug(&self, id: &str) -> Result<Option<Bug>, ApiError> {
        self.kind.bug(self, id).await
    }

    /// Those of these ids whose bugs have changed since then, by the tracker's clock.
    pub async fn changed_since(&self, ids: &[&str], since: Timestamp) -> Result<Vec<String>, ApiError> {
        self.kind.changed_since(self, ids, since).await
    }

    /// All comments on a bug, first their ids and then the rest.
    pub async fn comments(&self, bug: &Bug) -> Result<Vec<Comment>, ApiError> {
        self.kind.comments(self, bug).await
    }

    /// Adds a comment, and returns its id.
    pub async fn add_comment(&self, bug: &Bug, text: &str) -> Result<String, ApiError> {
        self.kind.add_comment(self, bug, text).await
    }

    /// The number of the issuer's bug that this one is linked with.
    ///
    /// # Errors
    ///
    /// Also [`ApiFailure::NoSuchBug`].
    pub async fn link(&self, id: &str) -> Result<Option<i32>, ApiError> {
        self.kind.link(self, id).await
    }

    /// Links a bug with one of the issuer's, or removes the link.
    pub async fn set_link(&self, bug: &Bug, number: Option<i32>) -> Result<(), ApiError> {
        self.kind.set_link(self, bug, number).await
    }

    /// The answer on which Launchpad's worker logs in.
    pub fn login_wanted(&self) -> Rejection<'static> {
        self.kind.login_wanted()
    }

    /// Whether Launchpad reads this kind of tracker without a session until it has written something.
    pub fn is_read_without_session(&self) -> bool {
        self.kind.is_read_without_session()
    }

    /// Whether this can be the id of a bug; if not, why, such as "is not the number of a ticket".
    pub fn check_id(&self, id: &str) -> Result<(), &'static str> {
        self.kind.check_id(id)
    }

    fn endpoint(&self) -> String {
        below(&self.base, self.kind.endpoint(), &[])
    }

    fn endpoint_url(&self) -> Url {
        Url::parse(&self.endpoint()).unwrap_or_else(|_| self.base.clone())
    }

    pub(crate) fn error(&self, method: &'static str, trouble: ApiFailure) -> ApiError {
        ApiError { tracker: self.tracker, method, trouble }
    }

    /// Asks for a path below the tracker's base URL, without a session.
    pub(crate) async fn get(&self, path: &str) -> Result<TrackerResponse, HttpError> {
        self.http.send(request(Method::GET, &below(&self.base, path, &[]))?, MAX_BODY).await
    }

    pub(crate) async fn call(
        &self,
        method: &'static str,
        parameters: Vec<dxr::Value>,
    ) -> Result<Value, ApiError> {
        let error = |trouble| self.error(method, trouble);
        let answer = self.post(method, parameters).await.map_err(|trouble| error(trouble.into()))?;
        if let Some(trouble) = self.not_a_result(&answer) {
            return Err(error(trouble));
        }
        match answer.xml_rpc() {
            Some(CallOutcome::Returned(value)) => Ok(value),
            Some(CallOutcome::Fault { code, text }) => Err(error(self.fault(code, &text))),
            None => Err(error(ApiFailure::NotXmlRpc(answer.broken.as_ref().map(in_words)))),
        }
    }

    async fn post(&self, method: &str, parameters: Vec<dxr::Value>) -> Result<TrackerResponse, HttpError> {
        let mut request = call(&self.endpoint(), method, parameters)?;
        if !self.cookies.is_empty() {
            let cookies = HeaderValue::from_str(&self.cookies);
            let cookies = cookies.map_err(|_| HttpError::Lost("its cookies cannot be sent".to_owned()))?;
            request.headers_mut().insert(COOKIE, cookies);
        }
        self.http.send(request, MAX_RESULT).await
    }

    /// What an HTTP status other than 200 means.
    fn not_a_result(&self, answer: &TrackerResponse) -> Option<ApiFailure> {
        if answer.status.is_redirection() {
            return Some(ApiFailure::Redirected { to: answer.location(&self.endpoint_url()) });
        }
        let said = || answer.plain_text().map(|text| TrackerMessage::new(&text, "")).unwrap_or_default();
        Some(match answer.status.as_u16() {
            200..=299 => return None,
            status if self.kind.login_wanted() == Rejection::Status(status) => {
                ApiFailure::LoginWanted { said: said() }
            }
            401 if answer.asks_for_password() => ApiFailure::PasswordAsked,
            404 => ApiFailure::NoMethod { found: "HTTP status 404".to_owned() },
            status => ApiFailure::Status { status, said: said() },
        })
    }

    fn fault(&self, code: String, text: &str) -> ApiFailure {
        let said = TrackerMessage::new(text, "");
        if self.kind.login_wanted() == Rejection::Fault(&code) {
            ApiFailure::LoginWanted { said }
        } else if self.kind.missing_method().contains(&code.as_str()) {
            ApiFailure::NoMethod { found: format!("fault {code}") }
        } else if self.kind.missing_bug().contains(&code.as_str()) {
            ApiFailure::NoSuchBug { said }
        } else {
            ApiFailure::Fault { code, said }
        }
    }
}
