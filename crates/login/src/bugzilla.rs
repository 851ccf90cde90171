//! Bugzilla with the extension `Launchpad`: the XML-RPC method `Launchpad.login({token})` at `{bugzilla}/xmlrpc.cgi`.

use http::StatusCode;

use crate::answer::{CallOutcome, Value};
use crate::call::call_document;
use crate::error::TrackerMessage;
use crate::http::{HttpError, HttpResponse};
use crate::session::cookies;
use crate::tracker::LoginContext;
use crate::{LoginError, Session, Tracker};

const ENDPOINT: &str = "xmlrpc.cgi";
const SUFFIX: &str = "/xmlrpc.cgi";
const METHOD: &str = "Launchpad.login";
const COOKIES: [&str; 2] = ["Bugzilla_login", "Bugzilla_logincookie"];

const EXPECTED: &str = "a Bugzilla with the extension Launchpad";
const NO_ENDPOINT: &str = "there is no xmlrpc.cgi at that URL: give the base URL of a Bugzilla, or have its administrator \
                           install SOAP::Lite and XMLRPC::Lite";
const NO_EXTENSION: &str = "this Bugzilla has no method Launchpad.login: its administrator must install the extension \
                            Launchpad";

/// What Bugzilla, or the Perl library below it, answers when there is no such method.
const NO_SUCH_METHOD: [&str; 2] = ["-32601", "Client"];

/// Calls the method without a token: the extension objects to that, before it asks any issuer.
pub(crate) async fn detect(visit: &LoginContext<'_>) -> Result<(), LoginError> {
    let answer = call(visit, None).await?.whole()?;
    if let Some(redirect) = answer.redirect(&visit.below(&[ENDPOINT]), SUFFIX) {
        return Err(redirect);
    }
    let status = answer.status.as_u16();
    let not_the_tracker = |found| Err(LoginError::NotTheTracker { expected: EXPECTED, found });
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(LoginError::PluginMissing {
                remedy: NO_ENDPOINT,
                answer: "HTTP status 404".to_owned(),
            });
        }
        StatusCode::UNAUTHORIZED => return Err(LoginError::PasswordAsked { path: SUFFIX }),
        _ => return not_the_tracker(format!("it answers {SUFFIX} with HTTP status {status}, not 200")),
    }
    match answer.xml_rpc() {
        Some(CallOutcome::Fault { code, .. }) if NO_SUCH_METHOD.contains(&code.as_str()) => {
            Err(LoginError::PluginMissing { remedy: NO_EXTENSION, answer: format!("fault {code}") })
        }
        Some(CallOutcome::Fault { code, .. }) if is_of_an_extension(&code) => Ok(()),
        Some(CallOutcome::Fault { code, text }) => {
            not_the_tracker(format!("it answers {METHOD} with fault {}", quote(&code, &text, "")))
        }
        Some(CallOutcome::Returned(_)) => not_the_tracker(format!("it lets everybody in who calls {METHOD}")),
        None => not_the_tracker(format!(
            "it answers {SUFFIX} with something else than XML-RPC, as a Bugzilla without SOAP::Lite and XMLRPC::Lite does"
        )),
    }
}

/// Bugzilla leaves the numbers above 10000 to extensions; an error that one has not numbered is 32000 or its negative.
fn is_of_an_extension(code: &str) -> bool {
    code.parse::<i32>().is_ok_and(|code| code > 10_000 || code == -32_000)
}

pub(crate) async fn log_in(visit: &LoginContext<'_>, token: &str) -> Result<Session, LoginError> {
    let answer = call(visit, Some(token)).await.map_err(HttpError::with_token)?;
    if answer.status != StatusCode::OK {
        let answer = format!("HTTP status {}", answer.status.as_u16());
        return Err(LoginError::Unexpected { answer, said: TrackerMessage::default() });
    }
    match answer.xml_rpc() {
        Some(CallOutcome::Returned(value)) => session(visit, &answer, &value),
        Some(CallOutcome::Fault { code, text }) => {
            Err(fault(visit, &code, TrackerMessage::new(&text, token), token))
        }
        None => Err(answer.broken.map_or_else(not_xml_rpc, |reason| LoginError::AnswerLost { reason })),
    }
}

fn not_xml_rpc() -> LoginError {
    LoginError::Unexpected {
        answer: "something else than XML-RPC".to_owned(),
        said: TrackerMessage::default(),
    }
}

fn session(visit: &LoginContext<'_>, answer: &HttpResponse, value: &Value) -> Result<Session, LoginError> {
    let cookies = cookies(&answer.headers, &visit.below(&[ENDPOINT]), visit.now);
    if let Some(cookie) = COOKIES.into_iter().find(|name| !cookies.iter().any(|cookie| cookie.name == *name))
    {
        return Err(LoginError::NoSession { cookie });
    }
    let user = value.member("user_id").and_then(Value::to_text);
    let user = user.map(|id| TrackerMessage::new(&id, "").as_str().to_owned());
    Ok(Session { tracker: Tracker::Bugzilla, url: visit.base.clone(), user, cookies })
}

/// The extension's faults, by the numbers in its README.
fn fault(visit: &LoginContext<'_>, code: &str, said: TrackerMessage, token: &str) -> LoginError {
    match code {
        "10702" => LoginError::Refused { said, audience: visit.audience.map(str::to_owned) },
        "10703" => LoginError::IssuerUnreachable { said },
        "10704" => LoginError::NotConfigured { said },
        "10705" => LoginError::UserUnavailable { said },
        other => LoginError::Unexpected {
            answer: format!("fault {}", TrackerMessage::new(other, token).as_str()),
            said,
        },
    }
}

fn quote(code: &str, text: &str, token: &str) -> String {
    TrackerMessage::new(&format!("{code}, {text}"), token).as_str().to_owned()
}

async fn call(visit: &LoginContext<'_>, token: Option<&str>) -> Result<HttpResponse, HttpError> {
    let parameters =
        token.map(|token| ("token".to_owned(), dxr::Value::String(token.to_owned()))).into_iter().collect();
    // The error's own text has the document in it, and that the token.
    let call = call_document(METHOD, vec![dxr::Value::Struct(parameters)])
        .ok_or_else(|| HttpError::NoAnswer("the call could not be written".to_owned()))?;
    visit.http.post_xml(&visit.below(&[ENDPOINT]), call, None).await
}
