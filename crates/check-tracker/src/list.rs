//! All checks, in the order in which they are made and shown. To add one, add it here.
//!
//! A check says what the worker brings and what the issuer answers, step by step, and which function of [`crate::judge`]
//! looks at the outcome. `docs/trackers.md` has a row for each; a test sees to that.

use crate::check::Bring::{Look, Nothing, SameToken};
use crate::check::Reply::{Cut, LongBody, Redirect, Silent, Status};
use crate::check::Weight::{Must, Should};
use crate::check::With::{ChosenCookies, CookiesOfBefore, Header};
use crate::check::{Check, Step, YES};
use crate::judge;

const ACCEPTED: &[Step] = &[Step::login(&[YES])];

const REFUSED: &[Step] = &[
    Step::login(&[Status(401), YES]),
    Step::login(&[Status(403), YES]),
    Step::login(&[Status(404), YES]),
    Step::login(&[Status(410), YES]),
    Step::login(&[Status(429), YES]),
];

const DOWN: &[Step] = &[Step::login(&[Cut]), Step::login(&[Status(500)]), Step::login(&[Status(503)])];

/// Every check.
pub const CHECKS: &[Check] = &[
    Check {
        name: "detection",
        rule: "Show that you are there: answer 401 to launchpad-auth/check (Bugzilla: a fault to a call without a token), \
               and do not ask the issuer.",
        weight: Must,
        steps: &[Step::login(&[YES]).bringing(Nothing)],
        judge: judge::detection,
    },
    Check {
        name: "login",
        rule: "Ask the issuer, and if it answers 200, answer 200 yourself and set a session cookie.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::login,
    },
    Check {
        name: "asks-with-post",
        rule: "Ask with POST. Other methods never consume a token, so do not try one first.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::asks_with_post,
    },
    Check {
        name: "asks-configured-url",
        rule: "Ask at the configured URL, with nothing changed but %s for the token.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::asks_configured_url,
    },
    Check {
        name: "asks-once",
        rule: "Ask one question for one login: the first 200 has used the token up.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::asks_once,
    },
    Check {
        name: "asks-every-time",
        rule: "Ask for every login. Remember no token as good: that it works once is the whole point.",
        weight: Must,
        steps: &[Step::login(&[YES]), Step::login(&[Status(401)]).bringing(SameToken)],
        judge: judge::asks_every_time,
    },
    Check {
        name: "token-not-elsewhere",
        rule: "Put the token into the path of the configured URL and nowhere else: no query, header, body or cookie.",
        weight: Must,
        steps: &[Step::login(&[YES]), Step::login(&[Status(401)])],
        judge: judge::token_not_elsewhere,
    },
    Check {
        name: "only-200",
        rule: "Take exactly HTTP 200 for a yes, and everything else for a no.",
        weight: Must,
        steps: &[
            Step::login(&[Status(201)]),
            Step::login(&[Status(202)]),
            Step::login(&[Status(203)]),
            Step::login(&[Status(204)]),
            Step::login(&[Status(206)]),
            Step::login(&[Status(302)]),
            Step::login(&[Status(304)]),
            Step::login(&[Status(401)]),
            Step::login(&[Status(403)]),
            Step::login(&[Status(404)]),
            Step::login(&[Status(405)]),
            Step::login(&[Status(410)]),
            Step::login(&[Status(429)]),
            Step::login(&[Status(500)]),
            Step::login(&[Status(503)]),
        ],
        judge: judge::only_200,
    },
    Check {
        name: "no-redirects",
        rule: "Follow no redirect of the issuer: a token goes to the configured URL only.",
        weight: Must,
        steps: &[
            Step::login(&[Redirect(301)]),
            Step::login(&[Redirect(302)]),
            Step::login(&[Redirect(303)]),
            Step::login(&[Redirect(307)]),
            Step::login(&[Redirect(308)]),
        ],
        judge: judge::no_redirects,
    },
    Check {
        name: "token-syntax",
        rule: "Refuse, without asking the issuer, every token that is not ASCII letters and digits from its first \
               character to its last.",
        weight: Must,
        steps: &[
            Step::text("../+index"),
            Step::text("..%2f+index"),
            Step::text("a/b"),
            Step::text("a.b"),
            Step::text("a?b"),
            Step::text("a#b"),
            Step::text("a b"),
            Step::text("a@b"),
            Step::text("a%62"),
            Step::text("a\n"),
            Step::text("\u{e9}"),
            // Digits to Unicode, and so to many a regular expression's \d and \w.
            Step::text("\u{663}\u{664}"),
        ],
        judge: judge::token_syntax,
    },
    Check {
        name: "looking-is-free",
        rule: "Do not ask the issuer unless it is a login: not for HEAD, nor for another interface's GET.",
        weight: Must,
        steps: &[Step::login(&[YES]).bringing(Look)],
        judge: judge::looking_is_free,
    },
    Check {
        name: "audience",
        rule: "State the tracker's own base URL as the form field audience, so that nobody can bring you a token that \
               was made for another tracker.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::audience,
    },
    Check {
        name: "audience-is-configured",
        rule: "Take the audience from your configuration, never from the request: no Host, no Forwarded header.",
        weight: Must,
        steps: &[
            Step::login(&[YES]),
            Step::login(&[YES]).with(Header("host", "forged.example")),
            Step::login(&[YES]).with(Header("x-forwarded-host", "forged.example")),
            Step::login(&[YES]).with(Header("x-forwarded-proto", "gopher")),
            Step::login(&[YES]).with(Header("x-forwarded-prefix", "/forged")),
            Step::login(&[YES]).with(Header("forwarded", "host=forged.example;proto=https")),
        ],
        judge: judge::audience_is_configured,
    },
    Check {
        name: "idempotency-key",
        rule: "Send an Idempotency-Key of at least 16 random characters, so that asking again after a lost answer is safe.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::idempotency_key,
    },
    Check {
        name: "key-per-login",
        rule: "Make a new random Idempotency-Key for each login, also for a token you have seen: with the old key a used \
               token is accepted again.",
        weight: Must,
        steps: &[Step::login(&[YES]), Step::login(&[YES]), Step::login(&[YES]).bringing(SameToken)],
        judge: judge::key_per_login,
    },
    Check {
        name: "key-on-retry",
        rule: "If you ask again after a lost answer, ask the same: the same Idempotency-Key, the same audience.",
        weight: Must,
        steps: &[Step::login(&[Cut, YES]), Step::login(&[Status(503), YES])],
        judge: judge::key_on_retry,
    },
    Check {
        name: "lost-answer",
        rule: "If the connection breaks before the answer, ask once more: the token may be used up already.",
        weight: Should,
        steps: &[Step::login(&[Cut, YES])],
        judge: judge::lost_answer,
    },
    Check {
        name: "refusal-is-final",
        rule: "Do not ask again after an answer from 400 to 499.",
        weight: Must,
        steps: REFUSED,
        judge: judge::refusal_is_final,
    },
    Check {
        name: "stops-asking",
        rule: "Give up after three questions at most when the issuer gives no answer.",
        weight: Must,
        steps: DOWN,
        judge: judge::stops_asking,
    },
    Check {
        name: "refusal-answer",
        rule: "Answer 401 (Bugzilla: a fault) when the issuer refuses, whatever its reason.",
        weight: Must,
        steps: REFUSED,
        judge: judge::refused,
    },
    Check {
        name: "issuer-down",
        rule: "Answer 401 (Bugzilla: a fault) when the issuer cannot be asked: by this the \
               worker knows that there is a plugin.",
        weight: Must,
        steps: DOWN,
        judge: judge::refused,
    },
    Check {
        name: "issuer-silent",
        rule: "Wait for the issuer a limited time, such as five seconds, and answer 401 (Bugzilla: a fault) after it.",
        weight: Must,
        steps: &[Step::login(&[Silent])],
        judge: judge::refused,
    },
    Check {
        name: "new-session",
        rule: "Open a new session for each login, whatever cookies come along.",
        weight: Must,
        steps: &[Step::login(&[YES]), Step::login(&[YES]), Step::login(&[YES]).with(CookiesOfBefore)],
        judge: judge::session::new_session,
    },
    Check {
        name: "no-fixation",
        rule: "Make up the session's cookie yourself: never adopt one that the caller sent.",
        weight: Must,
        steps: &[Step::login(&[YES]), Step::login(&[YES]).with(ChosenCookies)],
        judge: judge::session::no_fixation,
    },
    Check {
        name: "cookie-http-only",
        rule: "Set the session cookie with HttpOnly, so that no script can read it.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::session::cookie_http_only,
    },
    Check {
        name: "cookie-secure",
        rule: "Set the session cookie with Secure if the tracker's URL is https.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::session::cookie_secure,
    },
    Check {
        name: "cookie-scope",
        rule: "Set the session cookie for the tracker's own path and host: neither for more, nor for launchpad-auth alone.",
        weight: Must,
        steps: ACCEPTED,
        judge: judge::session::cookie_scope,
    },
    Check {
        name: "short-read",
        rule: "Read no more of the issuer's answer than you need. The status is enough.",
        weight: Should,
        steps: &[Step::login(&[LongBody])],
        judge: judge::short_read,
    },
];
