//! The grammar of a call (the XML-RPC specification, 1999), as one small table.
//!
//! `dxr` skips over elements that it does not know, and over text between elements, so that a parameter in
//! the wrong place would vanish. A token that was to be bound would then be issued unbound.

/// The elements of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Element {
    MethodCall,
    MethodName,
    Params,
    Param,
    Value,
    Struct,
    Member,
    Name,
    Array,
    Data,
    Nil,
    /// A type that holds text, such as `<int>`.
    Scalar,
}

/// How often a child may stand in its parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// At most once; the bit tells apart the children of one parent.
    Once(u8),
    AnyNumber,
}

/// The bit of `<methodName>` and `<name>`.
const NAME: u8 = 1;
/// The bit of the only other child that its parent may have.
const CONTENT: u8 = 2;

impl Element {
    /// The element of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "methodCall" => Self::MethodCall,
            "methodName" => Self::MethodName,
            "params" => Self::Params,
            "param" => Self::Param,
            "value" => Self::Value,
            "struct" => Self::Struct,
            "member" => Self::Member,
            "name" => Self::Name,
            "array" => Self::Array,
            "data" => Self::Data,
            "nil" => Self::Nil,
            _ if scalar_range(name).is_some() => Self::Scalar,
            _ => return None,
        })
    }

    /// Where this element may stand inside `parent`, if it may at all.
    pub(crate) fn place_in(self, parent: Option<Self>) -> Option<Place> {
        use Element::{Array, Data, Member, MethodCall, MethodName, Name, Param, Params, Struct, Value};
        let Some(parent) = parent else {
            return (self == MethodCall).then_some(Place::AnyNumber);
        };
        Some(match (parent, self) {
            (MethodCall, MethodName) | (Member, Name) => Place::Once(NAME),
            (MethodCall, Params) | (Param | Member, Value) | (Array, Data) => Place::Once(CONTENT),
            (Value, child) if child.is_type() => Place::Once(CONTENT),
            (Params, Param) | (Struct, Member) | (Data, Value) => Place::AnyNumber,
            _ => return None,
        })
    }

    /// The bits of the children that this element must have, and the sentence about one that is missing.
    pub(crate) fn required(self) -> (u8, &'static str) {
        match self {
            Self::MethodCall => (NAME, "The call has no <methodName>."),
            Self::Param => (CONTENT, "A <param> has no <value>."),
            Self::Member => (NAME | CONTENT, "A struct's <member> needs one <name> and one <value>."),
            _ => (0, ""),
        }
    }

    /// Whether this is one of the types that a `<value>` may have.
    pub(crate) fn is_type(self) -> bool {
        matches!(self, Self::Scalar | Self::Nil | Self::Struct | Self::Array)
    }

    /// Whether text other than white space may stand in this element.
    pub(crate) fn holds_text(self) -> bool {
        matches!(self, Self::MethodName | Self::Name | Self::Value | Self::Scalar)
    }

    /// The sentence about this element when it must not be empty and is.
    pub(crate) fn empty_sentence(self) -> Option<&'static str> {
        match self {
            Self::MethodName => Some("The <methodName> is empty."),
            Self::Name => Some("The <name> of a struct's member is empty or white space alone."),
            _ => None,
        }
    }
}

/// The values that an element of a scalar type may hold, in words; `None` for any other name.
pub(crate) fn scalar_range(name: &str) -> Option<&'static str> {
    Some(match name {
        "i4" | "int" => "a whole number from -2147483648 to 2147483647",
        "i8" => "a whole number of at most 64 bits",
        "boolean" => "0 or 1",
        "string" => "text",
        "double" => "a decimal number",
        "dateTime.iso8601" => "a date and time such as 20260131T23:59:59",
        "base64" => "base64 data, padded",
        _ => return None,
    })
}
