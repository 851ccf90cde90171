//! Any tracker behind `countersign gate`, which answers in its place.

use crate::error::TrackerMessage;
use crate::trackers::{LoginAttempt, TrackerKind};
use crate::{Cookie, LoginError};

/// How every name of the session's cookie ends; `__Host-` or `__Secure-` may stand before it.
const COOKIE: &str = "countersign_gate";

pub(super) struct Gate;

impl TrackerKind for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn title(&self) -> &'static str {
        "gate"
    }

    fn expected(&self) -> &'static str {
        "a tracker behind a countersign gate"
    }

    fn missing_plugin(&self) -> &'static str {
        "there is no gate at that URL: run `countersign gate` beside that tracker and let the reverse proxy pass \
         /launchpad-auth on to it, or give the base URL of another"
    }

    /// The tracker itself may set cookies too; those are no login.
    fn missing_cookie(&self, cookies: &[Cookie]) -> Option<&'static str> {
        if cookies.iter().any(|cookie| cookie.name.ends_with(COOKIE)) { None } else { Some(COOKIE) }
    }

    /// The first words of the gate's sentence give the reason.
    fn refusal(&self, attempt: &LoginAttempt<'_>, said: TrackerMessage) -> LoginError {
        let begins = |start| said.as_str().starts_with(start);
        if begins("The issuer could not be asked") {
            LoginError::IssuerUnreachable { said }
        } else if begins("The issuer's answer was not understood") {
            LoginError::NotConfigured { said }
        } else if begins("That is not a login token") || begins("Another site sent") {
            LoginError::Unexpected { answer: "HTTP status 401".to_owned(), said }
        } else {
            LoginError::Refused { said, audience: attempt.audience.map(str::to_owned) }
        }
    }
}
