//! All checks, in the order in which they are made and shown. To add one, add it here.
//!
//! A check says what the worker brings and what the issuer answers, step by step, and which function of [`crate::judge`]
//! looks at the outcome. `docs/trackers.md` has a row for each, which a test checks.

use crate::check::Check;
use crate::check::CheckKind::Watch;
use crate::check::Weight::{Must, Should};
use crate::judge;
use crate::step::Credential::{Look, Nothing, SameToken};
use crate::step::ForgedOrigin::{Cookies, Forwarded, Host, Port, Query, Url};
use crate::step::IssuerScheme::{Http, SelfSigned};
use crate::step::Reply::{Continue, Cut, Drip, LongBody, Raw, Redirect, Silent, Status};
use crate::step::RequestExtra::{ChosenCookies, CookiesOfBefore, Header};
use crate::step::{ForgedOrigin, Part, RequestExtra, Step, YES};

const ACCEPTED: &[Step] = &[Step::login(&[YES])];

const REFUSED: &[Step] = &[
    Step::login(&[Status(401), YES]),
    Step::login(&[Status(403), YES]),
    Step::login(&[Status(404), YES]),
    Step::login(&[Status(410), YES]),
    Step::login(&[Status(429), YES]),
];

const DOWN: &[Step] = &[Step::login(&[Cut]), Step::login(&[Status(500)]), Step::login(&[Status(503)])];

/// A worker that does nothing but to claim that issuer and tracker are elsewhere. The tracker's own issuer refuses.
const fn claiming(claim: ForgedOrigin) -> Step {
    Step::login(&[Status(401)]).with(RequestExtra::Claim(claim))
}

/// A request that only looks.
const fn looking(method: &'static str) -> Step {
    Step::login(&[YES]).bringing(Look(method))
}

const CLAIMS: [Step; 13] = [
    claiming(Host("host")),
    claiming(Host("x-forwarded-host")),
    claiming(Host("x-forwarded-server")),
    claiming(Host("x-original-host")),
    claiming(Host("x-host")),
    claiming(Host("x-http-host-override")),
    claiming(Port("x-forwarded-port")),
    claiming(Forwarded),
    claiming(Url("referer")),
    claiming(Url("origin")),
    claiming(Url("x-original-url")),
    claiming(Cookies),
    claiming(Query),
];

/// The same, after a login without a claim and with headers that say something else of the tracker.
#[expect(clippy::indexing_slicing, reason = "a constant with a wrong index does not compile")]
const AUDIENCES: &[Step] = &{
    let mut steps = [Step::login(&[YES]); CLAIMS.len() + 4];
    steps[1] = Step::login(&[Status(401)]).with(Header("x-forwarded-proto", "gopher"));
    steps[2] = Step::login(&[Status(401)]).with(Header("x-forwarded-prefix", "/forged"));
    steps[3] = Step::login(&[Status(401)]).with(Header("x-script-name", "/forged"));
    let mut next = 0;
    while next < CLAIMS.len() {
        steps[next + 4] = CLAIMS[next];
        next += 1;
    }
    steps
};

/// Every check.
pub const CHECKS: &[Check] = &[
    Check {
        name: "detection",
        rule: "Show that you are there: answer 401 to launchpad-auth/check (Bugzilla: a fault to a call without a token), \
               and do not ask the issuer.",
        risk: "The issuer takes the tracker for one without a plugin, and never logs in.",
        weight: Must,
        how: Watch { over: Http, steps: &[Step::login(&[YES]).bringing(Nothing)], judge: judge::detection },
    },
    Check {
        name: "login",
        rule: "Ask the issuer, and if it answers 200, answer 200 yourself and set a session cookie.",
        risk: "Nobody can log in, or everybody can.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::login },
    },
    Check {
        name: "asks-with-post",
        rule: "Ask with POST. Other methods never consume a token, so do not try one first.",
        risk: "The issuer answers 405, and nobody can log in.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::asks_with_post },
    },
    Check {
        name: "asks-configured-url",
        rule: "Ask at the configured URL, with nothing changed but %s for the token.",
        risk: "An issuer does not know the URL, or the token ends up in its logs.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::asks_configured_url },
    },
    Check {
        name: "issuer-is-configured",
        rule: "Take the issuer's address from your configuration, never from the request: from no header, no cookie, no \
               parameter.",
        risk: "Anybody is logged in who brings a token of his own making and says yes to it himself.",
        weight: Must,
        how: Watch { over: Http, steps: &CLAIMS, judge: judge::issuer_is_configured },
    },
    Check {
        name: "verifies-certificate",
        rule: "Verify the issuer's certificate and the name in it, and ask nothing before.",
        risk: "An attacker between the tracker and the issuer can accept tokens in its place, and log in.",
        weight: Must,
        how: Watch { over: SelfSigned, steps: ACCEPTED, judge: judge::verifies_certificate },
    },
    Check {
        name: "asks-once",
        rule: "Ask one question for one login: the first 200 has used the token up.",
        risk: "The second request is a replay, which the issuer refuses: nobody can log in.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::asks_once },
    },
    Check {
        name: "asks-every-time",
        rule: "Ask for every login. Remember no token as good: that it works once is the whole point.",
        risk: "Anyone who has seen a token can log in with it again.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[YES]), Step::login(&[Status(401)]).bringing(SameToken)],
            judge: judge::asks_every_time,
        },
    },
    Check {
        name: "token-not-elsewhere",
        rule: "Put the token into the path of the configured URL and nowhere else: no query, header, body or cookie.",
        risk: "The token ends up in logs, and whoever reads those can log in with it while it lives.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[YES]), Step::login(&[Status(401)])],
            judge: judge::token_not_elsewhere,
        },
    },
    Check {
        name: "only-200",
        rule: "Take exactly HTTP 200 for a yes, and everything else for a no, whatever the body says.",
        risk: "A token that was refused logs in: it may be used up, revoked, or made up by anybody.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                Step::login(&[Status(201)]),
                Step::login(&[Status(202)]),
                Step::login(&[Status(203)]),
                Step::login(&[Status(204)]),
                Step::login(&[Status(205)]),
                Step::login(&[Status(206)]),
                Step::login(&[Status(299)]),
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
                Step::login(&[Raw("200 OK\r\n\r\n")]),
                Step::login(&[Raw("HTTP/1.1 2000 OK\r\n\r\n")]),
            ],
            judge: judge::only_200,
        },
    },
    Check {
        name: "no-redirects",
        rule: "Follow no redirect of the issuer: a token goes to the configured URL only.",
        risk: "An attacker who can make the issuer redirect, or stands in for it for a moment, gets the tokens or accepts them.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                Step::login(&[Redirect(301)]),
                Step::login(&[Redirect(302)]),
                Step::login(&[Redirect(303)]),
                Step::login(&[Redirect(307)]),
                Step::login(&[Redirect(308)]),
            ],
            judge: judge::no_redirects,
        },
    },
    Check {
        name: "token-syntax",
        rule: "Refuse, without asking the issuer, every token that is not ASCII letters and digits from its first \
               character to its last.",
        risk: "A made-up token becomes the URL of another page of the issuer, and if that answers 200, anybody is logged in.",
        weight: Must,
        how: Watch {
            over: Http,
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
    },
    Check {
        name: "looking-is-free",
        rule: "Ask the issuer for a login only, which is a GET (Bugzilla: the XML-RPC method): not for HEAD, POST or another \
               interface's GET, nor for a page that is loaded in advance (Sec-Purpose: prefetch).",
        risk: "A proxy, a link checker or a browser uses the token up before the worker comes with it.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                looking("HEAD"),
                looking("POST"),
                looking("PUT"),
                looking("OPTIONS"),
                looking("GET").with(Header("sec-purpose", "prefetch")),
                looking("GET").with(Header("sec-purpose", "prefetch;prerender")),
                looking("GET").with(Header("purpose", "prefetch")),
                looking("GET").with(Header("x-purpose", "preview")),
                looking("GET").with(Header("x-moz", "prefetch")),
            ],
            judge: judge::looking_is_free,
        },
    },
    Check {
        name: "audience",
        rule: "State the tracker's own base URL as the form field audience, so that nobody can bring you a token that \
               was made for another tracker.",
        risk: "Another tracker that is given a token can bring it here, and be the issuer.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::audience },
    },
    Check {
        name: "audience-is-configured",
        rule: "Take the audience from your configuration, never from the request: from no header, no cookie, no \
               parameter.",
        risk: "Another tracker has this one state its name, and is the issuer here with a token of its own.",
        weight: Must,
        how: Watch { over: Http, steps: AUDIENCES, judge: judge::audience_is_configured },
    },
    Check {
        name: "idempotency-key",
        rule: "Send an Idempotency-Key of at least 16 random characters, so that asking again after a lost answer is safe.",
        risk: "If the first answer is lost, the token is used up and nobody is logged in.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::idempotency_key },
    },
    Check {
        name: "key-per-login",
        rule: "Make a new random Idempotency-Key for each login, also for a token you have seen: with the old key a used \
               token is accepted again.",
        risk: "Anyone who brings a used token within a minute is logged in.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[YES]), Step::login(&[YES]), Step::login(&[YES]).bringing(SameToken)],
            judge: judge::key_per_login,
        },
    },
    Check {
        name: "key-on-retry",
        rule: "If you ask again after a lost answer, ask the same: the same Idempotency-Key, the same audience.",
        risk: "The issuer takes the second question for a replay and refuses it.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[Cut, YES]), Step::login(&[Status(503), YES])],
            judge: judge::key_on_retry,
        },
    },
    Check {
        name: "lost-answer",
        rule: "If the connection breaks before the answer, ask once more: the token may be used up already.",
        risk: "One lost answer is a login that failed.",
        weight: Should,
        how: Watch { over: Http, steps: &[Step::login(&[Cut, YES])], judge: judge::lost_answer },
    },
    Check {
        name: "refusal-is-final",
        rule: "Do not ask again after an answer from 400 to 499.",
        risk: "Each attempt counts as a replay, and the issuer stops answering this tracker for a while.",
        weight: Must,
        how: Watch { over: Http, steps: REFUSED, judge: judge::refusal_is_final },
    },
    Check {
        name: "stops-asking",
        rule: "Give up after three questions at most when the issuer gives no answer.",
        risk: "An issuer that is down is asked all the more, and the worker waits.",
        weight: Must,
        how: Watch { over: Http, steps: DOWN, judge: judge::stops_asking },
    },
    Check {
        name: "refusal-answer",
        rule: "Answer 401 (Bugzilla: a fault) when the issuer refuses, whatever its reason.",
        risk: "The issuer takes the tracker for one without a plugin.",
        weight: Must,
        how: Watch { over: Http, steps: REFUSED, judge: judge::refused },
    },
    Check {
        name: "issuer-down",
        rule: "Answer 401 (Bugzilla: a fault) when the issuer cannot be asked: by this the \
               worker knows that there is a plugin.",
        risk: "The issuer takes the tracker for one without a plugin, and does not come back.",
        weight: Must,
        how: Watch { over: Http, steps: DOWN, judge: judge::refused },
    },
    Check {
        name: "issuer-silent",
        rule: "Wait for the issuer a limited time, such as five seconds, and answer 401 (Bugzilla: a fault) after it.",
        risk: "A few logins hold all of the tracker's workers, and it answers nobody.",
        weight: Must,
        how: Watch { over: Http, steps: &[Step::login(&[Silent])], judge: judge::refused },
    },
    Check {
        name: "issuer-slow",
        rule: "Limit the time for the whole question, not for each wait, and refuse what is not answered by then.",
        risk: "An issuer that sends a byte now and then holds a worker of the tracker for as long as it likes.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                Step::login(&[Drip(Part::StatusLine)]),
                Step::login(&[Drip(Part::Headers)]),
                Step::login(&[Drip(Part::Body)]),
                Step::login(&[Continue]),
            ],
            judge: judge::issuer_slow,
        },
    },
    Check {
        name: "no-session-on-refusal",
        rule: "Set the session's cookies after a yes of the issuer, and at no other time.",
        risk: "A refused user may still be logged in.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                Step::login(&[YES]),
                Step::login(&[Status(401)]),
                Step::login(&[Status(404)]),
                Step::login(&[Status(503)]),
                Step::login(&[Cut]),
                Step::text("a.b"),
                Step::login(&[YES]).bringing(Nothing),
            ],
            judge: judge::session::no_session_on_refusal,
        },
    },
    Check {
        name: "session-unguessable",
        rule: "Make the session's cookie of 128 random bits (fewer than 56 fail), and of nothing that others know: not of the \
               token, the time or a counter.",
        risk: "Anybody is logged in who guesses the cookie.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]),
                Step::login(&[YES]).bringing(SameToken),
            ],
            judge: judge::session::session_unguessable,
        },
    },
    Check {
        name: "new-session",
        rule: "Open a new session for each login, whatever cookies come along.",
        risk: "The session of one login belongs to another one, too.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[YES]), Step::login(&[YES]), Step::login(&[YES]).with(CookiesOfBefore)],
            judge: judge::session::new_session,
        },
    },
    Check {
        name: "no-fixation",
        rule: "Make up the session's cookie yourself: never adopt one that the caller sent.",
        risk: "An attacker who chose the cookie has the session.",
        weight: Must,
        how: Watch {
            over: Http,
            steps: &[Step::login(&[YES]), Step::login(&[YES]).with(ChosenCookies)],
            judge: judge::session::no_fixation,
        },
    },
    Check {
        name: "cookie-http-only",
        rule: "Set the session cookie with HttpOnly, so that no script can read it.",
        risk: "A script in a comment can read the session.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::session::cookie_http_only },
    },
    Check {
        name: "cookie-secure",
        rule: "Set the session cookie with Secure if the tracker's URL is https.",
        risk: "An attacker who sees one plain http request has the session.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::session::cookie_secure },
    },
    Check {
        name: "cookie-scope",
        rule: "Set the session cookie for the tracker's own path and host: neither for more, nor for launchpad-auth alone.",
        risk: "Other programs on the same host get the session, or the tracker's own pages do not.",
        weight: Must,
        how: Watch { over: Http, steps: ACCEPTED, judge: judge::session::cookie_scope },
    },
    Check {
        name: "short-read",
        rule: "Read no more of the issuer's answer than you need. The status is enough.",
        risk: "An issuer with an answer without end fills the tracker's memory.",
        weight: Should,
        how: Watch { over: Http, steps: &[Step::login(&[LongBody])], judge: judge::short_read },
    },
];
