//! Writing documents, and making values to put in them.

use dxr::{DateTime, Fault, FaultResponse, MethodResponse, Value};
use jiff::civil;

use crate::chars::{first_illegal, is_legal};
use crate::fault;

/// The Content-Type of every document that this crate writes.
pub const CONTENT_TYPE: &str = "text/xml; charset=utf-8";

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";

/// Sent should a fault itself fail to serialise, so that the caller gets an answer in any case.
const LAST_RESORT: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
    <methodResponse><fault><value><struct>\
    <member><name>faultCode</name><value><i4>-32603</i4></value></member>\
    <member><name>faultString</name><value><string>The server failed to write its answer.</string></value></member>\
    </struct></value></fault></methodResponse>";

/// The response document that carries this value.
///
/// Characters that XML cannot carry, such as most control characters, are replaced by U+FFFD.
pub fn response_document(value: Value) -> String {
    if let Value::String(text) = &value
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        // A token. It needs no escapes, and the serialiser's way there takes several times as long
        // (benches/call.rs).
        let (before, after) = (
            "<methodResponse><params><param><value><string>",
            "</string></value></param></params></methodResponse>",
        );
        return [DECLARATION, before, text, after].concat();
    }
    match (MethodResponse { value }).to_xml() {
        Ok(xml) => document(&xml),
        Err(_) => fault_document(fault::internal()),
    }
}

/// The response document that carries this fault, with characters replaced as in [`response_document`].
pub fn fault_document(fault: Fault) -> String {
    (FaultResponse { fault }).to_xml().map_or_else(|_| LAST_RESORT.to_owned(), |xml| document(&xml))
}

/// Completes a document. Markup never has illegal characters, so that all of it can be looked over at once.
fn document(xml: &str) -> String {
    let mut document = String::with_capacity(DECLARATION.len() + xml.len());
    document.push_str(DECLARATION);
    if first_illegal(xml).is_some() {
        document.extend(xml.chars().map(|c| if is_legal(c) { c } else { char::REPLACEMENT_CHARACTER }));
    } else {
        document.push_str(xml);
    }
    document
}

/// A `dateTime.iso8601`, such as `20261123T21:11:00`, to the second.
///
/// The type has no time zone; by this product's convention it is UTC.
///
/// # Errors
///
/// [`fault::INTERNAL`] for a year before 0, which the type cannot express.
pub fn date_time(utc: civil::DateTime) -> Result<DateTime, Fault> {
    utc.strftime("%Y%m%dT%H:%M:%S").to_string().parse().map_err(|_| fault::internal())
}

/// A struct with these members.
pub fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_written() {
        assert_eq!(
            response_document(structure([
                ("token_id", Value::String("a<b&c\r".into())),
                ("date_consumed", Value::Boolean(false)),
                ("list", Value::Array(vec![Value::Integer(-1), Value::Array(vec![])])),
            ])),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <methodResponse><params><param><value><struct>\
             <member><name>date_consumed</name><value><boolean>0</boolean></value></member>\
             <member><name>list</name><value><array><data><value><i4>-1</i4></value>\
             <value><array><data></data></array></value></data></array></value></member>\
             <member><name>token_id</name><value><string>a&lt;b&amp;c&#13;</string></value></member>\
             </struct></value></param></params></methodResponse>"
        );
    }

    #[test]
    fn both_writers_write_the_same_string() {
        for text in ["cs1abc234", "0", ""] {
            let value = Value::String(text.into());
            let serialised = document(&MethodResponse { value: value.clone() }.to_xml().unwrap());
            assert_eq!(response_document(value), serialised);
        }
    }

    #[test]
    fn fault_is_written() {
        assert_eq!(
            fault_document(Fault::new(-32500, "no <such> token\u{1b}".into())),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <methodResponse><fault><value><struct>\
             <member><name>faultCode</name><value><i4>-32500</i4></value></member>\
             <member><name>faultString</name><value><string>no &lt;such&gt; token\u{fffd}</string></value></member>\
             </struct></value></fault></methodResponse>"
        );
        assert_eq!(
            FaultResponse::from_xml(LAST_RESORT).map(|response| response.fault.code()),
            Ok(fault::INTERNAL),
        );
    }

    #[test]
    fn dates_are_written() {
        let date = date_time(civil::datetime(2026, 11, 23, 21, 11, 0, 999)).unwrap();
        assert_eq!(date.to_string(), "20261123T21:11:00");
        assert_eq!(date_time(civil::datetime(7, 1, 2, 3, 4, 5, 0)).unwrap().to_string(), "00070102T03:04:05");
        assert_eq!(date_time(civil::datetime(-1, 1, 1, 0, 0, 0, 0)).unwrap_err().code(), fault::INTERNAL);
    }
}
