//! Reading a call.

use std::fmt;

use dxr::{MethodCall, Value};
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::chars::is_space;
use crate::decode::decode;
use crate::fault::{Fault, invalid_call};
use crate::grammar::scalar_range;
use crate::guard;

/// A call as it was read: some method, some parameters.
///
/// Its `Debug` shows how many parameters there are, not what they hold: they may be login tokens.
#[derive(Clone, PartialEq)]
pub struct Call {
    /// The method's name, without white space around it.
    pub method: String,
    /// The parameters, in order.
    pub parameters: Vec<Value>,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Call")
            .field("method", &self.method)
            .field("parameters", &self.parameters.len())
            .finish()
    }
}

/// Reads a call from a request's body and, if there is one, the value of its Content-Type header.
///
/// The header counts for its `charset` parameter only. Without that, a byte order mark or the XML declaration
/// tells the encoding, else it is UTF-8. Time and memory are proportional to the body, whose size is the
/// caller's to limit ([`crate::fault::body_too_large`]).
///
/// Beyond the specification, `<i8>` and `<nil/>` are understood, also as `<ex:i8>` and `<ex:nil/>`, and so are
/// comments, CDATA sections and processing instructions. An untyped `<value>` is a string, but white space
/// alone in one is read as an empty string. A struct with two members of one name is refused. Attributes are
/// ignored, except that a `<value>` with one is refused. White space is allowed around numbers and base64
/// data, not around booleans and dates.
///
/// # Errors
///
/// A fault to send back, see [`crate::fault`]: the text cannot be decoded, it is not well-formed XML (or has a
/// document type declaration, or is nested deeper than [`crate::MAX_DEPTH`]), or it is not a call.
pub fn read_call(content_type: Option<&str>, body: &[u8]) -> Result<Call, Fault> {
    let xml = decode(content_type, body)?;
    if let Some(method) = guard::check(&xml)? {
        return Ok(Call { method, parameters: Vec::new() });
    }
    // The deserialiser's error is a copy of the whole document.
    let call = MethodCall::from_xml(&xml).map_err(|_| unfit_value(&xml))?;
    Ok(Call { method: call.name.trim_matches(is_space).to_owned(), parameters: call.params })
}

/// Finds the value that does not fit its type, in a call that is otherwise in order.
fn unfit_value(xml: &str) -> Fault {
    let mut reader = Reader::from_str(xml);
    reader.config_mut().expand_empty_elements = true;
    // Where the scalar that is being read starts, and its type.
    let mut scalar = None;
    loop {
        let before = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        match reader.read_event() {
            Ok(Event::Start(tag)) => {
                let name = tag.local_name().as_ref().to_owned();
                scalar = scalar_range(&name).map(|range| (before, name, range));
            }
            Ok(Event::End(_)) => {
                let Some((start, name, range)) = scalar.take() else {
                    continue;
                };
                let end = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
                let value = xml.get(start..end).unwrap_or_default();
                if Value::from_xml(&format!("<value>{value}</value>")).is_err() {
                    return invalid_call(format!("A <{name}> does not hold {range}."));
                }
            }
            Ok(Event::Eof) | Err(_) => return invalid_call("A value of the call cannot be read."),
            Ok(_) => {}
        }
    }
}
