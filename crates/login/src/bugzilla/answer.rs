//! Reading the answer to an XML-RPC call from somebody who is not trusted.

use dxr::Value;
use quick_xml::Reader;
use quick_xml::events::Event;

/// The deepest nesting of elements that is read. The deserialiser recurses, and a real answer has eight levels.
const MAX_DEPTH: usize = 32;

/// What a call came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Returned(Value),
    /// The code is text because Perl's library answers some of them with a word.
    Fault {
        code: String,
        text: String,
    },
}

/// Reads a `<methodResponse>`; `None` if it is not one.
pub(crate) fn read(body: &[u8]) -> Option<Outcome> {
    let xml = std::str::from_utf8(body).ok()?;
    let (place, value) = only_value(xml)?;
    let value = Value::from_xml(value).ok()?;
    match (place, value) {
        (Place::Parameter, value) => Some(Outcome::Returned(value)),
        (Place::Fault, Value::Struct(members)) => Some(Outcome::Fault {
            code: text(members.get("faultCode")?)?,
            text: text(members.get("faultString")?)?,
        }),
        (Place::Fault, _) => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Integer(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum Place {
    Parameter,
    Fault,
}

/// Finds the `<value>` of the response or of the fault, in a document that is well formed and not too deep.
fn only_value(xml: &str) -> Option<(Place, &str)> {
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<String> = Vec::new();
    let mut started = None;
    let mut found = None;
    loop {
        let before = usize::try_from(reader.buffer_position()).ok()?;
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                open.push(tag.name().as_ref().to_owned());
                if open.len() > MAX_DEPTH {
                    return None;
                }
                if let Some(place) = place(&open) {
                    // There is one value, no more.
                    if started.replace((place, before)).is_some() {
                        return None;
                    }
                }
            }
            Event::End(_) => {
                if let Some((place, start)) = started.filter(|_| place(&open).is_some()) {
                    let end = usize::try_from(reader.buffer_position()).ok()?;
                    found = Some((place, xml.get(start..end)?));
                }
                open.pop();
            }
            // Entities of its own could expand without limit.
            Event::DocType(_) => return None,
            Event::Eof => return found.filter(|_| open.is_empty()),
            _ => {}
        }
    }
}

fn place(open: &[String]) -> Option<Place> {
    let names: Vec<&str> = open.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["methodResponse", "params", "param", "value"] => Some(Place::Parameter),
        ["methodResponse", "fault", "value"] => Some(Place::Fault),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><methodResponse><fault><value><struct>\
             <member><name>faultString</name><value><string>No &lt;b&gt;.</string></value></member>\
             <member><name>faultCode</name><value>{code}</value></member></struct></value></fault></methodResponse>"
        )
    }

    fn returned(value: &str) -> String {
        format!("<methodResponse><params><param><value>{value}</value></param></params></methodResponse>")
    }

    #[test]
    fn faults_with_numbers_and_with_words() {
        for (code, read_as) in [
            ("<int>10702</int>", "10702"),
            ("<i4>-32601</i4>", "-32601"),
            ("<string>Client</string>", "Client"),
            ("Client", "Client"),
        ] {
            let expected = Outcome::Fault { code: read_as.to_owned(), text: "No <b>.".to_owned() };
            assert_eq!(read(fault(code).as_bytes()), Some(expected), "{code}");
        }
    }

    #[test]
    fn values() {
        let answer =
            returned("<struct><member><name>user_id</name><value><int>7</int></value></member></struct>");
        let Some(Outcome::Returned(Value::Struct(members))) = read(answer.as_bytes()) else {
            panic!("not a struct")
        };
        assert_eq!(members.get("user_id"), Some(&Value::Integer(7)));
        assert_eq!(
            read(returned("plain").as_bytes()),
            Some(Outcome::Returned(Value::String("plain".to_owned())))
        );
    }

    #[test]
    fn what_is_not_an_answer() {
        let deep = returned(&format!(
            "{}x{}",
            "<array><data><value>".repeat(2000),
            "</value></data></array>".repeat(2000)
        ));
        for body in [
            "",
            "<html><body>Bugzilla</body></html>",
            "<methodResponse></methodResponse>",
            "<methodResponse><fault><value>x</value></fault></methodResponse>",
            "<methodResponse><params><param><value>x</value></param></params>",
            "<!DOCTYPE x [<!ENTITY a 'b'>]><methodResponse><params><param><value>&a;</value></param></params></methodResponse>",
            "<methodResponse><params><param><value>x</value><value>y</value></param></params></methodResponse>",
            &fault("<boolean>1</boolean>"),
            &deep,
        ] {
            assert_eq!(read(body.as_bytes()), None, "{body:.80}");
        }
        assert_eq!(read(b"\xff"), None);
    }
}
