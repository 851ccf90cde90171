//! Sessions, kept in a signed cookie.
//!
//! Nothing is stored. The cookie says who is logged in, until when, and where, and is signed with HMAC-SHA256 (by the
//! `cookie` crate), so that it can be read by anybody but written by this tracker only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cookie::{Cookie, CookieJar, Key, SameSite};
use data_encoding::BASE64URL_NOPAD;
use http::HeaderMap;
use http::header::COOKIE;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::system::{NoRandomness, random_id};

/// The longest name of a user or an issuer that goes into a cookie, in bytes. Browsers keep 4096 bytes of a cookie.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// Tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A user who is logged in: a request extension that [`LoginLayer`](crate::LoginLayer) adds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Login {
    /// The name of the user.
    pub user: String,
    /// The issuer's name, if it gave one.
    pub issuer: Option<String>,
    /// When the session began.
    pub since: Timestamp,
}

/// Opens sessions and recognises them.
pub(crate) struct Sessions {
    pub(crate) key: Key,
    pub(crate) cookie_name: String,
    pub(crate) user: String,
    /// The tracker's base URL in its normal form, or nothing. A session of another tracker that has the same key is
    /// not one of this tracker.
    pub(crate) tracker: String,
    /// `Path` of the cookie.
    pub(crate) path: String,
    /// Whether the cookie travels over TLS only.
    pub(crate) secure: bool,
    pub(crate) lifetime: Duration,
    pub(crate) clock: Clock,
}

/// What the cookie says.
#[derive(Serialize, Deserialize)]
struct Session {
    /// Makes every session's cookie another one.
    id: String,
    tracker: String,
    user: String,
    issuer: Option<String>,
    since: Timestamp,
    until: Timestamp,
}

impl Sessions {
    /// Opens a session. Returns the value of `Set-Cookie`.
    pub(crate) fn open(&self, issuer: Option<String>) -> Result<String, NoRandomness> {
        let since = (self.clock)();
        let session = Session {
            id: random_id()?,
            tracker: self.tracker.clone(),
            user: self.user.clone(),
            issuer: issuer.filter(|name| name.len() <= MAX_NAME_BYTES),
            since,
            until: since.checked_add(self.lifetime).unwrap_or(Timestamp::MAX),
        };
        let cookie = Cookie::build((self.cookie_name.clone(), session.to_text()))
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.secure)
            .path(self.path.clone())
            .max_age(self.lifetime.try_into().unwrap_or(cookie::time::Duration::MAX));
        let mut jar = CookieJar::new();
        jar.signed_mut(&self.key).add(cookie);
        Ok(jar.get(&self.cookie_name).map(Cookie::to_string).unwrap_or_default())
    }

    /// Who sends this request, if a session of theirs has begun here and not ended.
    ///
    /// A browser may send several cookies of one name, of which an old one can come first.
    pub(crate) fn login(&self, headers: &HeaderMap) -> Option<Login> {
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| Cookie::split_parse(value.to_owned()))
            .filter_map(Result::ok)
            .filter(|cookie| cookie.name() == self.cookie_name)
            .find_map(|cookie| self.recognise(cookie))
    }

    fn recognise(&self, cookie: Cookie<'static>) -> Option<Login> {
        // The signature comes first, in constant time: nothing else that a caller can write is looked at.
        let cookie = CookieJar::new().signed(&self.key).verify(cookie)?;
        let session = Session::from_text(cookie.value())?;
        let ours = session.tracker == self.tracker && session.user == self.user;
        (ours && (self.clock)() < session.until).then_some(Login {
            user: session.user,
            issuer: session.issuer,
            since: session.since,
        })
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("cookie_name", &self.cookie_name)
            .field("user", &self.user)
            .field("tracker", &self.tracker)
            .field("path", &self.path)
            .field("secure", &self.secure)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Base64url, which any cookie can carry.
    fn to_text(&self) -> String {
        // Strings and times always have a JSON form; an empty text would not be recognised as a session.
        BASE64URL_NOPAD.encode(&serde_json::to_vec(self).unwrap_or_default())
    }

    fn from_text(text: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(text.as_bytes()).ok()?).ok()
    }
}
