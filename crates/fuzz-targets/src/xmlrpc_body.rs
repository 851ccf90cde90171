//! The body of an XML-RPC request, and its Content-Type.
//!
//! An input is the body; if its first line begins with `Content-Type:`, that line is the header and the rest the body.

use countersign_xmlrpc::{
    Arguments, Fault, Method, Parameter, RpcResponse, Service, Type, Value, fault, read_call, respond,
    structure,
};
use dxr::{FaultResponse, MethodCall, MethodResponse};
use quick_xml::Reader;
use quick_xml::events::Event;

/// The only faults that a caller can cause.
const CODES: [i32; 7] = [
    fault::NOT_WELL_FORMED,
    fault::UNSUPPORTED_ENCODING,
    fault::INVALID_CHARACTER,
    fault::INVALID_CALL,
    fault::NO_SUCH_METHOD,
    fault::INVALID_PARAMETERS,
    fault::APPLICATION,
];

/// The longest sentence of a fault, in bytes; with a quoted name it is well below.
const MAX_SENTENCE: usize = 500;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, |answer| answer);
}

/// Every input is answered by a well-formed response or by a known fault that repeats nothing of the parameters,
/// and a call that is understood is understood again when it is written anew. `pass` is what each answer goes through.
pub fn check(input: &[u8], pass: fn(RpcResponse) -> RpcResponse) {
    let (content_type, body) = parts(input);
    let answer = pass(crate::block_on(respond(&Tokens, content_type, body)));
    check_answer(body, &answer);
    if let Ok(call) = read_call(content_type, body) {
        if let Some(code) = answer.fault_code {
            assert!(
                code != fault::NOT_WELL_FORMED && code != fault::INVALID_CALL,
                "{code} for a call that can be read"
            );
            hides_parameters(&call.parameters, &answer.document);
        }
        check_written_anew(call.method, call.parameters);
    }
}

pub(crate) fn parts(input: &[u8]) -> (Option<&str>, &[u8]) {
    let header = || {
        let rest = input.strip_prefix(b"Content-Type:")?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (value, body) = rest.split_at_checked(end)?;
        Some((std::str::from_utf8(value).ok()?.trim(), body.get(1..)?))
    };
    header().map_or((None, input), |(value, body)| (Some(value), body))
}

/// The document is a response, and a fault is one that the caller caused, in a sentence of reasonable length.
fn check_answer(body: &[u8], answer: &RpcResponse) {
    let document = &answer.document;
    is_well_formed(document);
    let Some(code) = answer.fault_code else {
        assert!(MethodResponse::from_xml(document).is_ok(), "not a response: {document}");
        return;
    };
    let fault = FaultResponse::from_xml(document).expect("a fault").fault;
    assert_eq!(fault.code(), code, "{document}");
    assert!(CODES.contains(&code), "a caller cannot cause fault {code}: {document}");
    assert!(fault.string().len() < MAX_SENTENCE, "{document}");
    // The guard is to find all that the deserialiser would refuse without a reason.
    let given_up = fault.string() == "A value of the call cannot be read.";
    assert!(!given_up, "no reason is given for {}", body.escape_ascii());
}

fn is_well_formed(document: &str) {
    let legal = |c| matches!(c, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..);
    assert!(document.chars().all(legal), "XML cannot carry a character in {document:?}");
    let mut reader = Reader::from_str(document);
    while reader.read_event().expect("well-formed XML") != Event::Eof {}
}

/// A parameter may be a login token, and faults get logged.
fn hides_parameters(parameters: &[Value], document: &str) {
    for parameter in parameters {
        match parameter {
            Value::String(text) if text.starts_with("cs1") && text.len() >= 16 => {
                assert!(!document.contains(text), "a token is told: {document}");
            }
            Value::Array(values) => hides_parameters(values, document),
            Value::Struct(members) => {
                for value in members.values() {
                    hides_parameters(std::slice::from_ref(value), document);
                }
            }
            _ => {}
        }
    }
}

fn check_written_anew(method: String, parameters: Vec<Value>) {
    let first =
        MethodCall { name: method.into(), params: parameters }.to_xml().expect("a call can be written");
    let again = match read_call(None, first.as_bytes()) {
        Ok(again) => again,
        // An untyped value is written with its type, which is a level more.
        Err(fault) if fault.string().contains("nested deeper") => return,
        Err(fault) => panic!("what was written cannot be read: {fault}: {first}"),
    };
    // As text, because NaN is not equal to itself.
    let second = MethodCall { name: again.method.into(), params: again.parameters }.to_xml();
    assert_eq!(second.as_ref(), Ok(&first));
}

/// A service like the token server's, which never fails by itself.
struct Tokens;

const METHODS: &[Method] = &[
    Method {
        name: "newBugTrackerToken",
        returns: Type::String,
        parameters: &[Parameter::optional("bugtracker_url", Type::String)],
        help: "Makes a token.",
    },
    Method {
        name: "getLoginToken",
        returns: Type::Struct,
        parameters: &[Parameter::required("token_id", Type::String)],
        help: "Looks at a token.",
    },
    Method {
        name: "mixed",
        returns: Type::Array,
        parameters: &[
            Parameter::required("count", Type::Int),
            Parameter::optional("when", Type::DateTime),
            Parameter::optional("note", Type::Base64),
        ],
        help: "",
    },
];

impl Service for Tokens {
    fn methods(&self) -> &'static [Method] {
        METHODS
    }

    async fn call(&self, method: &'static str, arguments: Arguments) -> Result<Value, Fault> {
        match method {
            "newBugTrackerToken" => {
                let url: Option<String> = arguments.optional("bugtracker_url")?;
                Ok(Value::String(url.unwrap_or_else(|| "unbound".to_owned())))
            }
            "getLoginToken" => {
                let token: String = arguments.required("token_id")?;
                if token.starts_with("cs1") {
                    return Err(fault::application("This server never issued that token."));
                }
                Ok(structure([("token_id", Value::String(token)), ("date_consumed", Value::Boolean(false))]))
            }
            _ => {
                let count: i32 = arguments.required("count")?;
                let note: Option<Vec<u8>> = arguments.optional("note")?;
                Ok(Value::Array(vec![Value::Integer(count), note.map_or(Value::Nil, Value::Base64)]))
            }
        }
    }
}
