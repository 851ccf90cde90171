//! Reads the answer to an XML-RPC call from an untrusted server.
//!
//! The parser reads every well-formed document with an answer in it, in any encoding, and ignores additions: a token may have
//! been spent on it. It does not recurse and expands no entities.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

/// The deepest nesting of elements that is read. A real answer has up to 17 levels.
const MAX_DEPTH: usize = 64;

/// What a call came to.
#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    /// The method returned this.
    Returned(ResponseValue),
    /// The method, or something below it, refused.
    Fault {
        /// A number as text. Perl's library answers some calls with a word.
        code: String,
        /// The reason, in the server's words.
        text: String,
    },
}

/// A value of an answer: more forgiving than [`crate::Value`], because a server may write what no specification knows.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseValue {
    /// `int`, `i4` or `i8`.
    Int(i64),
    /// `boolean`.
    Boolean(bool),
    /// `double`.
    Double(f64),
    /// `string`, or a value without a type.
    Text(String),
    /// `dateTime.iso8601`, as it was written.
    Date(String),
    /// `base64`, as it was written.
    Base64(String),
    /// `nil`.
    Nil,
    /// `array`.
    Array(Vec<ResponseValue>),
    /// `struct`; of two members of one name the last.
    Struct(BTreeMap<String, ResponseValue>),
}

impl ResponseValue {
    /// The type's name, with its article, for a sentence.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Double(_) => "a double",
            Self::Text(_) => "a string",
            Self::Date(_) => "a date",
            Self::Base64(_) => "base64",
            Self::Nil => "nil",
            Self::Array(_) => "an array",
            Self::Struct(_) => "a struct",
        }
    }

    /// The member of this name, if it is a struct that has it.
    pub fn member(&self, name: &str) -> Option<&ResponseValue> {
        match self {
            Self::Struct(members) => members.get(name),
            _ => None,
        }
    }

    /// Numbers and strings as text: some servers write the one for the other.
    pub fn to_text(&self) -> Option<String> {
        match self {
            Self::Int(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

/// Reads a `<methodResponse>`, with the Content-Type that it came with; `None` if it is not one.
pub fn read_response(content_type: Option<&str>, body: &[u8]) -> Option<CallOutcome> {
    let xml = crate::decode(content_type, body).ok()?;
    let mut reader = Reader::from_str(&xml);
    let mut answer = ResponseReader::default();
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => answer.start(tag.name().as_ref(), tag.local_name().as_ref())?,
            Event::Empty(tag) => {
                answer.start(tag.name().as_ref(), tag.local_name().as_ref())?;
                answer.end()?;
            }
            Event::End(_) => answer.end()?,
            Event::Text(text) => answer.text(&text),
            Event::CData(text) => answer.text(&text),
            Event::GeneralRef(reference) => answer.text(&resolve(&reference)?),
            // Entities of its own could expand without limit.
            Event::DocType(_) => return None,
            Event::Eof => return answer.finish(),
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
        }
    }
}

fn resolve(reference: &BytesRef<'_>) -> Option<String> {
    match reference.resolve_char_ref().ok()? {
        Some(c) => Some(c.to_string()),
        None => resolve_predefined_entity(reference).map(str::to_owned),
    }
}

/// What has been read so far.
#[derive(Default)]
struct ResponseReader {
    open: Vec<OpenElement>,
    outcome: Option<CallOutcome>,
}

/// An element that is not closed yet.
enum OpenElement {
    /// `methodResponse`, `params`, `param`, `data`, and unknown elements.
    Other(String),
    Fault,
    Value {
        typed: Option<ResponseValue>,
        text: String,
    },
    Scalar {
        kind: String,
        text: String,
    },
    Array(Vec<ResponseValue>),
    Struct(BTreeMap<String, ResponseValue>),
    Member {
        name: String,
        value: Option<ResponseValue>,
    },
    Name(String),
}

impl ResponseReader {
    fn start(&mut self, name: &str, local_name: &str) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        let opened = match (self.open.last(), name) {
            (None, "methodResponse") if self.outcome.is_none() => OpenElement::Other(name.to_owned()),
            (None, _) => return None,
            (_, "value") => OpenElement::Value { typed: None, text: String::new() },
            (Some(OpenElement::Value { .. }), "array") => OpenElement::Array(Vec::new()),
            (Some(OpenElement::Value { .. }), "struct") => OpenElement::Struct(BTreeMap::new()),
            // Apache's library writes its extensions as <ex:nil/> and <ex:i8>.
            (Some(OpenElement::Value { .. }), _) => {
                OpenElement::Scalar { kind: local_name.to_owned(), text: String::new() }
            }
            (Some(OpenElement::Struct(_)), "member") => {
                OpenElement::Member { name: String::new(), value: None }
            }
            (Some(OpenElement::Member { .. }), "name") => OpenElement::Name(String::new()),
            (Some(OpenElement::Other(parent)), "fault") if parent == "methodResponse" => OpenElement::Fault,
            _ => OpenElement::Other(name.to_owned()),
        };
        self.open.push(opened);
        Some(())
    }

    fn text(&mut self, more: &str) {
        if let Some(
            OpenElement::Value { text, .. } | OpenElement::Scalar { text, .. } | OpenElement::Name(text),
        ) = self.open.last_mut()
        {
            text.push_str(more);
        }
    }

    fn end(&mut self) -> Option<()> {
        let value = match self.open.pop()? {
            OpenElement::Value { typed, text } => {
                return self.put(typed.unwrap_or(ResponseValue::Text(text)));
            }
            OpenElement::Scalar { kind, text } => scalar(&kind, text)?,
            OpenElement::Array(values) => ResponseValue::Array(values),
            OpenElement::Struct(members) => ResponseValue::Struct(members),
            OpenElement::Member { name, value } => {
                if let (Some(OpenElement::Struct(members)), Some(value)) = (self.open.last_mut(), value) {
                    members.insert(name, value);
                }
                return Some(());
            }
            OpenElement::Name(text) => {
                if let Some(OpenElement::Member { name, .. }) = self.open.last_mut() {
                    text.trim().clone_into(name);
                }
                return Some(());
            }
            OpenElement::Other(_) | OpenElement::Fault => return Some(()),
        };
        // A value has one type.
        match self.open.last_mut()? {
            OpenElement::Value { typed, .. } if typed.is_none() => *typed = Some(value),
            _ => return None,
        }
        Some(())
    }

    /// Puts a whole value where it belongs. The first one counts where one is expected; more do no harm.
    fn put(&mut self, new: ResponseValue) -> Option<()> {
        let mut holders = self
            .open
            .iter_mut()
            .rev()
            .filter(|open| !matches!(open, OpenElement::Other(name) if name == "data"));
        match holders.next()? {
            OpenElement::Array(values) => values.push(new),
            OpenElement::Member { value, .. } => drop(value.get_or_insert(new)),
            OpenElement::Fault => {
                let text = |name| new.member(name).and_then(ResponseValue::to_text);
                let fault = CallOutcome::Fault { code: text("faultCode")?, text: text("faultString")? };
                self.outcome.get_or_insert(fault);
            }
            OpenElement::Other(name) if name == "param" => {
                self.outcome.get_or_insert(CallOutcome::Returned(new));
            }
            _ => {}
        }
        Some(())
    }

    fn finish(self) -> Option<CallOutcome> {
        self.outcome.filter(|_| self.open.is_empty())
    }
}

fn scalar(kind: &str, text: String) -> Option<ResponseValue> {
    let trimmed = text.trim();
    Some(match kind {
        "int" | "i4" | "i8" => ResponseValue::Int(trimmed.parse().ok()?),
        "boolean" => match trimmed {
            "0" | "false" => ResponseValue::Boolean(false),
            "1" | "true" => ResponseValue::Boolean(true),
            _ => return None,
        },
        "double" => ResponseValue::Double(trimmed.parse().ok()?),
        "dateTime.iso8601" => ResponseValue::Date(trimmed.to_owned()),
        "base64" => ResponseValue::Base64(trimmed.to_owned()),
        "nil" => ResponseValue::Nil,
        _ => ResponseValue::Text(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_utf8(body: &[u8]) -> Option<CallOutcome> {
        read_response(Some("text/xml; charset=utf-8"), body)
    }

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
            let expected = CallOutcome::Fault { code: read_as.to_owned(), text: "No <b>.".to_owned() };
            assert_eq!(read_utf8(fault(code).as_bytes()), Some(expected), "{code}");
        }
    }

    #[test]
    fn values_are_parsed() {
        let answer =
            returned("<struct><member><name>user_id</name><value><int>7</int></value></member></struct>");
        let Some(CallOutcome::Returned(ResponseValue::Struct(members))) = read_utf8(answer.as_bytes()) else {
            panic!("not a struct")
        };
        assert_eq!(members.get("user_id"), Some(&ResponseValue::Int(7)));
        assert_eq!(
            read_utf8(returned("plain").as_bytes()),
            Some(CallOutcome::Returned(ResponseValue::Text("plain".to_owned())))
        );
    }

    #[test]
    fn invalid_answers_are_rejected() {
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
            "<methodResponse><params><param><value>x</value></param></params></methodResponse><methodResponse/>",
            "<a><params><param><value>x</value></param></params></a>",
            &returned("<int>x</int>"),
            &returned("<int>1</int><int>2</int>"),
            &fault("<boolean>1</boolean>"),
            &deep,
        ] {
            assert_eq!(read_utf8(body.as_bytes()), None, "{body:.80}");
        }
        assert_eq!(read_utf8(b"\xff"), None);
    }

    #[test]
    fn every_type_is_read() {
        let member =
            |name: &str, value: &str| format!("<member><name>{name}</name><value>{value}</value></member>");
        let answer = returned(&format!(
            "<struct>{}{}{}{}{}{}{}</struct>",
            member("n", "<i8> -7 </i8>"),
            member("b", "<boolean>1</boolean>"),
            member("d", "<double>1.5</double>"),
            member("t", "<dateTime.iso8601>2026-11-30T05:16:23Z</dateTime.iso8601>"),
            member("x", "<ex:nil/>"),
            member("e", "<base64>YQ==</base64>"),
            member(
                "a",
                "<array><data><value>&#233;&amp;<![CDATA[<]]></value><value><string/></value></data></array>"
            ),
        ));
        let Some(CallOutcome::Returned(value)) = read_utf8(answer.as_bytes()) else { panic!("no answer") };
        for (name, expected) in [
            ("n", ResponseValue::Int(-7)),
            ("b", ResponseValue::Boolean(true)),
            ("d", ResponseValue::Double(1.5)),
            ("t", ResponseValue::Date("2026-11-30T05:16:23Z".to_owned())),
            ("x", ResponseValue::Nil),
            ("e", ResponseValue::Base64("YQ==".to_owned())),
            (
                "a",
                ResponseValue::Array(vec![
                    ResponseValue::Text("é&<".to_owned()),
                    ResponseValue::Text(String::new()),
                ]),
            ),
        ] {
            assert_eq!(value.member(name), Some(&expected), "{name}");
        }
    }

    #[test]
    fn encodings_are_read() {
        let text = "<?xml version=\"1.0\"?><methodResponse><params><param><value>Größe</value></param></params></methodResponse>";
        let expected = Some(CallOutcome::Returned(ResponseValue::Text("Größe".to_owned())));
        let latin =
            |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>();
        let utf16 = |mark: &str| {
            format!("{mark}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()
        };
        let declared = text.replace("?>", " encoding=\"ISO-8859-1\"?>");
        assert_eq!(read_response(None, format!("\u{feff}{text}").as_bytes()), expected);
        assert_eq!(read_response(None, &utf16("\u{feff}")), expected);
        assert_eq!(read_response(Some("text/xml; charset=utf-16"), &utf16("")), expected);
        assert_eq!(read_response(None, &latin(&declared)), expected);
        assert_eq!(read_response(Some("text/xml; charset=iso-8859-1"), &latin(text)), expected);
    }

    #[test]
    fn unexpected_members_are_ignored() {
        let seven = Some(CallOutcome::Returned(ResponseValue::Int(7)));
        for answer in [
            "<methodResponse><params><param><value><int>7</int></value></param><param><value>8</value></param></params></methodResponse>",
            "<methodResponse><extra a='b'><value>x</value></extra><params><param><value><int>7</int></value><value>y</value></param></params></methodResponse>",
            "<!-- a --><methodResponse>\n<params>\n<param>\n<value>\n<int>7</int>\n</value>\n</param>\n</params>\n</methodResponse>\n",
        ] {
            assert_eq!(read_utf8(answer.as_bytes()), seven, "{answer}");
        }
        let more = fault("<int>10702</int>")
            .replace("<struct>", "<struct><member><name>detail</name><value><nil/></value></member>");
        assert_eq!(read_utf8(more.as_bytes()), read_utf8(fault("<int>10702</int>").as_bytes()));
    }
}
