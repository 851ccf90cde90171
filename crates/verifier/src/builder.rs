//! Settings of the login layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cookie::Key;
use jiff::Timestamp;

use crate::base_url::BaseUrl;
use crate::layer::LayerState;
use crate::session::{Clock, MAX_NAME_BYTES, Sessions};
use crate::{LoginLayer, SetupError, Verifier, system};

/// How long a session lasts unless [`LoginLayerBuilder::session_lifetime`] says otherwise.
pub const DEFAULT_SESSION_LIFETIME: Duration = Duration::from_hours(24);

/// The longest time that sessions can last: browsers forget a cookie after 400 days.
pub const MAX_SESSION_LIFETIME: Duration = Duration::from_hours(400 * 24);

/// The shortest secret that signs sessions, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;

/// Settings of a [`LoginLayer`]; see [`LoginLayer::builder`].
#[derive(Clone)]
pub struct LoginLayerBuilder {
    verifier: Verifier,
    user: String,
    login_path: Option<String>,
    cookie_name: String,
    secret: Option<Vec<u8>>,
    lifetime: Duration,
    clock: Clock,
}

impl LoginLayerBuilder {
    pub(crate) fn new(verifier: Verifier) -> Self {
        Self {
            verifier,
            user: "launchpad".to_owned(),
            login_path: None,
            cookie_name: "launchpad_session".to_owned(),
            secret: None,
            lifetime: DEFAULT_SESSION_LIFETIME,
            clock: Arc::new(system::now),
        }
    }

    /// The user that the issuer is logged in as; `launchpad` if nothing is said. Sessions of a former name end.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.user = name.into();
        self
    }

    /// The path below which tokens arrive, as the layer sees it; the base URL's path and `/launchpad-auth` if nothing
    /// is said. Needed if something in front takes the base path away, such as a router that nests this one.
    #[must_use]
    pub fn login_path(mut self, path: impl Into<String>) -> Self {
        self.login_path = Some(path.into());
        self
    }

    /// The name of the session cookie; `launchpad_session` if nothing is said.
    #[must_use]
    pub fn cookie_name(mut self, name: impl Into<String>) -> Self {
        self.cookie_name = name.into();
        self
    }

    /// The secret that signs sessions: at least [`MIN_SECRET_BYTES`] random bytes, the same in every process that serves
    /// the tracker. If nothing is said, each process makes its own, and sessions end with it.
    #[must_use]
    pub fn session_secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// How long a session lasts; [`DEFAULT_SESSION_LIFETIME`] if nothing is said. A signed cookie cannot be taken back
    /// before its time but by changing the secret, so keep this short.
    #[must_use]
    pub fn session_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the clock; the default is the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Checks the settings.
    pub fn build(self) -> Result<LoginLayer, SetupError> {
        if self.user.is_empty() || self.user.len() > MAX_NAME_BYTES || self.user.chars().any(char::is_control)
        {
            return Err(SetupError::User);
        }
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if self.cookie_name.is_empty() || !self.cookie_name.bytes().all(is_name_byte) {
            return Err(SetupError::CookieName);
        }
        if self.lifetime < Duration::from_secs(1) || self.lifetime > MAX_SESSION_LIFETIME {
            return Err(SetupError::SessionLifetime);
        }
        let base_url = self.verifier.base_url();
        let base_path = base_url.map_or("", BaseUrl::path);
        let login_path = self.login_path.unwrap_or_else(|| format!("{base_path}/launchpad-auth"));
        if !is_login_path(&login_path) {
            return Err(SetupError::LoginPath);
        }
        let sessions = Sessions {
            key: key(self.secret.as_deref())?,
            cookie_name: self.cookie_name,
            user: self.user,
            tracker: base_url.map_or("", BaseUrl::normal).to_owned(),
            path: if base_path.is_empty() { "/".to_owned() } else { base_path.to_owned() },
            secure: base_url.is_some_and(BaseUrl::is_https),
            lifetime: self.lifetime,
            clock: self.clock,
        };
        Ok(LoginLayer::new(LayerState { verifier: self.verifier, sessions, login_path }))
    }
}

/// Without the secret.
impl fmt::Debug for LoginLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginLayerBuilder")
            .field("verifier", &self.verifier)
            .field("user", &self.user)
            .field("login_path", &self.login_path)
            .field("cookie_name", &self.cookie_name)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

fn is_login_path(path: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~' | b'%');
    path.starts_with('/') && !path.ends_with('/') && path.bytes().all(fits)
}

fn key(secret: Option<&[u8]>) -> Result<Key, SetupError> {
    match secret {
        None => system::random::<64>().map(|bytes| Key::from(&bytes)).map_err(|_| SetupError::NoRandomness),
        Some(secret) if secret.len() < MIN_SECRET_BYTES => Err(SetupError::Secret(secret.len())),
        Some(secret) => Ok(Key::derive_from(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> LoginLayerBuilder {
        LoginLayer::builder(Verifier::builder("http://127.0.0.1:9").build().unwrap())
    }

    #[test]
    fn unusable_settings_are_refused() {
        let refused = |builder: LoginLayerBuilder| builder.build().map(|_| ()).unwrap_err();
        for user in ["", "a\nb", &"u".repeat(MAX_NAME_BYTES + 1)] {
            assert_eq!(refused(builder().user(user)), SetupError::User, "{user}");
        }
        for name in ["", "a b", "a;b", "a=b", "é"] {
            assert_eq!(refused(builder().cookie_name(name)), SetupError::CookieName, "{name}");
        }
        for path in ["", "/", "login", "/login/", "/a b", "/a?b", "/é"] {
            assert_eq!(refused(builder().login_path(path)), SetupError::LoginPath, "{path}");
        }
        for lifetime in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
            assert_eq!(refused(builder().session_lifetime(lifetime)), SetupError::SessionLifetime);
        }
        assert_eq!(refused(builder().session_secret([7; 31])), SetupError::Secret(31));
        assert!(builder().session_secret([7; 32]).build().is_ok());
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let builder = builder().session_secret(*b"a secret of thirty-two bytes 123");
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(shown.contains("launchpad_session"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains("97, 32"), "{shown}");
    }
}
