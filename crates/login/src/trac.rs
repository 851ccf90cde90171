//! Trac with the plugin `countersign_trac`, or another that answers as `launchpad-auth` always has.
//!
//! `GET {trac}/launchpad-auth/check` is 401 exactly if the plugin is there; `GET {trac}/launchpad-auth/{token}` is 200 with
//! the cookie `trac_auth`, or 401 with a line of text that says why not.

use http::StatusCode;

use crate::error::TrackerMessage;
use crate::http::HttpError;
use crate::session::cookies;
use crate::tracker::LoginContext;
use crate::{LoginError, Session, Tracker};

pub(crate) const PATH: &str = "launchpad-auth";
pub(crate) const CHECK: &str = "check";
const SUFFIX: &str = "/launchpad-auth/check";
const COOKIE: &str = "trac_auth";

const EXPECTED: &str = "a Trac with the plugin for login by token";
const NO_PLUGIN: &str = "there is no plugin for login by token at that URL: install and enable countersign_trac in that \
                         Trac, or give the base URL of another";

pub(crate) async fn detect(visit: &LoginContext<'_>) -> Result<(), LoginError> {
    let url = visit.below(&[PATH, CHECK]);
    let answer = visit.http.get(&url).await?.whole()?;
    if let Some(redirect) = answer.redirect(&url, SUFFIX) {
        return Err(redirect);
    }
    match answer.status {
        StatusCode::UNAUTHORIZED if answer.asks_for_password() => {
            Err(LoginError::PasswordAsked { path: "/launchpad-auth/" })
        }
        StatusCode::UNAUTHORIZED => Ok(()),
        StatusCode::NOT_FOUND => {
            Err(LoginError::PluginMissing { remedy: NO_PLUGIN, answer: "HTTP status 404".to_owned() })
        }
        StatusCode::OK => Err(LoginError::NotTheTracker {
            expected: EXPECTED,
            found: format!(
                "it answers {SUFFIX} with 200, where a plugin that lets nobody in by that name answers 401"
            ),
        }),
        other => Err(LoginError::NotTheTracker {
            expected: EXPECTED,
            found: format!("it answers {SUFFIX} with HTTP status {}, not 401", other.as_u16()),
        }),
    }
}

pub(crate) async fn log_in(visit: &LoginContext<'_>, token: &str) -> Result<Session, LoginError> {
    let url = visit.below(&[PATH, token]);
    let answer = visit.http.get(&url).await.map_err(HttpError::with_token)?;
    let said = TrackerMessage::new(&answer.plain_text().unwrap_or_default(), token);
    match answer.status {
        StatusCode::OK => {
            let cookies = cookies(&answer.headers, &url, visit.now);
            // Another tracker with Trac's way in calls its session what it likes, but `trac_session` is nobody's login.
            if !cookies.iter().any(|cookie| cookie.name == COOKIE || !cookie.name.starts_with("trac_")) {
                return Err(match answer.broken {
                    None => LoginError::NoSession { cookie: COOKIE },
                    Some(reason) => LoginError::AnswerLost { reason },
                });
            }
            let user = said.as_str().strip_prefix("Logged in as ").map(str::to_owned);
            Ok(Session { tracker: Tracker::Trac, url: visit.base.clone(), user, cookies })
        }
        StatusCode::UNAUTHORIZED => Err(refusal(visit, said)),
        other => Err(LoginError::Unexpected { answer: format!("HTTP status {}", other.as_u16()), said }),
    }
}

/// Which of the reasons for a 401 it is, by how the plugin begins its sentence. An older plugin's words are not known;
/// there 401 means that the token was refused.
fn refusal(visit: &LoginContext<'_>, said: TrackerMessage) -> LoginError {
    let begins = |start| said.as_str().starts_with(start);
    if begins("The issuer could not be reached") || begins("The issuer cannot answer") {
        LoginError::IssuerUnreachable { said }
    } else if begins("Login by token is not configured") || said.as_str().contains("may name the wrong URL") {
        LoginError::NotConfigured { said }
    } else if begins("The web server has already logged you in") || begins("That is not a login token") {
        LoginError::Unexpected { answer: "HTTP status 401".to_owned(), said }
    } else {
        LoginError::Refused { said, audience: visit.audience.map(str::to_owned) }
    }
}
