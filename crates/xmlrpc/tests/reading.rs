//! What is read, and what is refused with which code.

#![expect(clippy::expect_used, reason = "tests")]

use countersign_xmlrpc::fault::{
    INVALID_CALL, INVALID_CHARACTER, NOT_WELL_FORMED, UNSUPPORTED_ENCODING, body_too_large,
};
use countersign_xmlrpc::{Call, Fault, MAX_ATTRIBUTES, MAX_DEPTH, Value, read_call, structure};

fn read(xml: &str) -> Result<Call, Fault> {
    read_call(Some("text/xml"), xml.as_bytes())
}

/// A call with this as its one parameter's content.
fn with_param(param: &str) -> String {
    format!("<methodCall><methodName>m</methodName><params><param>{param}</param></params></methodCall>")
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[track_caller]
fn refused(xml: &str, code: i32, sentence: &str) {
    let fault = read(xml).expect_err(xml);
    assert_eq!(fault.code(), code, "{xml}: {fault}");
    assert!(fault.string().contains(sentence), "{xml}: {fault}");
    assert!(!fault.string().contains("cs1secret"), "the fault repeats a value: {fault}");
    assert!(fault.string().ends_with('.'), "{fault}");
}

#[test]
fn calls_are_parsed() {
    let rows: &[(&str, &str, usize)] = &[
        ("<methodCall><methodName>m</methodName></methodCall>", "m", 0),
        ("<methodCall><methodName>m</methodName><params/></methodCall>", "m", 0),
        ("<methodCall><methodName>m</methodName><params></params></methodCall>", "m", 0),
        (
            "<methodCall><params>\n</params><methodName>\n  m.n_1:2/3\n</methodName></methodCall>",
            "m.n_1:2/3",
            0,
        ),
        ("\u{feff}<methodCall><methodName>m</methodName></methodCall>", "m", 0),
        ("\n \t\r\n<methodCall ><methodName >m</methodName ></methodCall >\r\n", "m", 0),
        (
            "<?xml version='1.1' encoding='UTF-8' standalone='yes'?><methodCall><methodName>m</methodName></methodCall>",
            "m",
            0,
        ),
        (
            "<!-- - --><methodCall><!-- a --><methodName>m</methodName><?php x?></methodCall><!-- z --><?y?>",
            "m",
            0,
        ),
        (
            "<methodCall xmlns:ex='http://ws.apache.org/x?a=1&amp;b=2'><methodName>m</methodName></methodCall>",
            "m",
            0,
        ),
        ("<methodCall><methodName>m<![CDATA[&n]]>&#x41;&lt;</methodName></methodCall>", "m&nA<", 0),
        (
            "<methodCall><methodName>m</methodName><params><param><value>1</value></param><param><value/></param></params></methodCall>",
            "m",
            2,
        ),
    ];
    for (xml, method, parameters) in rows {
        let call = read(xml).expect(xml);
        assert_eq!((call.method.as_str(), call.parameters.len()), (*method, *parameters), "{xml}");
    }
}

#[test]
fn values_are_parsed() {
    let rows: &[(&str, Value)] = &[
        ("<value/>", string("")),
        ("<value></value>", string("")),
        ("<value> a\n </value>", string(" a\n ")),
        ("<value><string/></value>", string("")),
        ("<value><string> </string></value>", string(" ")),
        ("<value><string> a\r\nb&#13;&#10;c </string></value>", string(" a\nb\r\nc ")),
        ("<value>a&amp;&#66;&#x43;&lt;int&gt;</value>", string("a&BC<int>")),
        ("<value>x<![CDATA[<&>]]>y</value>", string("x<&>y")),
        ("<value><string>x<![CDATA[]]]]><![CDATA[>]]></string></value>", string("x]]>")),
        ("<value>a<!-- c -->b<?pi?>c</value>", string("abc")),
        ("\n <value>\n <string a='b'>x</string>\n </value>\n ", string("x")),
        ("<value><string>&#32;<![CDATA[ ]]></string></value>", string("  ")),
        // White space alone in an untyped value is lost.
        ("<value> </value>", string("")),
        ("<value>&#32;</value>", string("")),
        ("<value><int>\n -7 </int></value>", Value::Integer(-7)),
        ("<value><int>+7</int></value>", Value::Integer(7)),
        ("<value><i4>2147483647</i4></value>", Value::Integer(i32::MAX)),
        ("<value><i8>-9223372036854775808</i8></value>", Value::Long(i64::MIN)),
        ("<value><ex:i8>1</ex:i8></value>", Value::Long(1)),
        ("<value><boolean>1</boolean></value>", Value::Boolean(true)),
        ("<value><double>-1.5e3</double></value>", Value::Double(-1500.0)),
        ("<value><nil/></value>", Value::Nil),
        ("<value><xml:string>a</xml:string></value>", string("a")),
        ("<value><xmlns:int>1</xmlns:int></value>", Value::Integer(1)),
        ("<value><x:array><data><value/></data></x:array></value>", Value::Array(vec![string("")])),
        (
            "<value><x:struct><member><name>a</name><value/></member></x:struct></value>",
            structure([("a", string(""))]),
        ),
        ("<value><ex:nil></ex:nil></value>", Value::Nil),
        ("<value><base64>\nYWJj\nZA==\n</base64></value>", Value::Base64(b"abcd".to_vec())),
        ("<value><base64/></value>", Value::Base64(vec![])),
        (
            "<value><dateTime.iso8601>20240229T23:59:59</dateTime.iso8601></value>",
            Value::DateTime("20240229T23:59:59".parse().unwrap()),
        ),
        ("<value><array><data/></array></value>", Value::Array(vec![])),
        ("<value><array/></value>", Value::Array(vec![])),
        (
            "<value><array><data>\n<value>\n<nil/>\n</value>\n</data></array></value>",
            Value::Array(vec![Value::Nil]),
        ),
        ("<value><struct/></value>", structure([])),
        (
            "<value><struct>\n<member>\n<value>1</value>\n<name>a</name>\n</member>\n</struct></value>",
            structure([("a", string("1"))]),
        ),
        (
            "<value><struct><member><name> a </name><value/></member></struct></value>",
            structure([(" a ", string(""))]),
        ),
        (
            "<value><struct><member><name>a</name><value><struct><member><name>a</name><value>1</value></member>\
             </struct></value></member><member><name>b</name><value>2</value></member></struct></value>",
            structure([("a", structure([("a", string("1"))])), ("b", string("2"))]),
        ),
    ];
    for (xml, value) in rows {
        assert_eq!(read(&with_param(xml)).expect(xml).parameters, std::slice::from_ref(value), "{xml}");
    }
}

#[test]
fn malformed_documents_are_faults() {
    let rows: &[(&str, &str)] = &[
        ("", "empty"),
        (" \r\n", "empty"),
        ("\u{feff}", "empty"),
        ("cs1secret", "outside of the call"),
        ("{\"method\": \"m\"}", "outside of the call"),
        ("<!-- nothing -->", "no element"),
        ("<", "tag not closed"),
        ("<methodCall", "tag not closed"),
        ("<methodCall><methodName>m</methodName>", "before its last element is closed"),
        ("<methodCall><methodName>m</methodCall></methodName>", "end tag does not match"),
        ("<methodCall><methodName>m</cs1secret></methodCall>", "end tag does not match"),
        ("</methodCall>", "end tag does not match"),
        ("<methodCall/></methodCall>", "end tag does not match"),
        ("<methodCall/><methodCall/>", "second element"),
        ("<methodCall/>cs1secret", "outside of the call"),
        ("<methodCall/>&amp;", "outside of the call"),
        ("<methodCall/>&#32;", "outside of the call"),
        ("<methodCall/><![CDATA[ ]]>", "outside of the call"),
        ("<methodCall/><", "tag not closed"),
        ("<methodCall/><!-- ", "comment not closed"),
        ("<foo><bar></foo>", "end tag does not match"),
        ("<methodCall>text<methodName></methodCall>", "end tag does not match"),
        ("<methodCall><!-- a -- b --></methodCall>", "inside a comment"),
        ("<methodCall><methodName>&nbsp;</methodName></methodCall>", "entity"),
        ("<methodCall><methodName>&cs1secret;</methodName></methodCall>", "entity"),
        ("<methodCall><methodName>a & b</methodName></methodCall>", "&amp;"),
        ("<methodCall><methodName>a&b</methodName></methodCall>", "&amp;"),
        ("<methodCall><methodName>&#0;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>&#27;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>&#xD800;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>&#xFFFF;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>&#99999999999;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>&#;</methodName></methodCall>", "character reference"),
        ("<methodCall><methodName>a\u{1}</methodName></methodCall>", "control character"),
        ("<methodCall><methodName>a\0</methodName></methodCall>", "control character"),
        ("<methodCall><methodName>a\u{ffff}</methodName></methodCall>", "control character"),
        ("<methodCall><methodName>a]]></methodName></methodCall>", "]]&gt;"),
        ("<methodCall><methodName>m</methodName><![CDATA[</methodCall>", "CDATA not closed"),
        ("<1/>", "not an XML name"),
        ("<>", "not an XML name"),
        ("< methodCall/>", "not an XML name"),
        ("<methodCall a/>", "attributes"),
        ("<methodCall a=b/>", "attributes"),
        ("<methodCall a='1' a='2'/>", "attributes"),
        ("<methodCall a='<'/>", "attributes"),
        ("<methodCall a='&nbsp;'/>", "attributes"),
        ("<methodCall 1='a'/>", "attributes"),
        ("<methodCall a='/>", "not closed"),
        ("<?xml version='2.0'?><methodCall/>", "declaration"),
        ("<?xml version='1.x'?><methodCall/>", "declaration"),
        ("<?xml encoding='utf-8'?><methodCall/>", "declaration"),
        ("<?xml version='1.0' encoding=utf-8?><methodCall/>", "declaration"),
        ("<?xml?><methodCall/>", "declaration"),
        (" <?xml version='1.0'?><methodCall/>", "elsewhere than at the start"),
        ("<methodCall/><?xml version='1.0'?>", "elsewhere than at the start"),
        ("<methodCall><?XML x?></methodCall>", "processing instruction"),
        ("<methodCall><? x?></methodCall>", "processing instruction"),
        ("<methodCall><?x</methodCall>", "not closed"),
        ("<!ENTITY a 'b'><methodCall/>", "markup"),
    ];
    for (xml, sentence) in rows {
        refused(xml, NOT_WELL_FORMED, sentence);
    }
}

#[test]
fn xml_that_is_no_call_is_rejected() {
    let rows: &[(&str, &str)] = &[
        ("<foo/>", "<foo>, not a <methodCall>"),
        ("<methodResponse><params/></methodResponse>", "<methodResponse>, not a <methodCall>"),
        ("<MethodCall><methodName>m</methodName></MethodCall>", "not a <methodCall>"),
        ("<x:methodCall><methodName>m</methodName></x:methodCall>", "<x:methodCall>, not a <methodCall>"),
        ("<methodCall><xml:methodName>m</xml:methodName></methodCall>", "A <xml:methodName> stands"),
        ("<methodCall><methodName>m</methodName><x:params/></methodCall>", "A <x:params> stands"),
        (
            "<methodCall><methodName>m</methodName><params><x:param/></params></methodCall>",
            "A <x:param> stands",
        ),
        ("<methodCall/>", "no <methodName>"),
        ("<methodCall methodName='m'/>", "no <methodName>"),
        ("<methodCall><params/></methodCall>", "no <methodName>"),
        ("<methodCall><methodName/></methodCall>", "<methodName> is empty"),
        ("<methodCall><methodName> <!-- m --> </methodName></methodCall>", "<methodName> is empty"),
        ("<methodCall><methodName>&#32;</methodName></methodCall>", "<methodName> is empty"),
        (
            "<methodCall><methodName>m</methodName><methodName>n</methodName></methodCall>",
            "second <methodName>",
        ),
        ("<methodCall><methodName>m</methodName><params/><params/></methodCall>", "second <params>"),
        ("<methodCall><methodName>m</methodName><x/></methodCall>", "A <x> stands"),
        ("<methodCall>cs1secret<methodName>m</methodName></methodCall>", "text between elements"),
        ("<methodCall><methodName>m<b/></methodName></methodCall>", "A <b> stands"),
        (
            "<methodCall><methodName>m</methodName><params><value>cs1secret</value></params></methodCall>",
            "A <value> stands",
        ),
        (
            "<methodCall><methodName>m</methodName><param><value>cs1secret</value></param></methodCall>",
            "A <param> stands",
        ),
        (
            "<methodCall><methodName>m</methodName><params>cs1secret</params></methodCall>",
            "text between elements",
        ),
        (
            "<methodCall><methodName>m</methodName><params>&amp;</params></methodCall>",
            "text between elements",
        ),
        (
            "<methodCall><methodName>m</methodName><params><![CDATA[x]]></params></methodCall>",
            "text between elements",
        ),
        ("<!DOCTYPE methodCall><methodCall><methodName>m</methodName></methodCall>", "<!DOCTYPE>"),
        (
            "<!DOCTYPE a [<!ENTITY b 'cs1secret'>]><methodCall><methodName>&b;</methodName></methodCall>",
            "<!DOCTYPE>",
        ),
        ("<methodCall><!DOCTYPE a><methodName>m</methodName></methodCall>", "<!DOCTYPE>"),
    ];
    for (xml, sentence) in rows {
        refused(xml, INVALID_CALL, sentence);
    }
}

#[test]
fn invalid_values_are_rejected() {
    let rows: &[(&str, &str)] = &[
        ("", "no <value>"),
        ("<value/><value/>", "second <value>"),
        ("<value/>cs1secret", "text between elements"),
        ("<int>1</int>", "A <int> stands"),
        ("<value a='b'>cs1secret</value>", "attributes"),
        ("<value xmlns='b'/>", "attributes"),
        ("<value><int>2147483648</int></value>", "<int> does not hold a whole number from"),
        ("<value><i4>-2147483649</i4></value>", "<i4> does not hold"),
        ("<value><int>cs1secret</int></value>", "<int> does not hold"),
        ("<value><int>1.0</int></value>", "<int> does not hold"),
        ("<value><int/></value>", "<int> does not hold"),
        ("<value><int></int></value>", "<int> does not hold"),
        ("<value><i8>9223372036854775808</i8></value>", "<i8> does not hold"),
        ("<value><boolean>true</boolean></value>", "<boolean> does not hold 0 or 1"),
        ("<value><boolean>2</boolean></value>", "<boolean> does not hold 0 or 1"),
        ("<value><boolean/></value>", "<boolean> does not hold 0 or 1"),
        ("<value><double>cs1secret</double></value>", "<double> does not hold"),
        ("<value><base64>cs1secret!</base64></value>", "<base64> does not hold"),
        ("<value><base64>YWI</base64></value>", "<base64> does not hold"),
        (
            "<value><dateTime.iso8601>20260229T00:00:00</dateTime.iso8601></value>",
            "<dateTime.iso8601> does not hold",
        ),
        (
            "<value><dateTime.iso8601>2026-02-28T00:00:00Z</dateTime.iso8601></value>",
            "<dateTime.iso8601> does not hold",
        ),
        ("<value><bogus>cs1secret</bogus></value>", "<bogus> is not a type"),
        ("<value><Int>1</Int></value>", "<Int> is not a type"),
        ("<value><int>1</int><int>2</int></value>", "second <int>"),
        ("<value><int>1</int><nil/></value>", "second <nil>"),
        ("<value>cs1secret<int>1</int></value>", "both text and a type"),
        ("<value><int>1</int>cs1secret</value>", "both text and a type"),
        ("<value><string><b>cs1secret</b></string></value>", "A <b> stands"),
        ("<value><nil>cs1secret</nil></value>", "text between elements"),
        ("<value><value>1</value></value>", "A <value> stands"),
        ("<value><array><value>cs1secret</value></array></value>", "A <value> stands"),
        ("<value><array><data/><data/></array></value>", "second <data>"),
        ("<value><array><data><int>1</int></data></array></value>", "A <int> stands"),
        ("<value><array><data>cs1secret</data></array></value>", "text between elements"),
        ("<value><array>cs1secret</array></value>", "text between elements"),
        ("<value><struct><value/></struct></value>", "A <value> stands"),
        ("<value><struct>cs1secret</struct></value>", "text between elements"),
        ("<value><struct><member/></struct></value>", "one <name> and one <value>"),
        ("<value><struct><member><name>a</name></member></struct></value>", "one <name> and one <value>"),
        ("<value><struct><member><value>a</value></member></struct></value>", "one <name> and one <value>"),
        (
            "<value><struct><member><name/><value>a</value></member></struct></value>",
            "<name> of a struct's member is empty",
        ),
        (
            "<value><struct><member><name>a</name><name>b</name><value/></member></struct></value>",
            "second <name>",
        ),
        ("<value><struct><member><name>a</name><value/><value/></member></struct></value>", "second <value>"),
        (
            "<value><struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct></value>",
            "two members of the same name",
        ),
        (
            "<value><struct><member><name>a&amp;b</name><value/></member>\
             <member><name>&#97;<![CDATA[&]]>b</name><value/></member></struct></value>",
            "two members of the same name",
        ),
        (
            "<value><struct><member><name>a</name><value><struct><member><name>b</name><value/></member>\
             <member><name>b</name><value/></member></struct></value></member></struct></value>",
            "two members of the same name",
        ),
        (
            "<value><struct><member><name>a</name><value><array><data><value><int>x</int></value></data></array></value></member></struct></value>",
            "<int> does not hold",
        ),
    ];
    for (xml, sentence) in rows {
        refused(&with_param(xml), INVALID_CALL, sentence);
    }
}

#[test]
fn undecodable_bytes_are_faults() {
    let fault = read_call(Some("text/xml; charset=utf-7"), b"<methodCall/>").unwrap_err();
    assert_eq!(fault.code(), UNSUPPORTED_ENCODING);
    assert_eq!(fault.string(), "The encoding utf-7 is not supported. Send the call as UTF-8.");
    let fault = read_call(None, b"<methodCall>\xe9</methodCall>").unwrap_err();
    assert_eq!(fault.code(), INVALID_CHARACTER);
    assert!(fault.string().starts_with("The call was read as UTF-8, but contains bytes"), "{fault}");
}

#[test]
fn nesting_up_to_the_limit() {
    // methodCall, params, param and value enclose it; an array is three levels, the innermost value is empty.
    let nested = |arrays: usize| {
        let open = "<array><data><value>".repeat(arrays);
        let close = "</value></data></array>".repeat(arrays);
        with_param(&format!("<value>{open}{close}</value>"))
    };
    let fits = (MAX_DEPTH - 4) / 3;
    assert!(read(&nested(fits)).is_ok());
    refused(&nested(fits + 1), INVALID_CALL, "nested deeper than 32 elements");
    refused(&nested(100_000), INVALID_CALL, "nested deeper than 32 elements");
    refused(&"<a>".repeat(1_000_000), INVALID_CALL, "nested deeper than 32 elements");
}

#[test]
fn attributes_up_to_the_limit() {
    let with = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("a{number}='x'")).collect();
        let attributes = names.join(" ");
        format!("<methodCall {attributes}><methodName>m</methodName></methodCall>")
    };
    assert!(read(&with(MAX_ATTRIBUTES)).is_ok());
    refused(&with(MAX_ATTRIBUTES + 1), INVALID_CALL, "more than 16 attributes");
    refused(&with(100_000), INVALID_CALL, "more than 16 attributes");
}

#[test]
fn element_name_is_cut_short() {
    let fault = read(&format!("<{}/>", "a".repeat(100_000))).unwrap_err();
    assert_eq!(fault.string(), format!("The document is a <{}...>, not a <methodCall>.", "a".repeat(40)));
}

#[test]
fn fault_for_a_large_body() {
    let fault = body_too_large(65_536);
    assert_eq!(fault.code(), INVALID_CALL);
    assert_eq!(fault.string(), "The request body is larger than 65536 bytes. Send a smaller call.");
}

#[test]
fn debug_shows_no_value() {
    let call = read(&with_param("<value>cs1secret</value>")).unwrap();
    assert_eq!(format!("{call:?}"), "Call { method: \"m\", parameters: 1 }");
}
