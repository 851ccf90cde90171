//! The calls of the private API, and their answers.

use countersign_xmlrpc::{CallOutcome, ResponseValue, read_response};
use dxr::{MethodCall, Value};

use crate::error::{ResponseError, excerpt};

/// The call that issues a token, bound to a tracker or not.
pub(crate) fn new_token(tracker: Option<&str>) -> String {
    call("newBugTrackerToken", tracker)
}

/// The call that describes a token.
pub(crate) fn get_token(token: &str) -> String {
    call("getLoginToken", Some(token))
}

fn call(method: &str, parameter: Option<&str>) -> String {
    let params = parameter.map(|text| Value::String(text.to_owned())).into_iter().collect();
    let call = MethodCall { name: method.into(), params };
    // Strings are always expressible; a server would refuse an empty call by a fault.
    call.to_xml().unwrap_or_default()
}

/// Reads the tokens of many responses from one server.
///
/// A server writes the same document around every token. So the first response is read as XML, and a later one that
/// begins and ends with the very same bytes, and has nothing but a token between, needs no parser: the load generator
/// shall not take the time that it measures.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    around: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tokens {
    /// The token that a response holds.
    pub(crate) fn read(&mut self, response: &[u8]) -> Result<String, ResponseError> {
        if let Some((before, after)) = &self.around
            && let Some(rest) = response.strip_prefix(before.as_slice())
            && let Some(text) = rest.strip_suffix(after.as_slice())
            && let Ok(text) = str::from_utf8(text)
            && is_token(text)
        {
            return Ok(text.to_owned());
        }
        let token = token(response)?;
        let mut places = response.windows(token.len()).enumerate();
        let place = places.find(|(_, window)| *window == token.as_bytes()).map(|(place, _)| place);
        self.around = place.and_then(|place| {
            let (before, rest) = response.split_at_checked(place)?;
            Some((before.to_owned(), rest.get(token.len()..)?.to_owned()))
        });
        Ok(token)
    }
}

/// The token that a response holds.
fn token(response: &[u8]) -> Result<String, ResponseError> {
    match value(response)? {
        // The characters that need no encoding in a path and that trackers' plugins accept.
        ResponseValue::Text(token) if is_token(&token) => Ok(token),
        ResponseValue::Text(_) => Err(ResponseError::Body("a token has letters and digits only")),
        _ => Err(ResponseError::Body("a token is a string")),
    }
}

/// The handshake URL in the description of a token.
pub(crate) fn handshake_url(response: &[u8]) -> Result<String, ResponseError> {
    match value(response)? {
        ResponseValue::Struct(mut members) => match members.remove("handshake_url") {
            Some(ResponseValue::Text(url)) => Ok(url),
            _ => Err(ResponseError::Body("it has no handshake_url")),
        },
        _ => Err(ResponseError::Body("the description of a token is a struct")),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn value(response: &[u8]) -> Result<ResponseValue, ResponseError> {
    match read_response(None, response) {
        Some(CallOutcome::Returned(value)) => Ok(value),
        Some(CallOutcome::Fault { code, text }) => Err(ResponseError::Fault(excerpt(&code), excerpt(&text))),
        None => Err(ResponseError::Body("it is not a methodResponse")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRING: &str = "<?xml version=\"1.0\"?><methodResponse><params><param><value><string>T0</string></value>\
                          </param></params></methodResponse>";

    #[test]
    fn only_tokens_are_parsed() {
        assert_eq!(token(STRING.as_bytes()), Ok("T0".to_owned()));
        assert_eq!(token(STRING.replace("<string>T0</string>", "T0").as_bytes()), Ok("T0".to_owned()));
        for wrong in ["../x", "", "T 0"] {
            let response = STRING.replace("T0", wrong);
            assert!(matches!(token(response.as_bytes()), Err(ResponseError::Body(_))), "{wrong}");
        }
        let number = STRING.replace("<string>T0</string>", "<int>5</int>");
        assert!(matches!(token(number.as_bytes()), Err(ResponseError::Body(_))));
        for garbage in [&b"T0"[..], b"<html>", b"\xff", b""] {
            assert!(matches!(token(garbage), Err(ResponseError::Body(_))));
        }
    }

    #[test]
    fn later_tokens_are_read_as_carefully_as_the_first() {
        let mut tokens = Tokens::default();
        for text in ["T0", "T1", "another2"] {
            assert_eq!(tokens.read(STRING.replace("T0", text).as_bytes()), Ok(text.to_owned()));
        }
        // The same document in another spelling, which takes the parser.
        assert_eq!(tokens.read(STRING.replace("<string>T0</string>", "T3").as_bytes()), Ok("T3".to_owned()));
        assert_eq!(tokens.read(STRING.replace("T0", "T4").as_bytes()), Ok("T4".to_owned()));
        for wrong in ["../x", "", "T 0", "T</string><string>0"] {
            let response = STRING.replace("T0", wrong);
            assert!(tokens.read(response.as_bytes()).is_err(), "{wrong}");
        }
        assert!(tokens.read(&STRING.as_bytes()[..STRING.len() - 1]).is_err());
    }

    #[test]
    fn faults_are_errors() {
        let fault = "<methodResponse><fault><value><struct>\
                     <member><name>faultCode</name><value><int>-32500</int></value></member>\
                     <member><name>faultString</name><value><string>No.</string></value></member>\
                     </struct></value></fault></methodResponse>";
        assert_eq!(token(fault.as_bytes()), Err(ResponseError::Fault("-32500".to_owned(), "No.".to_owned())));
    }

    #[test]
    fn descriptions_are_read() {
        let described = STRING.replace(
            "<string>T0</string>",
            "<struct><member><name>handshake_url</name><value>http://x/T0</value></member></struct>",
        );
        assert_eq!(handshake_url(described.as_bytes()), Ok("http://x/T0".to_owned()));
        assert!(handshake_url(STRING.as_bytes()).is_err());
    }

    #[test]
    fn calls_carry_their_parameter() {
        assert!(!new_token(None).contains("<value>"));
        assert!(new_token(Some("http://x/?a&b")).contains("<string>http://x/?a&amp;b</string>"));
        assert!(get_token("T0").contains("getLoginToken"));
    }
}
