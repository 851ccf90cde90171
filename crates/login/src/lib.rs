//! Logs in to bug trackers with login tokens: the worker's side of the protocol.
//!
//! [`Login`] says where, what the token shall be bound to, and how the tracker is reached; [`Login::run`] makes sure that
//! the tracker and its plugin are there, only then gets a token, brings it, and returns the [`Session`]. Where tokens come
//! from is a parameter.
//!
//! ```no_run
//! # async fn example(now: jiff::Timestamp) -> Result<(), Box<dyn std::error::Error>> {
//! use countersign_login::{Login, Tracker, Zeroizing};
//!
//! let login = Login::new(Tracker::Trac, "https://trac.example.org/project")?;
//! let session = login
//!     .run(now, async |audience| {
//!         // Here the token would be asked for, from the private API of the issuer.
//!         Ok::<_, std::io::Error>(Zeroizing::new(format!("tokenFor{}", audience.map_or(0, str::len))))
//!     })
//!     .await?;
//! println!("{}", session.cookie_jar());
//! # Ok(())
//! # }
//! ```
//!
//! [`Login::plugin_api`] calls the tracker as Launchpad does once it is logged in: [`PluginApi`].
//!
//! [`LoginError`] has every way to fail, one sentence each. To add a kind of tracker, see `trackers/mod.rs`; [`TrackerKind`] is
//! what it is made of.

mod api;
mod cookie_date;
mod cookie_jar;
mod error;
mod http;
mod session;
mod trackers;

use std::error::Error;

pub use countersign_http_client::HttpError;
use jiff::Timestamp;
use url::Url;
pub use zeroize::Zeroizing;

pub use self::api::{
    ApiError, ApiFailure, Bug, Comment, MAX_CLOCK_SKEW, PluginApi, PluginApiKind, Rejection,
};
pub use self::cookie_date::cookie_end;
pub use self::cookie_jar::{CookieJarError, check_cookie_jar};
pub use self::error::{LoginError, TrackerMessage, printable};
pub use self::http::{HttpSettings, TrackerRequest, TrackerResponse, exchange};
pub use self::session::{Cookie, Session};
pub use self::trackers::{LoginAttempt, LoginOutcome, Parameter, Tracker, TrackerKind};

use self::http::{Http, MAX_BODY, with_token};

/// The longest token, in characters, that is brought to a tracker.
const MAX_TOKEN: usize = 4096;

/// A login that is about to happen.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    tracker: Tracker,
    base: Url,
    audience: Option<String>,
    http: HttpSettings<'a>,
}

impl<'a> Login<'a> {
    /// A login to the tracker whose base URL is `url`, with a token bound to that URL.
    ///
    /// # Errors
    ///
    /// [`LoginError::Address`] if that is no http or https URL, or one with a user name, a query or a fragment.
    pub fn new(tracker: Tracker, url: &str) -> Result<Self, LoginError> {
        let base = Url::parse(url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .ok_or(LoginError::Address)?;
        Ok(Self { tracker, audience: Some(base.to_string()), base, http: HttpSettings::default() })
    }

    /// Binds the token to another URL, that by which the tracker knows itself; or, with `None`, to none, for plugins too
    /// old to state one. Any tracker can then use the token, so that the one it is brought to can pass it on.
    #[must_use]
    pub fn audience(mut self, audience: Option<String>) -> Self {
        self.audience = audience;
        self
    }

    /// Says how the tracker is reached.
    #[must_use]
    pub fn http(mut self, settings: HttpSettings<'a>) -> Self {
        self.http = settings;
        self
    }

    /// Logs in. `new_token` is called once, with the audience to bind the token to, and only when the tracker and its
    /// plugin have been found. `now` is what the ends of the cookies' lives are reckoned from.
    pub async fn run<S, E>(&self, now: Timestamp, new_token: S) -> Result<Session, LoginError>
    where
        S: AsyncFnOnce(Option<&str>) -> Result<Zeroizing<String>, E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let http = Http::new(&self.http, &self.base)?;
        let (kind, audience) = (self.tracker.kind(), self.audience.as_deref());
        let request = kind.detection_request(&self.base)?;
        let asked = url_of(&request)?;
        let answer = http.send(request, MAX_BODY).await?.whole()?;
        if let Some(redirect) = answer.redirect(&self.base, &asked) {
            return Err(redirect);
        }
        kind.detect(&answer)?;

        let token = new_token(audience).await.map_err(|error| LoginError::NoToken(error.into()))?;
        // It becomes a part of a URL.
        if token.is_empty()
            || token.len() > MAX_TOKEN
            || !token.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(LoginError::TokenText);
        }
        let request = kind.login_request(&self.base, &token, &[])?;
        let asked = url_of(&request)?;
        let answer = http.send(request, MAX_BODY).await.map_err(with_token)?;
        let attempt = LoginAttempt {
            tracker: self.tracker,
            base: &self.base,
            asked: &asked,
            audience,
            token: &token,
            now,
        };
        kind.session(&attempt, &answer)
    }
}

fn url_of(request: &TrackerRequest) -> Result<Url, LoginError> {
    Url::parse(&request.uri().to_string()).map_err(|_| LoginError::Address)
}
