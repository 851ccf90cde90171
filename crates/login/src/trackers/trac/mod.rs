//! Trac with the plugin `countersign_trac`, or another that answers as `launchpad-auth` always has.

mod api;

use crate::api::PluginApiKind;
use crate::error::TrackerMessage;
use crate::trackers::{LoginAttempt, TrackerKind};
use crate::{Cookie, LoginError};

const COOKIE: &str = "trac_auth";

pub(super) struct Trac;

impl TrackerKind for Trac {
    fn name(&self) -> &'static str {
        "trac"
    }

    fn title(&self) -> &'static str {
        "Trac"
    }

    fn expected(&self) -> &'static str {
        "a Trac with the plugin for login by token"
    }

    fn missing_plugin(&self) -> &'static str {
        "there is no plugin for login by token at that URL: install and enable countersign_trac in that Trac, or give the \
         base URL of another"
    }

    /// Another tracker with Trac's login path may choose the cookie's name, but `trac_session` is never a login.
    fn missing_cookie(&self, cookies: &[Cookie]) -> Option<&'static str> {
        let is_session = |cookie: &Cookie| cookie.name == COOKIE || !cookie.name.starts_with("trac_");
        if cookies.iter().any(is_session) { None } else { Some(COOKIE) }
    }

    /// The first words of the plugin's sentence give the reason.
    fn refusal(&self, attempt: &LoginAttempt<'_>, said: TrackerMessage) -> LoginError {
        let begins = |start| said.as_str().starts_with(start);
        if begins("The issuer could not be reached") || begins("The issuer cannot answer") {
            LoginError::IssuerUnreachable { said }
        } else if begins("Login by token is not configured")
            || said.as_str().contains("may name the wrong URL")
        {
            LoginError::NotConfigured { said }
        } else if begins("The web server has already logged you in") || begins("That is not a login token") {
            LoginError::Unexpected { answer: "HTTP status 401".to_owned(), said }
        } else {
            LoginError::Refused { said, audience: attempt.audience.map(str::to_owned) }
        }
    }

    fn plugin_api(&self) -> Option<&'static dyn PluginApiKind> {
        Some(&api::TracApi)
    }
}
