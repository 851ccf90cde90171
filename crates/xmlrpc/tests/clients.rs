//! Documents that real clients have written, as they came from them:
//! Python's `xmlrpc.client`, PHP's and Ruby's `xmlrpc`, Perl's `RPC::XML`, `XMLRPC::Lite` and
//! `Frontier::RPC2`, Node's `xmlrpc`.

mod common;

use common::call;
use countersign_xmlrpc::{Value, read_call, structure};

const ACCENTED: &str = "http://trac.example.org/é";
const PLAIN: &str = "http://trac.example.org/";

macro_rules! sample {
    ($name:literal) => {
        ($name, include_bytes!(concat!("samples/", $name, ".xml")) as &[u8])
    };
}

#[test]
fn token_bound_or_not() {
    let rows = [
        (sample!("node-none"), None),
        (sample!("node-one"), Some(ACCENTED)),
        (sample!("perl-frontier-one"), Some(PLAIN)),
        (sample!("perl-rpc-xml-none"), None),
        (sample!("perl-rpc-xml-one"), Some(ACCENTED)),
        (sample!("perl-xmlrpc-lite-none"), None),
        (sample!("perl-xmlrpc-lite-one"), Some(PLAIN)),
        (sample!("php-none"), None),
        (sample!("php-one"), Some(ACCENTED)),
        (sample!("php-latin1"), Some(ACCENTED)),
        (sample!("php-cdata"), Some(ACCENTED)),
        (sample!("python-none"), None),
        (sample!("python-one"), Some(ACCENTED)),
        (sample!("python-latin1"), Some(ACCENTED)),
        (sample!("ruby-none"), None),
        (sample!("ruby-one"), Some(ACCENTED)),
    ];
    for ((name, body), url) in rows {
        let expected = url.map_or("unbound".to_owned(), |url| format!("for {url}"));
        let answer = call(Some("text/xml"), body);
        assert_eq!(answer.fault_code, None, "{name}: {}", answer.document);
        assert_eq!(answer.method, Some("newBugTrackerToken"), "{name}");
        assert!(
            answer.document.contains(&format!("<string>{expected}</string>")),
            "{name}: {}",
            answer.document
        );
    }
}

#[test]
fn utf16() {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-16\"?><methodCall><methodName>newBugTrackerToken</methodName>\
         <params><param><value>{ACCENTED}</value></param></params></methodCall>"
    );
    for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let body: Vec<u8> = text.encode_utf16().flat_map(bytes).collect();
        let answer = call(Some("text/xml; charset=utf-16"), &body);
        assert!(answer.document.contains(&format!("for {ACCENTED}")), "{}", answer.document);
    }
}

#[test]
fn every_type_of_python() {
    let call = read_call(None, sample!("python-types").1).expect("a call");
    assert_eq!(call.method, "types");
    assert_eq!(
        call.parameters,
        [
            Value::Integer(1),
            Value::Boolean(true),
            Value::Double(1.5),
            Value::String(" s ".into()),
            Value::Base64(b"hello".repeat(20)),
            Value::DateTime("20261123T21:11:00".parse().expect("a date")),
            structure([
                ("a", Value::Array(vec![Value::Integer(1), Value::Nil])),
                ("b", Value::String("<&>".into())),
            ]),
        ]
    );
}

#[test]
fn multicall_of_python() {
    let answer = call(Some("text/xml"), sample!("python-multicall").1);
    assert_eq!(
        answer.document,
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <methodResponse><params><param><value><array><data>\
             <value><array><data><value><string>unbound</string></value></data></array></value>\
             <value><array><data><value><string>for {ACCENTED}</string></value></data></array></value>\
             </data></array></value></param></params></methodResponse>"
        )
    );
}
