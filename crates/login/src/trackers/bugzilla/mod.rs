//! Bugzilla with the extension `Launchpad`: the XML-RPC method `Launchpad.login({token})` at `{bugzilla}/xmlrpc.cgi`.

mod api;

use countersign_http_client::HttpError;
use countersign_xmlrpc::{CallOutcome, ResponseValue};
use dxr::Value as Argument;
use http::{Method, StatusCode};
use url::Url;

use crate::api::PluginApiKind;
use crate::error::TrackerMessage;
use crate::http::{TrackerRequest, TrackerResponse, below, call, in_words, request};
use crate::trackers::{LoginAttempt, LoginOutcome, Parameter, TrackerKind};
use crate::{Cookie, LoginError, Session};

const ENDPOINT: &str = "xmlrpc.cgi";
const PATH: &str = "/xmlrpc.cgi";
const METHOD: &str = "Launchpad.login";
const COOKIES: [&str; 2] = ["Bugzilla_login", "Bugzilla_logincookie"];

const NO_ENDPOINT: &str = "there is no xmlrpc.cgi at that URL: give the base URL of a Bugzilla, or have its administrator \
                           install SOAP::Lite and XMLRPC::Lite";

/// What Bugzilla, or the Perl library below it, answers when there is no such method.
const NO_SUCH_METHOD: &[&str] = &["-32601", "Client"];

pub(super) struct Bugzilla;

impl TrackerKind for Bugzilla {
    fn name(&self) -> &'static str {
        "bugzilla"
    }

    fn title(&self) -> &'static str {
        "Bugzilla"
    }

    fn expected(&self) -> &'static str {
        "a Bugzilla with the extension Launchpad"
    }

    fn missing_plugin(&self) -> &'static str {
        "this Bugzilla has no method Launchpad.login: its administrator must install the extension Launchpad"
    }

    fn missing_cookie(&self, cookies: &[Cookie]) -> Option<&'static str> {
        COOKIES.into_iter().find(|name| !cookies.iter().any(|cookie| cookie.name == *name))
    }

    /// Calls the method without a token: the extension objects to that, before it asks any issuer.
    fn detection_request(&self, base: &Url) -> Result<TrackerRequest, HttpError> {
        call(&below(base, ENDPOINT, &[]), METHOD, vec![Argument::Struct([].into())])
    }

    fn detect(&self, answer: &TrackerResponse) -> Result<(), LoginError> {
        let not_the_tracker = |found| Err(LoginError::NotTheTracker { expected: self.expected(), found });
        let missing = |remedy, answer| Err(LoginError::PluginMissing { remedy, answer });
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return missing(NO_ENDPOINT, "HTTP status 404".to_owned()),
            StatusCode::UNAUTHORIZED => return Err(LoginError::PasswordAsked { path: PATH }),
            other => {
                return not_the_tracker(format!(
                    "it answers {PATH} with HTTP status {}, not 200",
                    other.as_u16()
                ));
            }
        }
        match answer.xml_rpc() {
            Some(CallOutcome::Fault { code, .. }) if NO_SUCH_METHOD.contains(&code.as_str()) => {
                missing(self.missing_plugin(), format!("fault {code}"))
            }
            Some(CallOutcome::Fault { code, .. }) if is_of_an_extension(&code) => Ok(()),
            Some(CallOutcome::Fault { code, text }) => {
                let fault = TrackerMessage::new(&format!("{code}, {text}"), "");
                not_the_tracker(format!("it answers {METHOD} with fault {}", fault.as_str()))
            }
            Some(CallOutcome::Returned(_)) => {
                not_the_tracker(format!("it lets everybody in who calls {METHOD}"))
            }
            None => not_the_tracker(format!(
                "it answers {PATH} with something else than XML-RPC, as a Bugzilla without SOAP::Lite and XMLRPC::Lite does"
            )),
        }
    }

    /// Further parameters are in the query and, with the same names, in the call's struct.
    fn login_request(
        &self,
        base: &Url,
        token: &str,
        more: &[Parameter],
    ) -> Result<TrackerRequest, HttpError> {
        let members = more.iter().map(|(name, value)| (*name, value.as_str())).chain([("token", token)]);
        let members = members.map(|(name, value)| (name.to_owned(), Argument::String(value.to_owned())));
        call(&below(base, ENDPOINT, more), METHOD, vec![Argument::Struct(members.collect())])
    }

    fn session(&self, attempt: &LoginAttempt<'_>, answer: &TrackerResponse) -> Result<Session, LoginError> {
        let unexpected = |answer, said| LoginError::Unexpected { answer, said };
        if answer.status != StatusCode::OK {
            let status = format!("HTTP status {}", answer.status.as_u16());
            return Err(unexpected(status, TrackerMessage::default()));
        }
        match answer.xml_rpc() {
            Some(CallOutcome::Returned(value)) => {
                let user = value.member("user_id").and_then(ResponseValue::to_text);
                let user = user.map(|id| TrackerMessage::new(&id, "").as_str().to_owned());
                attempt.session(answer, user)
            }
            Some(CallOutcome::Fault { code, text }) => {
                Err(fault(attempt, &code, TrackerMessage::new(&text, attempt.token)))
            }
            None => Err(match &answer.broken {
                Some(trouble) => LoginError::AnswerLost { reason: in_words(trouble) },
                None => unexpected("something else than XML-RPC".to_owned(), TrackerMessage::default()),
            }),
        }
    }

    /// A call by JSON-RPC with GET or HEAD, which change nothing in a Bugzilla.
    fn look_request(&self, base: &Url, token: &str, method: Method) -> Result<TrackerRequest, HttpError> {
        let path = format!("jsonrpc.cgi?method={METHOD}&params=%5B%7B%22token%22%3A%22{token}%22%7D%5D");
        request(if method == Method::HEAD { method } else { Method::GET }, &below(base, &path, &[]))
    }

    fn look_in_words(&self, method: &str) -> String {
        format!("{} of jsonrpc.cgi", if method == "HEAD" { method } else { "GET" })
    }

    fn outcome(&self, answer: &TrackerResponse) -> LoginOutcome {
        let other = |what: String| LoginOutcome::Other(what);
        if answer.status != StatusCode::OK {
            return other(format!("HTTP status {}", answer.status.as_u16()));
        }
        match answer.xml_rpc() {
            Some(CallOutcome::Fault { .. }) => LoginOutcome::Refused,
            Some(CallOutcome::Returned(_)) => LoginOutcome::LetIn,
            None => other("something else than XML-RPC".to_owned()),
        }
    }

    fn seems_let_in(&self, answer: &TrackerResponse) -> bool {
        self.outcome(answer) == LoginOutcome::LetIn
    }

    fn shows_plugin(&self, refusal: &TrackerResponse) -> Result<&'static str, &'static str> {
        match refusal.xml_rpc() {
            Some(CallOutcome::Fault { code, .. }) if NO_SUCH_METHOD.contains(&code.as_str()) => {
                Err("it has no method Launchpad.login")
            }
            _ => Ok("the method Launchpad.login is there, and objects to a call without a token"),
        }
    }

    fn refusal_text(&self, answer: &TrackerResponse) -> String {
        match answer.xml_rpc() {
            Some(CallOutcome::Fault { text, .. }) => text,
            Some(CallOutcome::Returned(_)) | None => String::new(),
        }
    }

    fn refuses_by(&self) -> &'static str {
        "answered with a fault"
    }

    fn plugin_api(&self) -> Option<&'static dyn PluginApiKind> {
        Some(&api::BugzillaApi)
    }
}

/// Bugzilla leaves the numbers above 10000 to extensions; an error that one has not numbered is 32000 or its negative.
fn is_of_an_extension(code: &str) -> bool {
    code.parse::<i32>().is_ok_and(|code| code > 10_000 || code == -32_000)
}

/// The extension's faults, by the numbers in its README.
fn fault(attempt: &LoginAttempt<'_>, code: &str, said: TrackerMessage) -> LoginError {
    match code {
        "10702" => LoginError::Refused { said, audience: attempt.audience.map(str::to_owned) },
        "10703" => LoginError::IssuerUnreachable { said },
        "10704" => LoginError::NotConfigured { said },
        "10705" => LoginError::UserUnavailable { said },
        other => LoginError::Unexpected {
            answer: format!("fault {}", TrackerMessage::new(other, attempt.token).as_str()),
            said,
        },
    }
}
