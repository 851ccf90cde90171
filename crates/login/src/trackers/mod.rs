//! The kinds of bug tracker. **To add one**, write a directory like `trac` here and name it twice below: as a module and as a
//! line of the registry. `countersign login`, `check-tracker` and `sync-check` then offer it.

mod bugzilla;
mod gate;
mod trac;

use std::fmt;
use std::str::FromStr;

use countersign_http_client::HttpError;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use url::Url;

use crate::api::PluginApiKind;
use crate::error::TrackerMessage;
use crate::http::{TrackerRequest, TrackerResponse, below, encoded, in_words, request};
use crate::session::cookies;
use crate::{Cookie, LoginError, Session};

/// Makes [`Tracker`] of one line for each kind.
macro_rules! registry {
    ($($(#[$comment:meta])* $name:ident => $kind:expr,)*) => {
        /// A kind of bug tracker.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Tracker {
            $($(#[$comment])* $name,)*
        }

        impl Tracker {
            /// Every kind, for a program that offers a choice.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// What is particular to this kind.
            pub fn kind(self) -> &'static dyn TrackerKind {
                match self {
                    $(Self::$name => &$kind,)*
                }
            }
        }
    };
}

registry! {
    /// Trac, with the plugin `countersign_trac` or one that keeps to the same protocol.
    Trac => trac::Trac,
    /// Bugzilla, with the extension `Launchpad`.
    Bugzilla => bugzilla::Bugzilla,
    /// Any tracker behind `countersign gate`.
    Gate => gate::Gate,
}

/// A further parameter of a request: its name and its value.
pub type Parameter = (&'static str, String);

/// One kind of tracker: what a worker sends to it, and how it reads the answers. The trait itself sends nothing, so a login and
/// a check of the tracker's plugin can share it.
///
/// The methods with a default are those of the protocol that `docs/trackers.md` gives to authors of plugins:
/// `GET {tracker}/launchpad-auth/check` is 401 if the plugin is there, and `GET {tracker}/launchpad-auth/{token}` is 200 with
/// the session's cookies, or 401 with a line of text that says why not.
pub trait TrackerKind: Send + Sync {
    /// The name that a user types: lower-case letters.
    fn name(&self) -> &'static str;

    /// The name in a sentence, such as "a Trac".
    fn title(&self) -> &'static str;

    /// What should answer, for an error: a noun with its article.
    fn expected(&self) -> &'static str;

    /// What to do where the plugin is missing: a clause without a full stop.
    fn missing_plugin(&self) -> &'static str;

    /// The name of a cookie that a session needs and that is not among these.
    fn missing_cookie(&self, cookies: &[Cookie]) -> Option<&'static str>;

    /// Which reason a refusal states. A plugin whose words are unknown has refused the token.
    fn refusal(&self, attempt: &LoginAttempt<'_>, said: TrackerMessage) -> LoginError {
        LoginError::Refused { said, audience: attempt.audience.map(str::to_owned) }
    }

    /// A request without a token, which shows whether the plugin is there.
    fn detection_request(&self, base: &Url) -> Result<TrackerRequest, HttpError> {
        request(Method::GET, &below(base, "launchpad-auth/check", &[]))
    }

    /// Whether the whole answer to that request comes from the plugin. It is no redirect.
    fn detect(&self, answer: &TrackerResponse) -> Result<(), LoginError> {
        const PATH: &str = "/launchpad-auth/check";
        let not_the_tracker = |found| Err(LoginError::NotTheTracker { expected: self.expected(), found });
        match answer.status {
            StatusCode::UNAUTHORIZED if answer.asks_for_password() => {
                Err(LoginError::PasswordAsked { path: "/launchpad-auth/" })
            }
            StatusCode::UNAUTHORIZED => Ok(()),
            StatusCode::NOT_FOUND => Err(LoginError::PluginMissing {
                remedy: self.missing_plugin(),
                answer: "HTTP status 404".to_owned(),
            }),
            StatusCode::OK => not_the_tracker(format!(
                "it answers {PATH} with 200, where a plugin that lets nobody in by that name answers 401"
            )),
            other => {
                not_the_tracker(format!("it answers {PATH} with HTTP status {}, not 401", other.as_u16()))
            }
        }
    }

    /// The request that logs in with `token`, which may be any text here, and with `more` parameters that no plugin knows.
    fn login_request(
        &self,
        base: &Url,
        token: &str,
        more: &[Parameter],
    ) -> Result<TrackerRequest, HttpError> {
        request(Method::GET, &below(base, &format!("launchpad-auth/{}", encoded(token)), more))
    }

    /// The session that the answer to a login opens.
    fn session(&self, attempt: &LoginAttempt<'_>, answer: &TrackerResponse) -> Result<Session, LoginError> {
        let said = TrackerMessage::new(&answer.plain_text().unwrap_or_default(), attempt.token);
        match answer.status {
            StatusCode::OK => {
                let user = said.as_str().strip_prefix("Logged in as ").map(str::to_owned);
                attempt.session(answer, user)
            }
            StatusCode::UNAUTHORIZED => Err(self.refusal(attempt, said)),
            other => Err(LoginError::Unexpected { answer: format!("HTTP status {}", other.as_u16()), said }),
        }
    }

    /// A request with a token that only looks, by this HTTP method, and must not use the token up.
    fn look_request(&self, base: &Url, token: &str, method: Method) -> Result<TrackerRequest, HttpError> {
        request(method, &below(base, &format!("launchpad-auth/{}", encoded(token)), &[]))
    }

    /// The same in words.
    fn look_in_words(&self, method: &str) -> String {
        method.to_owned()
    }

    /// What the answer to a login means to a worker.
    fn outcome(&self, answer: &TrackerResponse) -> LoginOutcome {
        match answer.status {
            StatusCode::OK => LoginOutcome::LetIn,
            StatusCode::UNAUTHORIZED => LoginOutcome::Refused,
            other => LoginOutcome::Other(format!("HTTP status {}", other.as_u16())),
        }
    }

    /// Whether the answer looks like a yes to a client of any kind: a redirect after a login is one.
    fn seems_let_in(&self, answer: &TrackerResponse) -> bool {
        answer.status.is_success() || answer.status.is_redirection()
    }

    /// Whether a refusal of a request without a token shows that there is a plugin: a clause that says what it does.
    fn shows_plugin(&self, refusal: &TrackerResponse) -> Result<&'static str, &'static str> {
        if refusal.asks_for_password() {
            Err("it answers 401 because the web server wants a password")
        } else {
            Ok("it answers 401")
        }
    }

    /// The words of a refusal, as they came.
    fn refusal_text(&self, answer: &TrackerResponse) -> String {
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    /// How a tracker refuses a login, in words: it "answered 401".
    fn refuses_by(&self) -> &'static str {
        "answered 401"
    }

    /// The plugin API that Launchpad calls once it is logged in, if this kind has one.
    fn plugin_api(&self) -> Option<&'static dyn PluginApiKind> {
        None
    }
}

/// A login under way, for the one who reads its answer.
pub struct LoginAttempt<'a> {
    /// The kind of tracker.
    pub(crate) tracker: Tracker,
    /// The tracker's base URL.
    pub(crate) base: &'a Url,
    /// The URL that was asked for.
    pub(crate) asked: &'a Url,
    /// What the token is bound to.
    pub(crate) audience: Option<&'a str>,
    /// The token, which no text may repeat.
    pub(crate) token: &'a str,
    /// When the answer came.
    pub(crate) now: Timestamp,
}

/// What the answer to a login means.
#[derive(Debug, Eq, PartialEq)]
pub enum LoginOutcome {
    /// The worker is logged in.
    LetIn,
    /// It is not, and knows that it met the plugin.
    Refused,
    /// Something that a worker does not understand, in words.
    Other(String),
}

impl LoginAttempt<'_> {
    /// The session of an answer that lets the worker in, if its cookies are all there.
    pub(crate) fn session(
        &self,
        answer: &TrackerResponse,
        user: Option<String>,
    ) -> Result<Session, LoginError> {
        let cookies = cookies(&answer.headers, self.asked, self.now);
        match (self.tracker.kind().missing_cookie(&cookies), &answer.broken) {
            (None, _) => Ok(Session { tracker: self.tracker, url: self.base.clone(), user, cookies }),
            (Some(cookie), None) => Err(LoginError::NoSession { cookie }),
            (Some(_), Some(trouble)) => Err(LoginError::AnswerLost { reason: in_words(trouble) }),
        }
    }
}

impl Tracker {
    /// The name that a user types.
    pub fn name(self) -> &'static str {
        self.kind().name()
    }
}

impl fmt::Display for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Tracker {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for Tracker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || match Self::ALL.map(Self::name).split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        };
        Self::ALL
            .into_iter()
            .find(|tracker| tracker.name() == text)
            .ok_or_else(|| format!("{text:?} is not a kind of bug tracker; there are {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TOKEN: &str = "cs1token";

    /// The rules for each kind, independent of its protocol.
    #[test]
    fn every_kind_sends_the_token_only_to_the_login() {
        let base: Url = "https://bugs.example.org/base/".parse().unwrap();
        for tracker in Tracker::ALL {
            let kind = tracker.kind();
            let whole = |request: TrackerRequest| {
                let body = String::from_utf8(request.body().to_vec()).unwrap();
                (request.uri().to_string(), format!("{} {body}", request.uri()))
            };
            let (asked, detection) = whole(kind.detection_request(&base).unwrap());
            assert!(asked.starts_with("https://bugs.example.org/base/"), "{tracker}: {asked}");
            assert!(!detection.contains(TOKEN), "{tracker}: {detection}");
            let (asked, login) = whole(kind.login_request(&base, TOKEN, &[]).unwrap());
            assert!(asked.starts_with("https://bugs.example.org/base/"), "{tracker}: {asked}");
            assert_eq!(login.matches(TOKEN).count(), 1, "{tracker}: {login}");
            let (_, strange) = whole(kind.login_request(&base, "../x?y#z", &[]).unwrap());
            assert!(strange.contains("/base/"), "{tracker}: a token must stay in its place: {strange}");
            for method in ["GET", "HEAD", "POST"] {
                let look = kind.look_request(&base, TOKEN, method.parse().unwrap()).unwrap();
                assert!(kind.look_in_words(method).starts_with(look.method().as_str()), "{tracker}");
            }
        }
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for tracker in Tracker::ALL {
            assert_eq!(tracker.name().parse(), Ok(tracker));
            assert!(tracker.name().bytes().all(|byte| byte.is_ascii_lowercase()), "{tracker}");
        }
        assert_eq!(
            Tracker::ALL.map(Tracker::name).into_iter().collect::<BTreeSet<_>>().len(),
            Tracker::ALL.len()
        );
        let error = "jira".parse::<Tracker>().unwrap_err();
        assert!(
            error.starts_with("\"jira\" is not a kind of bug tracker; there are trac, bugzilla"),
            "{error}"
        );
    }
}
