//! One pass over the text before it is deserialised: is it well-formed XML, and is it a call?
//!
//! The deserialiser is forgiving about both, and it recurses. Here nothing recurses, memory is bounded by
//! [`MAX_DEPTH`], and a document type declaration is refused before anything in it could be expanded.

use std::collections::HashSet;

use quick_xml::Reader;
use quick_xml::errors::{Error, IllFormedError};
use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::{BytesDecl, BytesPI, BytesRef, BytesStart, Event};

use crate::chars::{first_illegal, is_blank, is_legal, is_name, is_space, quote};
use crate::fault::{Fault, invalid_call, not_well_formed};
use crate::grammar::{Element, Place};

/// The deepest nesting of elements that is read. An array costs three levels, a struct member three.
pub const MAX_DEPTH: usize = 32;

/// The most attributes that an element may have. XML-RPC has none; some clients declare namespaces.
pub const MAX_ATTRIBUTES: usize = 16;

/// Checks a whole document. Of two things wrong, a fault about the XML itself is preferred.
///
/// Returns the method's name if that is all there is in the call, written plainly: then there is nothing left to
/// deserialise. That is the most frequent call, and the deserialiser would take twice as long as all of the above.
pub(crate) fn check(xml: &str) -> Result<Option<String>, Fault> {
    if is_blank(xml) {
        return Err(not_well_formed("The request body is empty. POST an XML-RPC <methodCall> document."));
    }
    if let Some(at) = first_illegal(xml) {
        return Err(not_well_formed(format!("At byte {at}: a control character that XML cannot carry.")));
    }
    let mut reader = Reader::from_str(xml);
    let config = reader.config_mut();
    config.check_comments = true;

    let mut scan = Scan {
        open: Vec::with_capacity(MAX_DEPTH),
        names: Vec::new(),
        root_seen: false,
        invalid: None,
        bare: PlainCall::Unnamed,
    };
    let mut at_start = true;
    loop {
        let event = reader.read_event().map_err(|error| ill_formed(&error, reader.error_position()))?;
        match event {
            Event::Start(tag) => scan.start(&tag)?,
            Event::Empty(tag) => {
                scan.start(&tag)?;
                scan.end();
            }
            Event::End(_) => scan.end(),
            Event::Text(text) => scan.text(&text)?,
            Event::CData(text) => {
                scan.bare = PlainCall::No;
                scan.character_data("<![CDATA[", &text)?;
            }
            Event::GeneralRef(reference) => scan.reference(&reference)?,
            Event::Comment(_) => scan.bare = PlainCall::No,
            Event::PI(instruction) => {
                scan.bare = PlainCall::No;
                check_instruction(&instruction)?;
            }
            Event::Decl(declaration) if at_start => check_declaration(&declaration)?,
            Event::Decl(_) => {
                return Err(not_well_formed("An XML declaration stands elsewhere than at the start."));
            }
            Event::DocType(_) => {
                return Err(invalid_call(
                    "A document type declaration (<!DOCTYPE>) is not accepted, because entities declared in one \
                     can expand without limit. Send the call without it.",
                ));
            }
            Event::Eof => return scan.finish(),
        }
        at_start = false;
    }
}

/// An element that has been opened and not yet closed.
struct Open {
    /// `None` once the document is known to be something else than a call.
    element: Option<Element>,
    /// The bits of the children seen so far.
    children: u8,
    has_text: bool,
    /// The text of a `<name>`.
    name: String,
}

struct Scan {
    open: Vec<Open>,
    /// The members' names so far, of each struct that is open.
    names: Vec<HashSet<String>>,
    root_seen: bool,
    /// The first thing that makes this not a call. The scan goes on, in case it is not even XML.
    invalid: Option<Fault>,
    bare: PlainCall,
}

/// Whether the call is nothing but a method's name in plain letters.
enum PlainCall {
    /// As far as it was read, and the name is still to come.
    Unnamed,
    Named(String),
    No,
}

impl Scan {
    fn start(&mut self, tag: &BytesStart<'_>) -> Result<(), Fault> {
        if self.open.is_empty() && self.root_seen {
            return Err(not_well_formed("There is a second element after the end of the call."));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(invalid_call(format!("The call is nested deeper than {MAX_DEPTH} elements.")));
        }
        self.root_seen = true;
        let name = tag.name();
        let mut element = Element::named(name.as_ref());
        if element.is_none() {
            if !is_name(name.as_ref()) {
                return Err(not_well_formed("A tag's name is not an XML name."));
            }
            // Apache's library writes its extensions as <ex:nil/> and <ex:i8>.
            element = Element::named(tag.local_name().as_ref()).filter(|element| element.is_type());
        }
        if !tag.attributes_raw().is_empty() {
            let count = count_attributes(tag)?;
            if count > 0 && element == Some(Element::Value) {
                self.invalid("A <value> has attributes, which XML-RPC does not define.");
            }
        }
        if !matches!(element, Some(Element::MethodCall | Element::MethodName | Element::Params)) {
            self.bare = PlainCall::No;
        }
        let element = if self.invalid.is_none() { self.child(element, name.as_ref()) } else { None };
        if element == Some(Element::Struct) {
            self.names.push(HashSet::new());
        }
        self.open.push(Open { element, children: 0, has_text: false, name: String::new() });
        Ok(())
    }

    /// The element, if it may stand where it does.
    fn child(&mut self, element: Option<Element>, name: &str) -> Option<Element> {
        let parent = self.open.last_mut();
        let place =
            element.and_then(|element| element.place_in(parent.as_ref().and_then(|open| open.element)));
        let sentence = match (place, parent) {
            (Some(Place::AnyNumber), _) | (Some(Place::Once(_)), None) => return element,
            (Some(Place::Once(bit)), Some(parent)) if parent.children & bit == 0 => {
                parent.children |= bit;
                return element;
            }
            (Some(Place::Once(_)), Some(_)) => {
                format!("There is a second <{}> where only one may stand.", quote(name))
            }
            (None, Some(parent)) if parent.element == Some(Element::Value) && element.is_none() => {
                format!("<{}> is not a type of XML-RPC.", quote(name))
            }
            (None, Some(_)) => format!("A <{}> stands where XML-RPC does not allow it.", quote(name)),
            (None, None) => format!("The document is a <{}>, not a <methodCall>.", quote(name)),
        };
        self.invalid(sentence);
        None
    }

    fn end(&mut self) {
        let Some(Open { element: Some(element), children, has_text, name }) = self.open.pop() else {
            return;
        };
        match element {
            Element::Struct => drop(self.names.pop()),
            // Which of two would count is a matter of the reader.
            Element::Name if !self.is_new(name) => {
                self.invalid("A struct has two members of the same name.");
            }
            _ => {}
        }
        let (required, sentence) = element.required();
        if children & required != required {
            self.invalid(sentence);
        } else if let Some(sentence) = element.empty_sentence().filter(|_| !has_text) {
            self.invalid(sentence);
        } else if element == Element::Value && has_text && children != 0 {
            self.invalid("A <value> has both text and a type.");
        }
    }

    /// Notes the name of a member of the innermost struct; whether it is the first of that name.
    fn is_new(&mut self, name: String) -> bool {
        self.names.last_mut().is_none_or(|names| names.insert(name))
    }

    fn text(&mut self, text: &str) -> Result<(), Fault> {
        if text.contains("]]>") {
            return Err(not_well_formed("Text contains \"]]>\"; write \"]]&gt;\"."));
        }
        if !is_blank(text) {
            self.note_name(text.trim_matches(is_space));
        }
        self.character_data("text", text)
    }

    /// Only the method's name can be text in a bare call, as the rest of the check makes sure.
    fn note_name(&mut self, text: &str) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_');
        self.bare = match self.bare {
            PlainCall::Unnamed if text.bytes().all(is_plain) => PlainCall::Named(text.to_owned()),
            _ => PlainCall::No,
        };
    }

    fn reference(&mut self, reference: &BytesRef<'_>) -> Result<(), Fault> {
        self.bare = PlainCall::No;
        match reference.resolve_char_ref() {
            Ok(Some(c)) if is_legal(c) => self.character_data("a reference", c.encode_utf8(&mut [0; 4])),
            Ok(None) => match resolve_predefined_entity(reference) {
                Some(text) => self.character_data("a reference", text),
                None => Err(not_well_formed(
                    "An entity is used that XML does not define. Write the character itself, or &#...; with its number.",
                )),
            },
            Ok(Some(_)) | Err(_) => {
                Err(not_well_formed("A character reference (&#...;) does not name a character of XML."))
            }
        }
    }

    /// Notes text in any form. The deserialiser sees no difference between none and a blank one.
    fn character_data(&mut self, form: &str, text: &str) -> Result<(), Fault> {
        let blank = is_blank(text);
        let Some(open) = self.open.last_mut() else {
            // Between the document's parts, white space may stand as such and not in any other form.
            let is_mere_space = blank && form == "text";
            return if is_mere_space {
                Ok(())
            } else {
                Err(not_well_formed(format!("There is {form} outside of the call.")))
            };
        };
        if open.element == Some(Element::Name) {
            open.name.push_str(text);
        }
        if !blank {
            open.has_text = true;
            if open.element.is_some_and(|element| !element.holds_text()) {
                self.invalid("There is text between elements, where XML-RPC does not allow any.");
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Option<String>, Fault> {
        if !self.open.is_empty() {
            return Err(not_well_formed("The document ends before its last element is closed."));
        }
        if !self.root_seen {
            return Err(not_well_formed(
                "The document has no element. POST an XML-RPC <methodCall> document.",
            ));
        }
        match (self.invalid.take(), self.bare) {
            (Some(fault), _) => Err(fault),
            (None, PlainCall::Named(method)) => Ok(Some(method)),
            (None, PlainCall::Unnamed | PlainCall::No) => Ok(None),
        }
    }

    fn invalid(&mut self, sentence: impl Into<String>) {
        if self.invalid.is_none() {
            self.invalid = Some(invalid_call(sentence));
        }
    }
}

/// Checks the attributes and counts them. The limit comes first: looking for duplicates costs their square.
fn count_attributes(tag: &BytesStart<'_>) -> Result<usize, Fault> {
    let mut count = 0;
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_| not_well_formed("A tag's attributes are not well formed."))?;
        count += 1;
        if count > MAX_ATTRIBUTES {
            return Err(invalid_call(format!("An element has more than {MAX_ATTRIBUTES} attributes.")));
        }
        let value = &attribute.value;
        if !is_name(attribute.key.as_ref()) || value.contains('<') || unescape(value).is_err() {
            return Err(not_well_formed("A tag's attributes are not well formed."));
        }
    }
    Ok(count)
}

fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), Fault> {
    let known = declaration.xml_version().is_ok();
    let readable = declaration.encoding().is_none_or(|encoding| encoding.is_ok());
    if known && readable {
        Ok(())
    } else {
        Err(not_well_formed("The XML declaration is not that of XML 1.0."))
    }
}

fn check_instruction(instruction: &BytesPI<'_>) -> Result<(), Fault> {
    let target = instruction.target();
    if is_name(target) && !target.eq_ignore_ascii_case("xml") {
        Ok(())
    } else {
        Err(not_well_formed("A processing instruction has no proper name."))
    }
}

/// The parser's error in words that repeat nothing of the document.
fn ill_formed(error: &Error, position: u64) -> Fault {
    let reason = match error {
        Error::Syntax(error) => error.to_string(),
        Error::IllFormed(IllFormedError::UnmatchedEndTag(_) | IllFormedError::MismatchedEndTag { .. }) => {
            "an end tag does not match its start tag".to_owned()
        }
        Error::IllFormed(IllFormedError::UnclosedReference) => {
            "\"&\" without a reference; write \"&amp;\"".to_owned()
        }
        Error::IllFormed(IllFormedError::DoubleHyphenInComment) => "\"--\" inside a comment".to_owned(),
        _ => "not well formed".to_owned(),
    };
    not_well_formed(format!("At byte {position}: {reason}."))
}
