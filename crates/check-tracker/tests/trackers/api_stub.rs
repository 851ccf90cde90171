//! A tracker with the plugin API, which does everything right but for one fault.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use countersign_check_tracker::Tracker;
use countersign_core::{Clock, SystemClock};
use dxr::{Fault as DxrFault, FaultResponse, MethodCall, MethodResponse, Value};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio::net::TcpListener;

/// The number of the only bug.
pub(crate) const BUG: &str = "7";

/// What is wrong with the API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ApiFault {
    Nothing,
    IsNotFound,
    // Of logins
    AsksWith(u16),
    AsksWithFault(i32),
    AsksNobody,
    ForgetsOldSessions,
    DoesNotKnowItsSession,
    SessionIsElsewhere,
    ShowsNothingToStrangers,
    RefusesLogins,
    // In what it says
    LocalTime,
    TimeIsText,
    NoStatus,
    IdIsNumber,
    UnknownStatus,
    MissingIsFault,
    MissingIsNew,
    MissingHasLink,
    CommentsWithoutTime,
    HidesComments,
    ChangedIdsAreNumbers,
    NothingChanges,
    EverythingChanges,
    // In what it does
    ForgetsComments,
    OneCommentId,
    CutsComments,
    EscapesComments,
    CommentsOfNobody,
    DatesComments,
    RefusesComments,
    ForgetsLinks,
    KeepsLinks,
    AnswersWithPage,
}

struct Stub {
    fault: ApiFault,
    tracker: Tracker,
    bug: Mutex<Bug>,
}

#[derive(Default)]
struct Bug {
    /// Texts.
    comments: Vec<String>,
    link: i32,
}

/// What comes of a call.
enum Answer {
    Value(Value),
    Fault(i32),
}

/// Starts one on a free port. Returns its base URL, and how to read its link.
pub(crate) async fn start(tracker: Tracker, fault: ApiFault) -> (String, impl Fn() -> i32) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/bugs", listener.local_addr().unwrap());
    let bug = Mutex::new(Bug { comments: vec!["The door squeaks.".to_owned()], link: 4711 });
    let stub = Arc::new(Stub { fault, tracker, bug });
    let router = Router::new().fallback(answer).with_state(Arc::clone(&stub));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (base, move || stub.bug.lock().unwrap().link)
}

async fn answer(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 65536).await.unwrap();
    match head.uri.path() {
        "/bugs/launchpad-auth/check" if stub.fault == ApiFault::IsNotFound => {
            StatusCode::NOT_FOUND.into_response()
        }
        "/bugs/launchpad-auth/check" => StatusCode::UNAUTHORIZED.into_response(),
        "/bugs/xmlrpc" | "/bugs/xmlrpc.cgi" => {
            let call = MethodCall::from_xml(std::str::from_utf8(&body).unwrap()).unwrap();
            stub.call(&call, &head.headers)
        }
        _ => stub.logged_in(),
    }
}

impl Stub {
    /// Otherwise it is a Trac.
    fn is_bugzilla(&self) -> bool {
        self.tracker == Tracker::Bugzilla
    }

    fn logged_in(&self) -> Response {
        if self.fault == ApiFault::RefusesLogins {
            return if self.is_bugzilla() {
                xml(&Answer::Fault(10702))
            } else {
                StatusCode::UNAUTHORIZED.into_response()
            };
        }
        let path = if self.fault == ApiFault::SessionIsElsewhere { "/bugs/launchpad-auth" } else { "/bugs" };
        let cookie =
            |name: &str, value: &str| (header::SET_COOKIE, format!("{name}={value}; Path={path}; HttpOnly"));
        if self.is_bugzilla() {
            let body = xml(&Answer::Value(structure([("user_id", int(7))])));
            let [id, key] = [cookie("Bugzilla_login", "7"), cookie("Bugzilla_logincookie", "5e551on")];
            (axum::response::AppendHeaders([id, key]), body).into_response()
        } else {
            ([cookie("trac_auth", "5e551on")], "Logged in as launchpad.\n").into_response()
        }
    }

    fn call(&self, call: &MethodCall<'_>, headers: &HeaderMap) -> Response {
        let method = call.name.rsplit('.').next().unwrap().to_owned();
        if method == "login" {
            let is_token =
                matches!(call.params.first(), Some(Value::Struct(members)) if members.contains_key("token"));
            return if is_token { self.logged_in() } else { xml(&Answer::Fault(10701)) };
        }
        if method == "plugin_version" {
            return xml(&if self.fault == ApiFault::IsNotFound {
                Answer::Fault(-32601)
            } else {
                Answer::Value(text("1"))
            });
        }
        let sent = headers.get(header::COOKIE).map(|value| value.to_str().unwrap());
        let is_known = sent.is_some_and(|sent| sent.contains("5e551on"));
        let takes_login = !self.is_bugzilla()
            || self.fault == ApiFault::ShowsNothingToStrangers
            || matches!(&*method, "add_comment" | "set_link");
        let is_let_in = match self.fault {
            ApiFault::DoesNotKnowItsSession => false,
            ApiFault::AsksNobody => true,
            _ => is_known,
        };
        if takes_login && !is_let_in {
            return self.ask_for_login(sent.is_some());
        }
        if self.fault == ApiFault::AnswersWithPage && method.contains("time") {
            return "<html><p>Welcome</p></html>".into_response();
        }
        xml(&match call.params.first() {
            _ if !self.is_bugzilla() => self.trac(&method, &call.params),
            Some(Value::Struct(members)) => self.bugzilla(&method, members),
            _ => self.bugzilla(&method, &BTreeMap::new()),
        })
    }

    fn ask_for_login(&self, has_cookies: bool) -> Response {
        match (self.fault, self.is_bugzilla()) {
            (ApiFault::AsksWith(status), _) => StatusCode::from_u16(status).unwrap().into_response(),
            (ApiFault::AsksWithFault(code), _) => xml(&Answer::Fault(code)),
            (ApiFault::ForgetsOldSessions, true) if has_cookies => xml(&Answer::Fault(32000)),
            (ApiFault::ForgetsOldSessions, false) if has_cookies => StatusCode::BAD_REQUEST.into_response(),
            (_, false) => StatusCode::FORBIDDEN.into_response(),
            (_, true) => xml(&Answer::Fault(410)),
        }
    }

    fn now(&self) -> i64 {
        let off = if self.fault == ApiFault::LocalTime { 3600 } else { 0 };
        SystemClock.now().as_second() + off
    }

    fn is_missing(&self, id: &str) -> bool {
        id != BUG && self.fault != ApiFault::MissingIsNew
    }

    /// Whether a bug counts as changed since then.
    fn has_changed(&self, since: i64) -> bool {
        match self.fault {
            ApiFault::NothingChanges => false,
            ApiFault::EverythingChanges => true,
            _ => since <= self.now(),
        }
    }

    /// The comments, each as its id and its text.
    fn comments(&self) -> Vec<(i32, String)> {
        let bug = self.bug.lock().unwrap();
        let comments: Vec<_> = (1..).zip(bug.comments.iter().cloned()).collect();
        if self.fault == ApiFault::HidesComments { vec![] } else { comments }
    }

    fn add(&self, comment: &str) -> i32 {
        let mut bug = self.bug.lock().unwrap();
        let comment = match self.fault {
            ApiFault::CutsComments => comment.chars().take(60).collect(),
            ApiFault::EscapesComments => comment.replace('<', "&lt;"),
            _ => format!("{comment}\n"),
        };
        if self.fault != ApiFault::ForgetsComments {
            bug.comments.push(comment);
        }
        match self.fault {
            ApiFault::OneCommentId => 1,
            ApiFault::ForgetsComments => 2,
            _ => i32::try_from(bug.comments.len()).unwrap(),
        }
    }

    fn set(&self, link: i32) {
        let mut bug = self.bug.lock().unwrap();
        match self.fault {
            ApiFault::ForgetsLinks => {}
            ApiFault::KeepsLinks if link == 0 => {}
            _ => bug.link = link,
        }
    }

    fn status(&self) -> &'static str {
        match (self.fault, self.is_bugzilla()) {
            (ApiFault::UnknownStatus, false) => "triaged",
            (ApiFault::UnknownStatus, true) => "CONFIRMED",
            (_, false) => "new",
            (_, true) => "NEW",
        }
    }

    fn author(&self) -> Value {
        text(if self.fault == ApiFault::CommentsOfNobody { " " } else { "Alice <alice@example.org>" })
    }

    fn commented_at(&self) -> i64 {
        if self.fault == ApiFault::DatesComments { 1_000_000_000 } else { self.now() }
    }

    fn trac(&self, method: &str, arguments: &[Value]) -> Answer {
        let seconds = |second: i64| int(i32::try_from(second).unwrap());
        let now = seconds(self.now());
        let result = |value| Answer::Value(Value::Array(vec![seconds(self.now()), value]));
        match (method, arguments) {
            ("time_snapshot", []) if self.fault == ApiFault::TimeIsText => {
                Answer::Value(Value::Array(vec![text("UTC"), now.clone(), text("noon")]))
            }
            ("time_snapshot", []) => Answer::Value(Value::Array(vec![text("UTC"), now.clone(), now])),
            ("bug_info", [Value::Integer(level), Value::Struct(criteria)]) => {
                self.bug_info(*level, criteria).map_or(Answer::Fault(1001), result)
            }
            ("get_comments", [Value::Array(ids)]) => {
                let texts: BTreeMap<String, String> =
                    self.comments().into_iter().map(|(id, text)| (format!("7:{id}"), text)).collect();
                let comment = |id: &Value| {
                    let mut comment = BTreeMap::from([
                        ("id".to_owned(), id.clone()),
                        ("user".to_owned(), self.author()),
                        ("comment".to_owned(), text(&texts[string(id)])),
                    ]);
                    if self.fault != ApiFault::CommentsWithoutTime {
                        comment.insert("timestamp".to_owned(), seconds(self.commented_at()));
                    }
                    Value::Struct(comment)
                };
                result(Value::Array(ids.iter().map(comment).collect()))
            }
            ("add_comment", _) if self.fault == ApiFault::RefusesComments => Answer::Fault(1002),
            ("add_comment", [Value::String(_), Value::String(comment)]) => {
                result(text(&format!("7:{}", self.add(comment))))
            }
            ("get_launchpad_bug" | "set_launchpad_bug", [id, ..])
                if self.is_missing(string(id)) && self.fault != ApiFault::MissingHasLink =>
            {
                Answer::Fault(if self.fault == ApiFault::MissingIsFault { 1000 } else { 1001 })
            }
            ("get_launchpad_bug", [_]) => result(int(self.bug.lock().unwrap().link)),
            ("set_launchpad_bug", [_, Value::Integer(link)]) => {
                self.set(*link);
                result(int(0))
            }
            other => panic!("{other:?}"),
        }
    }

    fn bug_info(&self, level: i32, criteria: &BTreeMap<String, Value>) -> Option<Value> {
        let Some(Value::Array(ids)) = criteria.get("bugs") else { panic!("{criteria:?}") };
        let since = match criteria.get("modified_since") {
            Some(Value::Integer(since)) => i64::from(*since),
            _ => 0,
        };
        let is_by_time = criteria.contains_key("modified_since");
        let mut bugs = Vec::new();
        for id in ids {
            if self.is_missing(string(id)) {
                if self.fault == ApiFault::MissingIsFault {
                    return None;
                }
                bugs.push(structure([("id", id.clone()), ("status", text("missing"))]));
                continue;
            }
            if is_by_time && !self.has_changed(since) {
                continue;
            }
            let is_number = match self.fault {
                ApiFault::ChangedIdsAreNumbers => is_by_time,
                ApiFault::IdIsNumber => level == 2,
                _ => false,
            };
            let mut bug = BTreeMap::from([(
                "id".to_owned(),
                if is_number { int(string(id).parse().unwrap()) } else { id.clone() },
            )]);
            if level == 2 {
                let comments = self.comments().into_iter().map(|(id, _)| text(&format!("7:{id}"))).collect();
                bug.insert("status".to_owned(), text(self.status()));
                bug.insert("resolution".to_owned(), text(""));
                bug.insert("comments".to_owned(), Value::Array(comments));
                if self.fault == ApiFault::NoStatus {
                    bug.remove("status");
                }
            }
            bugs.push(Value::Struct(bug));
        }
        Some(Value::Array(bugs))
    }

    fn bugzilla(&self, method: &str, members: &BTreeMap<String, Value>) -> Answer {
        Answer::Value(match method {
            "time" if self.fault == ApiFault::TimeIsText => structure([("utc_time", text("noon"))]),
            "time" => structure([("utc_time", date(self.now()))]),
            "get_bugs" => {
                let Value::Array(ids) = &members["ids"] else { panic!("{members:?}") };
                let since = match members.get("changed_since") {
                    Some(Value::DateTime(since)) => {
                        let since = DateTime::strptime("%Y%m%dT%H:%M:%S", since.to_string()).unwrap();
                        Some(TimeZone::UTC.to_timestamp(since).unwrap().as_second())
                    }
                    _ => None,
                };
                if self.fault == ApiFault::MissingIsFault && ids.iter().any(|id| self.is_missing(string(id)))
                {
                    return Answer::Fault(101);
                }
                let is_told = |id: &&Value| {
                    !self.is_missing(string(id)) && since.is_none_or(|since| self.has_changed(since))
                };
                let bugs = ids.iter().filter(is_told).map(|id| self.describe(id, since.is_some())).collect();
                structure([("bugs", Value::Array(bugs))])
            }
            "comments" => {
                let wanted = members.get("ids").map(|ids| match ids {
                    Value::Array(ids) => ids.clone(),
                    other => panic!("{other:?}"),
                });
                let comments = self
                    .comments()
                    .into_iter()
                    .filter(|(id, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(&int(*id))))
                    .map(|(id, words)| {
                        let mut comment = BTreeMap::from([("id".to_owned(), int(id))]);
                        if wanted.is_some() {
                            comment.insert("author".to_owned(), self.author());
                            comment.insert("text".to_owned(), text(&words));
                            if self.fault != ApiFault::CommentsWithoutTime {
                                comment.insert("time".to_owned(), date(self.commented_at()));
                            }
                        }
                        Value::Struct(comment)
                    })
                    .collect();
                structure([("bugs", structure([(BUG, Value::Array(comments))]))])
            }
            "add_comment" if self.fault == ApiFault::RefusesComments => return Answer::Fault(115),
            "add_comment" => structure([("comment_id", int(self.add(string(&members["comment"]))))]),
            "set_link" => {
                let Value::Integer(link) = members["launchpad_id"] else { panic!("{members:?}") };
                self.set(link);
                structure([])
            }
            other => panic!("{other}"),
        })
    }

    fn describe(&self, id: &Value, is_by_time: bool) -> Value {
        let number = || int(string(id).parse().unwrap());
        let id = match self.fault {
            ApiFault::IdIsNumber if !is_by_time => text(BUG),
            ApiFault::ChangedIdsAreNumbers => number(),
            _ if is_by_time => id.clone(),
            _ => number(),
        };
        let internals = match self.bug.lock().unwrap().link {
            0 => structure([]),
            link => structure([("launchpad_id", int(link))]),
        };
        let mut bug = BTreeMap::from(
            [
                ("id", id),
                ("alias", Value::Array(vec![])),
                ("status", text(self.status())),
                ("resolution", text("")),
                ("priority", text("---")),
                ("severity", text("normal")),
                ("product", text("TestProduct")),
                ("internals", internals),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if self.fault == ApiFault::NoStatus {
            bug.remove("status");
        }
        Value::Struct(bug)
    }
}

fn xml(answer: &Answer) -> Response {
    let body = match answer {
        Answer::Value(value) => MethodResponse { value: value.clone() }.to_xml(),
        Answer::Fault(code) => FaultResponse { fault: DxrFault::new(*code, "No.".to_owned()) }.to_xml(),
    };
    ([(header::CONTENT_TYPE, "text/xml")], body.unwrap()).into_response()
}

fn int(number: i32) -> Value {
    Value::Integer(number)
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn date(second: i64) -> Value {
    let time = jiff::Timestamp::from_second(second).unwrap();
    Value::DateTime(time.strftime("%Y%m%dT%H:%M:%S").to_string().parse().unwrap())
}

fn string(value: &Value) -> &str {
    match value {
        Value::String(text) => text,
        other => panic!("{other:?}"),
    }
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
