//! A tracker's answer to a call, and its Content-Type, as the worker reads it.
//!
//! An input is as that of [`crate::xmlrpc_body`], with a response in the place of the call.

use std::collections::BTreeMap;

use countersign_xmlrpc::{CallOutcome, ResponseValue as Value, read_response};
use dxr::{FaultResponse, MethodResponse};

use crate::xmlrpc_body::parts;

/// A reader of answers: from a Content-Type and a body.
pub type Reader = fn(Option<&str>, &[u8]) -> Option<CallOutcome>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, read_response);
}

/// Every input is read or refused. A value that was read stays the same when another library writes it and it is read again.
/// `read` is the reader under test.
pub fn check(input: &[u8], read: Reader) {
    let (content_type, body) = parts(input);
    let Some(outcome) = read(content_type, body) else { return };
    let written = match &outcome {
        CallOutcome::Returned(value) => {
            let Some(value) = anew(value) else { return };
            MethodResponse { value }.to_xml()
        }
        CallOutcome::Fault { code, text } => {
            let Ok(code) = code.parse() else { return };
            FaultResponse { fault: dxr::Fault::new(code, text.clone()) }.to_xml()
        }
    };
    let written = written.expect("an answer can be written");
    let Some(again) = read(None, written.as_bytes()) else {
        // A text without a type is written with it, which is a level more.
        assert!(written.matches("</value>").count() > 15, "what was written cannot be read: {written}");
        return;
    };
    // As text, because NaN is not equal to itself, and because a code can be written in two ways.
    assert_eq!(shown(&again), shown(&outcome), "{written}");
}

fn shown(outcome: &CallOutcome) -> String {
    match outcome {
        CallOutcome::Returned(value) => format!("{value:?}"),
        CallOutcome::Fault { code, text } => format!("{:?} {text:?}", code.parse::<i32>()),
    }
}

/// The value as the other library has it; `None` if it does not take every value of the type.
fn anew(value: &Value) -> Option<dxr::Value> {
    Some(match value {
        Value::Int(number) => dxr::Value::Long(*number),
        Value::Boolean(boolean) => dxr::Value::Boolean(*boolean),
        Value::Double(number) => dxr::Value::Double(*number),
        Value::Text(text) => dxr::Value::String(text.clone()),
        Value::Date(date) if date.len() == "20261130T05:16:23".len() => {
            dxr::Value::DateTime(date.parse().ok()?)
        }
        Value::Date(_) | Value::Base64(_) => return None,
        Value::Nil => dxr::Value::Nil,
        Value::Array(values) => dxr::Value::Array(values.iter().map(anew).collect::<Option<_>>()?),
        Value::Struct(members) => {
            let member = |(name, value): (&String, &Value)| Some((name.clone(), anew(value)?));
            dxr::Value::Struct(members.iter().map(member).collect::<Option<BTreeMap<_, _>>>()?)
        }
    })
}
