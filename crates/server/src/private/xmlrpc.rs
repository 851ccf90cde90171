//! Tokens over XML-RPC, Launchpad's protocol.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method as HttpMethod, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::{Audience, GetError, IssueError, LoginToken, Lookup, NewToken, Status};
use countersign_xmlrpc::{
    Arguments, Fault, Method, Parameter, Service, Type, Value, date_time, fault, fault_document, respond,
    structure,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tracing::field::display;

use crate::arrival::Arrival;
use crate::caller::Caller;
use crate::callers::{Grant, NotAllowed, Scope};
use crate::change::NotIssued;
use crate::private::body;
use crate::problem::with_allow;
use crate::public::TOKEN_TYPE;
use crate::{App, traces};

/// `POST /bugs`: answers an XML-RPC call. A fault is an answer like any other: its status is 200.
pub(crate) async fn answer(app: &Arc<App>, arrival: &Arrival, grant: Grant, request: Request) -> Response {
    if request.method() != HttpMethod::POST {
        let text = "XML-RPC calls are POST requests.";
        return with_allow((StatusCode::METHOD_NOT_ALLOWED, text).into_response(), "POST");
    }
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let caller = Caller::of(arrival, &head.headers).with(grant);
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let document = match body::read(&head.headers, body).await {
        Ok(body) => {
            let until = started + MULTICALL_TIME;
            let bugs = Bugs { app, caller: &caller, until, query: head.uri.query() };
            let answer = respond(&bugs, content_type, &body).await;
            let request = caller.request.map(display);
            // Only the name of a method that there is: any other could be a token.
            if let Some(method) = answer.method {
                traces::note(|| KeyValue::new("rpc.method", method));
            }
            if let Some(code) = answer.fault_code {
                traces::note(|| KeyValue::new("countersign.fault", i64::from(code)));
            }
            tracing::debug!(method = answer.method, fault = answer.fault_code, request, "called");
            answer.document
        }
        Err(body::BodyError::TooLong) => fault_document(fault::body_too_large(body::MAX_BODY_BYTES)),
        // Before anything is read of a call, the answer is HTTP's.
        Err(body::BodyError::Coding(unknown)) => return unknown.into_response(),
        Err(body::BodyError::Broken) => fault_document(fault::invalid_call("the call did not arrive whole")),
    };
    app.events.tally().call(started.elapsed());
    ([(CONTENT_TYPE, countersign_xmlrpc::CONTENT_TYPE)], document).into_response()
}

/// How long a `system.multicall` starts further calls. The rest of the request's time is enough for the last one, so the caller
/// always gets an answer.
pub const MULTICALL_TIME: Duration = Duration::from_secs(5);

/// The methods of `/bugs`.
struct Bugs<'a> {
    app: &'a Arc<App>,
    caller: &'a Caller,
    /// When no further call of a `system.multicall` begins.
    until: Instant,
    /// Of the URL that was called. It can name the bug tracker for a client that gives no argument.
    query: Option<&'a str>,
}

const METHODS: &[Method] = &[
    Method {
        name: "newBugTrackerToken",
        returns: Type::String,
        parameters: &[Parameter::optional("bugtracker_url", Type::String)],
        help: "Issues a single-use login token and returns its id, which is the token itself. With the base URL of a \
               bug tracker, only that tracker can redeem it; without one, any tracker that it is passed to can. A client \
               that cannot give it calls /bugs?bugtracker_url=URL instead.",
    },
    Method {
        name: "getLoginToken",
        returns: Type::Struct,
        parameters: &[Parameter::required("token_id", Type::String)],
        help: "Tells what is known about a token: token_id, token_type, title, canonical_url, handshake_url, audience \
               (empty when unbound), date_created, date_expires (UTC), and date_consumed, which is false while the \
               token is not consumed. Looking never consumes.",
    },
    Method {
        name: "revokeLoginToken",
        returns: Type::Boolean,
        parameters: &[Parameter::required("token_id", Type::String)],
        help: "Takes a token back, so that nobody can redeem it. Returns true if it was still live.",
    },
];

impl Service for Bugs<'_> {
    fn methods(&self) -> &'static [Method] {
        METHODS
    }

    fn may_go_on(&self) -> bool {
        Instant::now() < self.until
    }

    async fn call(&self, method: &'static str, arguments: Arguments) -> Result<Value, Fault> {
        self.caller.grant.check(scope_of(method)).map_err(|reason| {
            self.app.events.denied(self.caller, &reason);
            not_allowed(&reason)
        })?;
        match method {
            "newBugTrackerToken" => {
                self.new_token(arguments.optional::<String>("bugtracker_url")?.as_deref())
            }
            "getLoginToken" => self.get(arguments.required("token_id")?).await,
            "revokeLoginToken" => self.revoke(arguments.required("token_id")?).await,
            other => Err(fault::no_such_method(other)),
        }
    }
}

/// The scope that a method needs. An unlisted method needs the highest.
fn scope_of(method: &str) -> Scope {
    match method {
        "newBugTrackerToken" => Scope::Issue,
        "getLoginToken" => Scope::Look,
        "revokeLoginToken" => Scope::Revoke,
        _ => Scope::Admin,
    }
}

fn audience(what: &str, url: &str) -> Result<Audience, Fault> {
    match url.trim() {
        "" => Err(fault::invalid_parameters(format!(
            "{what} is empty; give the base URL of the bug tracker, or leave it away for a token that any tracker can \
             redeem"
        ))),
        url => Audience::parse(url).map_err(|error| fault::invalid_parameters(format!("{what} {error}"))),
    }
}

impl Bugs<'_> {
    fn new_token(&self, tracker: Option<&str>) -> Result<Value, Fault> {
        let given = tracker.map(|url| audience("the bugtracker_url", url)).transpose()?;
        let configured = self.audience_of_url()?;
        if let (Some(given), Some(configured)) = (&given, &configured)
            && given != configured
        {
            return Err(fault::invalid_parameters(
                "the URL that was called is for another bug tracker than the parameter bugtracker_url names",
            ));
        }
        let audience = given.or(configured);
        let issued = self.app.issue(NewToken { audience, ..NewToken::default() }, self.caller);
        let issued = issued.map_err(|error| match error {
            NotIssued::NotAllowed(reason) => not_allowed(&reason),
            NotIssued::Failed(error) => issue_fault(&error),
        })?;
        Ok(Value::String(issued.text.into_exposed()))
    }

    /// The bug tracker that the URL of this call names. An unreadable URL is a fault: ignoring it would issue a token that any
    /// tracker can redeem.
    fn audience_of_url(&self) -> Result<Option<Audience>, Fault> {
        let mut found = None;
        for (name, value) in form_urlencoded::parse(self.query.unwrap_or_default().as_bytes()) {
            if name != "bugtracker_url" || found.is_some() {
                return Err(fault::invalid_parameters(
                    "the URL that was called can have the query bugtracker_url=URL, once, and nothing else",
                ));
            }
            found = Some(audience("the bugtracker_url in the URL that was called", &value)?);
        }
        Ok(found)
    }

    async fn get(&self, text: String) -> Result<Value, Fault> {
        let Lookup { token, status } = self.app.tokens.get(&text).await.map_err(|error| get_fault(&error))?;
        self.describe(text, &token, &status)
    }

    async fn revoke(&self, text: String) -> Result<Value, Fault> {
        let revoked = self.app.revoke(text.into(), self.caller.clone()).await;
        revoked.map(Value::Boolean).map_err(|error| get_fault(&error))
    }

    fn describe(&self, text: String, token: &LoginToken, status: &Status) -> Result<Value, Fault> {
        let names = &self.app.names;
        let audience = token.audience().map_or(String::new(), ToString::to_string);
        Ok(structure([
            ("canonical_url", Value::String(names.canonical_url(&text))),
            ("handshake_url", Value::String(names.handshake_url(&text))),
            ("token_id", Value::String(text)),
            ("token_type", Value::String(TOKEN_TYPE.to_owned())),
            ("title", Value::String(names.title())),
            ("audience", Value::String(audience)),
            ("date_created", utc(token.created())?),
            ("date_expires", utc(token.expires())?),
            (
                "date_consumed",
                match status {
                    Status::Consumed(consumption) => utc(consumption.at)?,
                    Status::Live | Status::Revoked { .. } | Status::Expired | Status::Fenced => {
                        Value::Boolean(false)
                    }
                },
            ),
        ]))
    }
}

/// A moment as `dateTime.iso8601`, which has no zone of its own: UTC by agreement. Fractions of a second are cut off.
fn utc(time: Timestamp) -> Result<Value, Fault> {
    date_time(TimeZone::UTC.to_datetime(time)).map(Value::DateTime)
}

fn not_allowed(reason: &NotAllowed) -> Fault {
    fault::application(reason.to_string())
}

fn issue_fault(error: &IssueError) -> Fault {
    match error {
        IssueError::AudienceRequired | IssueError::Lifetime | IssueError::Seal(_) => {
            fault::invalid_parameters(error.to_string())
        }
        IssueError::Clock(_) | IssueError::Entropy(_) | IssueError::NoKey => {
            fault::application(error.to_string())
        }
    }
}

fn get_fault(error: &GetError) -> Fault {
    match error {
        GetError::NotOurs(_) | GetError::Forgotten { .. } | GetError::Store(_) => {
            fault::application(error.to_string())
        }
    }
}
