//! Rejects malformed HTTP messages (RFC 9112) that the HTTP library lets through.

use std::net::Ipv6Addr;

use axum::http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};

/// Why a message is not answered by a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// No `Host`, several, or one that no host can have (RFC 9112 section 3.2).
    Host,
    /// The target is a URL of another scheme, or carries a user's name (RFC 9110 section 4.2.4).
    Target,
    /// The body is coded in a way that this server does not decode (RFC 9112 section 6.1).
    Coding,
}

impl IntoResponse for Malformed {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Host => (StatusCode::BAD_REQUEST, "Send exactly one Host header, with the server's name."),
            Self::Target => (StatusCode::BAD_REQUEST, "Send the path alone, or an http or https URL of it."),
            Self::Coding => {
                (StatusCode::NOT_IMPLEMENTED, "The only Transfer-Encoding that is understood is chunked.")
            }
        };
        // Where such a message ends, and another one begins, is not sure.
        (status, [(CONNECTION, "close")], text).into_response()
    }
}

/// Looks at a request's head, before anything is done about it.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Malformed> {
    check_host(request.version(), request.headers())?;
    // The target is an absolute URL, as for a proxy. It replaces the Host (RFC 9112 section 3.2.2).
    if let Some(authority) = request.uri().authority()
        && request.uri().scheme().is_some()
    {
        let is_ours = matches!(request.uri().scheme_str(), Some("http" | "https"));
        if !is_ours || !is_host(authority.as_str().as_bytes()) {
            return Err(Malformed::Target);
        }
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Malformed::Coding),
    }
}

/// HTTP/1.0 has no `Host`, though most of its clients send one.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Malformed> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        _ => Err(Malformed::Host),
    }
}

/// Whether this is a host and perhaps a port (RFC 3986 sections 3.2.2 and 3.2.3). It may not be empty, which no `http` or
/// `https` URL allows (RFC 9110 section 4.2).
fn is_host(text: &[u8]) -> bool {
    let end = match text {
        [b'[', ..] => text.iter().position(|byte| *byte == b']').map_or(0, |bracket| bracket + 1),
        _ => text.iter().position(|byte| *byte == b':').unwrap_or(text.len()),
    };
    let (name, port) = text.split_at(end);
    let is_name = match name {
        [] => false,
        [b'[', address @ .., b']'] => {
            str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        _ => is_registered_name(name),
    };
    is_name && is_port(port)
}

/// Whether a registered name may have this byte outside of escapes. Every request has some, so this is no search.
fn is_name_byte(byte: u8) -> bool {
    // The last range is `&'()*+,`.
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b';' | b'=' | b'&'..=b',')
}

fn is_registered_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut is_digit = || bytes.next().is_some_and(u8::is_ascii_hexdigit);
                if !(is_digit() && is_digit()) {
                    return false;
                }
            }
            byte if is_name_byte(*byte) => {}
            _ => return false,
        }
    }
    true
}

/// Nothing, or a colon and a number; a colon alone is the scheme's own port.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_hosts_are_rejected() {
        for (text, valid) in [
            ("launchpad.example.org", true),
            ("launchpad.example.org:443", true),
            ("launchpad.example.org:", true),
            ("tracker_1", true),
            ("192.0.2.1:8080", true),
            ("[2001:db8::1]", true),
            ("[2001:db8::1]:8080", true),
            ("xn--bcher-kva.example", true),
            ("a%20b", true),
            ("", false),
            (":80", false),
            ("a:b", false),
            ("a:99999", false),
            ("a:80:80", false),
            ("a:+80", false),
            ("a b", false),
            ("a/b", false),
            ("a?b", false),
            ("a#b", false),
            ("user@a", false),
            ("a, b", false),
            ("a,b", true),
            ("a%2", false),
            ("a%zz", false),
            ("[2001:db8::1", false),
            ("[2001:db8::1]x", false),
            ("[]", false),
            ("[a]", false),
            ("2001:db8::1", false),
            ("bücher.example", false),
        ] {
            assert_eq!(is_host(text.as_bytes()), valid, "{text}");
        }
    }

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::get(target).version(version);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn second_host_or_coding_is_rejected() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let host = ("host", "a");
        for (version, target, headers, expected) in [
            (new, "/", vec![host], Ok(())),
            (old, "/", vec![], Ok(())),
            (old, "/", vec![host], Ok(())),
            (new, "/", vec![], Err(Malformed::Host)),
            (new, "/", vec![("host", "")], Err(Malformed::Host)),
            (new, "/", vec![host, host], Err(Malformed::Host)),
            (old, "/", vec![host, host], Err(Malformed::Host)),
            (old, "/", vec![("host", "a b")], Err(Malformed::Host)),
            (new, "http://b:8080/", vec![host], Ok(())),
            (new, "https://b/", vec![host], Ok(())),
            (new, "http://b/", vec![], Err(Malformed::Host)),
            (new, "ftp://b/", vec![host], Err(Malformed::Target)),
            (new, "http://user@b/", vec![host], Err(Malformed::Target)),
            (new, "/", vec![host, ("transfer-encoding", "Chunked")], Ok(())),
            (new, "/", vec![host, ("transfer-encoding", "gzip, chunked")], Err(Malformed::Coding)),
            (
                new,
                "/",
                vec![host, ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
                Err(Malformed::Coding),
            ),
        ] {
            assert_eq!(
                check(&request(version, target, &headers)),
                expected,
                "{version:?} {target} {headers:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_host_is_read_without_panic(text in any::<Vec<u8>>()) {
            let _ = is_host(&text);
        }
    }
}
