//! Fault codes and their constructors.
//!
//! The numbers are those of the "Specification for Fault Code Interoperability" (2001-05-16), which
//! `system.getCapabilities` announces as `faults_interop`. Every sentence is meant for the person who calls:
//! it says what is wrong and, where that is not obvious, what to do. None repeats a parameter's value,
//! because that may be a login token.

use crate::chars::quote;
pub use dxr::Fault;

/// The document is not well-formed XML.
pub const NOT_WELL_FORMED: i32 = -32700;
/// The document is in an encoding that is not supported.
pub const UNSUPPORTED_ENCODING: i32 = -32701;
/// The document has bytes that its encoding does not allow.
pub const INVALID_CHARACTER: i32 = -32702;
/// The document is XML, but not an XML-RPC call, or it is beyond a limit.
pub const INVALID_CALL: i32 = -32600;
/// There is no such method.
pub const NO_SUCH_METHOD: i32 = -32601;
/// The number or the types of the parameters are wrong.
pub const INVALID_PARAMETERS: i32 = -32602;
/// The server failed.
pub const INTERNAL: i32 = -32603;
/// The method was called correctly and refused: the service's own faults.
pub const APPLICATION: i32 = -32500;

/// [`NOT_WELL_FORMED`], with a sentence.
pub fn not_well_formed(sentence: impl Into<String>) -> Fault {
    Fault::new(NOT_WELL_FORMED, sentence.into())
}

/// [`UNSUPPORTED_ENCODING`]; `label` is the encoding's name as the caller gave it.
pub fn unsupported_encoding(label: &str) -> Fault {
    let label = quote(label);
    Fault::new(
        UNSUPPORTED_ENCODING,
        format!("The encoding {label} is not supported. Send the call as UTF-8."),
    )
}

/// [`INVALID_CHARACTER`]; `encoding` is the name of the encoding that the document was read in.
pub fn invalid_character(encoding: &str) -> Fault {
    Fault::new(
        INVALID_CHARACTER,
        format!(
            "The call was read as {encoding}, but contains bytes that are not valid in it. \
             Send UTF-8, or name the right encoding in the XML declaration."
        ),
    )
}

/// [`INVALID_CALL`], with a sentence.
pub fn invalid_call(sentence: impl Into<String>) -> Fault {
    Fault::new(INVALID_CALL, sentence.into())
}

/// [`INVALID_CALL`] for a request body of more than `limit` bytes, for the code that reads the body.
pub fn body_too_large(limit: usize) -> Fault {
    invalid_call(format!("The request body is larger than {limit} bytes. Send a smaller call."))
}

/// [`NO_SUCH_METHOD`]; of a long or unprintable name only a part is repeated.
pub fn no_such_method(name: &str) -> Fault {
    let name = quote(name);
    Fault::new(
        NO_SUCH_METHOD,
        format!("There is no method \"{name}\". system.listMethods lists those that exist."),
    )
}

/// [`INVALID_PARAMETERS`], with a sentence.
pub fn invalid_parameters(sentence: impl Into<String>) -> Fault {
    Fault::new(INVALID_PARAMETERS, sentence.into())
}

/// [`INTERNAL`]; its sentence never tells the cause, which belongs in the server's log.
pub fn internal() -> Fault {
    Fault::new(
        INTERNAL,
        "The server failed to answer this call. Try again; its log says what went wrong.".to_owned(),
    )
}

/// [`APPLICATION`], with a sentence.
pub fn application(sentence: impl Into<String>) -> Fault {
    Fault::new(APPLICATION, sentence.into())
}
