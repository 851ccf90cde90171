//! Calls answered by a service: parameters, introspection, multicall.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use common::{Tokens, block_on, call};
use countersign_xmlrpc::fault::{
    APPLICATION, INTERNAL, INVALID_CALL, INVALID_PARAMETERS, NO_SUCH_METHOD, NOT_WELL_FORMED,
};
use countersign_xmlrpc::{
    Arguments, CONTENT_TYPE, Fault, MAX_CALLS, Method, Service, Type, Value, respond, structure,
};
use dxr::{FaultResponse, MethodCall, MethodResponse};

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn strings(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| string(text)).collect())
}

/// The result of calling the test's service, read back from the document.
#[track_caller]
fn result(name: &str, params: Vec<Value>) -> Result<Value, Fault> {
    let body = MethodCall { name: name.into(), params }.to_xml().expect("a call");
    let answer = call(None, body.as_bytes());
    if let Some(code) = answer.fault_code {
        let fault = FaultResponse::from_xml(&answer.document).expect("a fault").fault;
        assert_eq!(fault.code(), code);
        Err(fault)
    } else {
        Ok(MethodResponse::from_xml(&answer.document).expect("a response").value)
    }
}

#[test]
fn call_is_answered() {
    assert_eq!(result("newBugTrackerToken", vec![]), Ok(string("unbound")));
    assert_eq!(result("newBugTrackerToken", vec![string("x")]), Ok(string("for x")));
    assert_eq!(
        result("getLoginToken", vec![string("known")]),
        Ok(structure([("token_id", string("known")), ("date_consumed", Value::Boolean(false))]))
    );
    let date = Value::DateTime("20260131T12:00:00".parse().unwrap());
    assert_eq!(result("mixed", vec![Value::Integer(1), date, string("note")]), Ok(Value::Boolean(true)));
    assert_eq!(CONTENT_TYPE, "text/xml; charset=utf-8");
}

#[test]
fn faults_are_answered() {
    let int = Value::Integer(1);
    let rows: &[(&str, Vec<Value>, i32, &str)] = &[
        (
            "newBugTrackerToken",
            vec![int.clone(), int.clone()],
            INVALID_PARAMETERS,
            "newBugTrackerToken takes at most 1 parameter (bugtracker_url: string), 2 were given.",
        ),
        (
            "newBugTrackerToken",
            vec![int.clone()],
            INVALID_PARAMETERS,
            "newBugTrackerToken: parameter 1 (bugtracker_url) must be of type string, not int.",
        ),
        (
            "getLoginToken",
            vec![],
            INVALID_PARAMETERS,
            "getLoginToken takes exactly 1 parameter (token_id: string), 0 were given.",
        ),
        (
            "getLoginToken",
            vec![Value::Nil],
            INVALID_PARAMETERS,
            "getLoginToken: parameter 1 (token_id) must be of type string, not nil.",
        ),
        (
            "newBugTrackerToken",
            vec![Value::Nil],
            INVALID_PARAMETERS,
            "newBugTrackerToken: parameter 1 (bugtracker_url) must be of type string, not nil.",
        ),
        (
            "mixed",
            vec![],
            INVALID_PARAMETERS,
            "mixed takes 1 to 3 parameters (count: int, when: dateTime.iso8601, note: string), 0 were given.",
        ),
        (
            "mixed",
            vec![Value::Long(1)],
            INVALID_PARAMETERS,
            "mixed: parameter 1 (count) must be of type int, not i8.",
        ),
        (
            "mixed",
            vec![int.clone(), strings(&[])],
            INVALID_PARAMETERS,
            "mixed: parameter 2 (when) must be of type dateTime.iso8601, not array.",
        ),
        (
            "system.listMethods",
            vec![int.clone()],
            INVALID_PARAMETERS,
            "system.listMethods takes no parameters, 1 was given.",
        ),
        (
            "system.multicall",
            vec![int],
            INVALID_PARAMETERS,
            "system.multicall: parameter 1 (calls) must be of type array, not int.",
        ),
        (
            "system.methodHelp",
            vec![string("nothing")],
            NO_SUCH_METHOD,
            "There is no method \"nothing\". system.listMethods lists those that exist.",
        ),
        (
            "newbugtrackertoken\u{85}\n",
            vec![],
            NO_SUCH_METHOD,
            "There is no method \"newbugtrackertoken\\u{85}\". system.listMethods lists those that exist.",
        ),
        (
            "system.shutdown",
            vec![],
            NO_SUCH_METHOD,
            "There is no method \"system.shutdown\". system.listMethods lists those that exist.",
        ),
        ("getLoginToken", vec![string("other")], APPLICATION, "This server never issued that token."),
        (
            "broken",
            vec![],
            INTERNAL,
            "The server failed to answer this call. Try again; its log says what went wrong.",
        ),
    ];
    for (name, params, code, sentence) in rows {
        assert_eq!(result(name, params.clone()), Err(Fault::new(*code, (*sentence).to_owned())), "{name}");
    }
}

#[test]
fn debug_shows_method_and_code_only() {
    let body = b"<methodCall><methodName>getLoginToken</methodName>\
        <params><param><value>cs1secret</value></param></params></methodCall>";
    assert_eq!(
        format!("{:?}", call(None, body)),
        "Answer { method: Some(\"getLoginToken\"), fault_code: Some(-32500), .. }"
    );
    let unknown = call(None, b"<methodCall><methodName>unknown</methodName></methodCall>");
    assert_eq!((unknown.method, unknown.fault_code), (None, Some(NO_SUCH_METHOD)));
    let unread = call(None, b"<methodCall>");
    assert_eq!((unread.method, unread.fault_code), (None, Some(NOT_WELL_FORMED)));
}

#[test]
fn introspection_lists_the_methods() {
    assert_eq!(
        result("system.listMethods", vec![]),
        Ok(strings(&[
            "newBugTrackerToken",
            "getLoginToken",
            "mixed",
            "large",
            "broken",
            "system.listMethods",
            "system.methodSignature",
            "system.methodHelp",
            "system.multicall",
            "system.getCapabilities",
        ]))
    );
    let signatures: &[(&str, &[&[&str]])] = &[
        ("newBugTrackerToken", &[&["string"], &["string", "string"]]),
        ("getLoginToken", &[&["struct", "string"]]),
        (
            "mixed",
            &[
                &["boolean", "int"],
                &["boolean", "int", "dateTime.iso8601"],
                &["boolean", "int", "dateTime.iso8601", "string"],
            ],
        ),
        ("system.listMethods", &[&["array"]]),
        ("system.methodSignature", &[&["array", "string"]]),
        ("system.methodHelp", &[&["string", "string"]]),
        ("system.multicall", &[&["array", "array"]]),
        ("system.getCapabilities", &[&["struct"]]),
    ];
    for (name, expected) in signatures {
        let expected = Value::Array(expected.iter().map(|signature| strings(signature)).collect());
        assert_eq!(result("system.methodSignature", vec![string(name)]), Ok(expected), "{name}");
    }
    assert_eq!(result("system.methodHelp", vec![string("getLoginToken")]), Ok(string("Looks at a token.")));
    let Ok(Value::String(help)) = result("system.methodHelp", vec![string("system.multicall")]) else {
        panic!("no help");
    };
    assert!(help.contains("methodName"), "{help}");
}

#[test]
fn capabilities_are_listed() {
    let Ok(Value::Struct(capabilities)) = result("system.getCapabilities", vec![]) else {
        panic!("no capabilities");
    };
    assert_eq!(
        capabilities.get("faults_interop"),
        Some(&structure([
            ("specUrl", string("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php")),
            ("specVersion", Value::Integer(20_010_516)),
        ]))
    );
}

fn entry(name: &str, params: Vec<Value>) -> Value {
    structure([("methodName", string(name)), ("params", Value::Array(params))])
}

/// The result or the fault code of every entry.
#[track_caller]
fn multicall(entries: Vec<Value>) -> Vec<Result<Value, i32>> {
    let Ok(Value::Array(results)) = result("system.multicall", vec![Value::Array(entries)]) else {
        panic!("no results");
    };
    results
        .into_iter()
        .map(|result| match result {
            Value::Array(mut values) if values.len() == 1 => Ok(values.remove(0)),
            Value::Struct(mut fault) => {
                assert!(matches!(fault.get("faultString"), Some(Value::String(_))));
                assert_eq!(fault.len(), 2);
                match fault.remove("faultCode") {
                    Some(Value::Integer(code)) => Err(code),
                    _ => panic!("no code"),
                }
            }
            _ => panic!("neither a result nor a fault"),
        })
        .collect()
}

/// Answers until so many calls have been made.
struct Bounded(AtomicUsize);

impl Service for Bounded {
    fn methods(&self) -> &'static [Method] {
        &[Method { name: "m", returns: Type::Boolean, parameters: &[], help: "" }]
    }

    fn may_go_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    async fn call(&self, _: &'static str, _: Arguments) -> Result<Value, Fault> {
        self.0.fetch_sub(1, Ordering::Relaxed);
        Ok(Value::Boolean(true))
    }
}

#[test]
fn multicall_stops_when_the_service_says_so() {
    let calls = Value::Array(vec![entry("m", vec![]); 5]);
    let body = MethodCall { name: "system.multicall".into(), params: vec![calls] }.to_xml().unwrap();
    let answer = block_on(respond(&Bounded(3.into()), None, body.as_bytes()));
    let Ok(Value::Array(results)) = MethodResponse::from_xml(&answer.document).map(|answer| answer.value)
    else {
        panic!("{}", answer.document);
    };
    let is_fault = |result: &Value| matches!(result, Value::Struct(_));
    assert_eq!(
        results.iter().map(is_fault).collect::<Vec<_>>(),
        [false, false, false, true, true],
        "what was done is told, and the rest says that it was not"
    );
    assert!(answer.document.contains("took too long"), "{}", answer.document);
}

#[test]
fn multicall_yields_between_calls() {
    let calls = Value::Array(vec![entry("newBugTrackerToken", vec![]); 7]);
    let body = MethodCall { name: "system.multicall".into(), params: vec![calls] }.to_xml().unwrap();
    let mut answer = pin!(respond(&Tokens, None, body.as_bytes()));
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = 0;
    while answer.as_mut().poll(&mut context).is_pending() {
        turns += 1;
    }
    assert_eq!(turns, 7);
}

#[test]
fn multicall_answers_every_entry_on_its_own() {
    assert_eq!(multicall(vec![]), []);
    assert_eq!(
        multicall(vec![
            entry("newBugTrackerToken", vec![]),
            entry("getLoginToken", vec![string("other")]),
            entry("getLoginToken", vec![]),
            entry("nothing", vec![]),
            entry("system.multicall", vec![Value::Array(vec![entry("newBugTrackerToken", vec![])])]),
            string("newBugTrackerToken"),
            structure([("methodName", string("newBugTrackerToken"))]),
            structure([("methodName", Value::Integer(1)), ("params", strings(&[]))]),
            structure([("methodName", string("newBugTrackerToken")), ("params", string("x"))]),
            structure([
                ("methodName", string("newBugTrackerToken")),
                ("params", strings(&["x"])),
                ("id", Value::Integer(9)),
            ]),
            entry("system.methodHelp", vec![string("getLoginToken")]),
        ]),
        [
            Ok(string("unbound")),
            Err(APPLICATION),
            Err(INVALID_PARAMETERS),
            Err(NO_SUCH_METHOD),
            Err(INVALID_PARAMETERS),
            Err(INVALID_PARAMETERS),
            Err(INVALID_PARAMETERS),
            Err(INVALID_PARAMETERS),
            Err(INVALID_PARAMETERS),
            Ok(string("for x")),
            Ok(string("Looks at a token.")),
        ]
    );
}

#[test]
fn multicall_limits_its_calls() {
    let entries = |count| vec![entry("newBugTrackerToken", vec![]); count];
    assert!(multicall(entries(MAX_CALLS)).iter().all(|result| *result == Ok(string("unbound"))));
    assert_eq!(
        result("system.multicall", vec![Value::Array(entries(MAX_CALLS + 1))]),
        Err(Fault::new(
            INVALID_PARAMETERS,
            "system.multicall makes at most 1024 calls at once, 1025 were given.".into()
        ))
    );
}

#[test]
fn multicall_limits_its_answers() {
    // 300 kB each: the fourth result is beyond 1 MiB, so that nothing is called after it.
    let results = multicall(vec![entry("large", vec![]); 10]);
    let (made, refused) = results.split_at(4);
    assert!(made.iter().all(Result::is_ok));
    assert!(refused.iter().all(|result| *result == Err(INVALID_CALL)));
}

#[test]
fn future_can_move_between_threads() {
    fn check<T: Send>(_: T) {}
    check(respond(&Tokens, None, b""));
    assert!(Tokens.methods().len() > 1);
}
