//! Every input is answered by a valid document, and written values are read back.

#![expect(clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::call;
use countersign_xmlrpc::{Value, fault, read_call, response_document};
use dxr::{FaultResponse, MethodCall, MethodResponse};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const SEED: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<!-- c --><methodCall>\n<methodName>system.multicall</methodName>\
    <params><param><value><array><data><value><struct><member><name>methodName</name><value><string>getLoginToken\
    </string></value></member><member><name>params</name><value><array><data><value>a&amp;&#65;<![CDATA[x]]></value>\
    <value><int>1</int></value><value><boolean>1</boolean></value><value><double>1.5</double></value>\
    <value><dateTime.iso8601>20261123T21:11:00</dateTime.iso8601></value><value><base64>YWI=</base64></value>\
    <value><nil/></value></data></array></value></member></struct></value></data></array></value></param></params>\
    <?pi x?></methodCall>";

/// Pieces that mean something to one of the parsers.
const PIECES: &[&str] = &[
    "<value>",
    "</value>",
    "<value/>",
    "<array>",
    "</array>",
    "<data>",
    "</data>",
    "<struct>",
    "</struct>",
    "<member>",
    "</member>",
    "<name>",
    "</name>",
    "<int>",
    "</int>",
    "<string>",
    "</string>",
    "<nil/>",
    "<i8>1</i8>",
    "<param>",
    "</param>",
    "<params>",
    "</params>",
    "<methodCall>",
    "</methodCall>",
    "<methodName>",
    "</methodName>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?",
    "?>",
    "<!DOCTYPE a [",
    "]>",
    "<!ENTITY a 'b'>",
    "&",
    "&amp;",
    "&#0;",
    "&#x1F600;",
    "&a;",
    ";",
    "<",
    ">",
    "/",
    "=",
    "'",
    "\"",
    " ",
    "\n",
    "\0",
    "a",
    "1",
    "-",
    "é",
    "\u{fffe}",
    "x:",
    " xmlns:x='y'",
    " a='b'",
    "<?xml version='1.0'?>",
    "\u{feff}",
];

fn check_answer(content_type: Option<&str>, body: &[u8]) -> Result<(), TestCaseError> {
    let answer = call(content_type, body);
    if let Some(code) = answer.fault_code {
        let fault = FaultResponse::from_xml(&answer.document).expect("a fault").fault;
        prop_assert_eq!(fault.code(), code);
        prop_assert!(
            [
                fault::NOT_WELL_FORMED,
                fault::UNSUPPORTED_ENCODING,
                fault::INVALID_CHARACTER,
                fault::INVALID_CALL,
                fault::NO_SUCH_METHOD,
                fault::INVALID_PARAMETERS,
                fault::APPLICATION,
            ]
            .contains(&code),
            "{}",
            answer.document
        );
        prop_assert!(fault.string().len() < 500);
        // The guard is to find everything that the deserialiser would refuse without a reason.
        prop_assert!(
            !fault.string().contains("A value of the call cannot be read"),
            "{:?}",
            String::from_utf8_lossy(body)
        );
    } else {
        prop_assert!(MethodResponse::from_xml(&answer.document).is_ok());
    }
    Ok(())
}

fn any_value() -> impl Strategy<Value = Value> {
    // XML cannot carry control characters, and a name of white space alone is refused.
    let text = "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\u{fffe}\u{ffff}]{0,12}";
    let name = text.prop_map(|text: String| format!("{text}x"));
    let scalar = prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::Long),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>().prop_filter("a number", |number| !number.is_nan()).prop_map(Value::Double),
        text.prop_map(Value::String),
        vec(any::<u8>(), 0..12).prop_map(Value::Base64),
        Just(Value::Nil),
        (0..=9999_u16, 1..=12_u8, 1..=28_u8, 0..24_u8, 0..60_u8).prop_map(
            |(year, month, day, hour, minute)| {
                let text = format!("{year:04}{month:02}{day:02}T{hour:02}:{minute:02}:07");
                Value::DateTime(text.parse().expect("a date"))
            }
        ),
    ];
    // Three levels of structs in structs are within the limit on nesting.
    scalar.prop_recursive(3, 32, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map(name.clone(), inner, 0..4)
                .prop_map(|members: BTreeMap<String, Value>| Value::Struct(members)),
        ]
    })
}

proptest! {
    #[test]
    fn random_bytes(body in vec(any::<u8>(), 0..200), content_type in proptest::option::of(".{0,40}")) {
        check_answer(content_type.as_deref(), &body)?;
    }

    #[test]
    fn random_text_in_a_random_encoding(text in "\\PC{0,100}", charset in select(&["utf-8", "utf-16", "iso-8859-1",
        "us-ascii", "shift_jis", "iso-2022-jp", "gb18030", "x-user-defined", "replacement"])) {
        check_answer(Some(&format!("text/xml; charset={charset}")), text.as_bytes())?;
    }

    #[test]
    fn random_pieces(pieces in vec(select(PIECES), 0..40)) {
        check_answer(None, pieces.concat().as_bytes())?;
    }

    #[test]
    fn call_with_random_pieces_in_it(places in vec((any::<Index>(), select(PIECES), any::<bool>()), 1..4)) {
        let mut body = SEED.to_owned();
        for (place, piece, at_tag) in places {
            let mut at = place.index(body.len());
            while !body.is_char_boundary(at) || (at_tag && !body[at..].starts_with('<') && at > 0) {
                at -= 1;
            }
            body.insert_str(at, piece);
        }
        check_answer(None, body.as_bytes())?;
    }

    #[test]
    fn call_with_missing_or_doubled_piece(from in any::<Index>(), length in 0..60_usize, double in any::<bool>()) {
        let from = from.index(SEED.len());
        let until = SEED.len().min(from + length);
        let rest = if double { from } else { until };
        check_answer(None, &[&SEED.as_bytes()[..from.max(if double { until } else { 0 })], &SEED.as_bytes()[rest..]].concat())?;
    }

    #[test]
    fn call_with_bytes_changed(changes in vec((any::<Index>(), any::<u8>()), 1..5)) {
        let mut body = SEED.as_bytes().to_vec();
        for (place, byte) in changes {
            let at = place.index(body.len());
            body[at] = byte;
        }
        check_answer(None, &body)?;
    }

    #[test]
    fn call_comes_back_as_it_was_written(params in vec(any_value(), 0..4)) {
        let body = MethodCall { name: "m".into(), params: params.clone() }.to_xml().expect("a call");
        let call = read_call(None, body.as_bytes()).expect("the same call");
        prop_assert_eq!(call.parameters, params);
    }

    #[test]
    fn any_string_makes_a_valid_response(text in any::<String>()) {
        let document = response_document(Value::String(text));
        let mut reader = quick_xml::Reader::from_str(&document);
        while reader.read_event().expect("XML") != quick_xml::events::Event::Eof {}
        let legal = |c| matches!(c, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..);
        prop_assert!(document.chars().all(legal), "{:?}", document);
    }
}
