//! Reading an HTTP/1 answer out of a buffer (RFC 9112).

use std::ops::Range;

use crate::error::ResponseError;

/// The most bytes that an answer may have, its head included.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The most header fields that an answer may have.
const MAX_HEADERS: usize = 64;

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// Whether the connection can carry another request.
    pub(crate) reusable: bool,
}

/// Where a body is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As it is, in the buffer.
    At(Range<usize>),
    /// It came in chunks, and was put together.
    Joined(Vec<u8>),
}

impl Body {
    pub(crate) fn of<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Self::At(range) => buffer.get(range.clone()).unwrap_or_default(),
            Self::Joined(bytes) => bytes,
        }
    }
}

/// Reads the answer that `buffer` holds; `None` if there is more to come. At the `end`, nothing more will.
pub(crate) fn parse(buffer: &[u8], end: bool) -> Result<Option<HttpResponse>, ResponseError> {
    let mut from = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let rest = buffer.get(from..).unwrap_or_default();
        let length = match head.parse(rest) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if !end => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(ResponseError::Closed),
            Err(_) => return Err(ResponseError::NotHttp("the head of the answer cannot be read")),
        };
        from += length;
        match head.code {
            // Interim answers announce the one that counts (RFC 9110 section 15.2).
            Some(100..=199) => {}
            Some(status) => return body(buffer, from, end, status, &Framing::of(&head)?),
            None => return Err(ResponseError::NotHttp("the answer has no status")),
        }
    }
}

/// How the end of a body is found (RFC 9112 section 6.3).
struct Framing {
    length: Option<usize>,
    chunked: bool,
    keep_alive: bool,
}

impl Framing {
    fn of(head: &httparse::Response<'_, '_>) -> Result<Self, ResponseError> {
        let mut framing = Self { length: None, chunked: false, keep_alive: head.version == Some(1) };
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = str::from_utf8(header.value).ok().and_then(|value| value.parse().ok());
                let length = length.ok_or(ResponseError::NotHttp("its Content-Length is not a number"))?;
                if framing.length.is_some_and(|other| other != length) {
                    return Err(ResponseError::NotHttp("it has two lengths"));
                }
                framing.length = Some(length);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ResponseError::NotHttp("its Transfer-Encoding is not chunked"));
                }
                framing.chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                let names = |option: &[u8]| {
                    header
                        .value
                        .split(|byte| *byte == b',')
                        .any(|o| o.trim_ascii().eq_ignore_ascii_case(option))
                };
                if names(b"close") {
                    framing.keep_alive = false;
                } else if names(b"keep-alive") {
                    framing.keep_alive = true;
                }
            }
        }
        Ok(framing)
    }
}

fn body(
    buffer: &[u8],
    from: usize,
    end: bool,
    status: u16,
    framing: &Framing,
) -> Result<Option<HttpResponse>, ResponseError> {
    let (body, until) = if matches!(status, 204 | 304) {
        (Body::At(from..from), from)
    } else if framing.chunked {
        match joined(buffer, from)? {
            Some((bytes, until)) => (Body::Joined(bytes), until),
            None => return if end { Err(ResponseError::Closed) } else { Ok(None) },
        }
    } else if let Some(length) = framing.length {
        let until = from.saturating_add(length);
        if buffer.len() < until {
            return if end { Err(ResponseError::Closed) } else { Ok(None) };
        }
        (Body::At(from..until), until)
    } else if end {
        (Body::At(from..buffer.len()), buffer.len())
    } else {
        return Ok(None);
    };
    if buffer.len() > until {
        return Err(ResponseError::NotHttp("there is more than one answer to one request"));
    }
    let delimited = framing.chunked || framing.length.is_some() || matches!(status, 204 | 304);
    Ok(Some(HttpResponse { status, body, reusable: framing.keep_alive && delimited && !end }))
}

/// Puts chunks together (RFC 9112 section 7.1), and says where they end; `None` if there is more to come.
fn joined(buffer: &[u8], from: usize) -> Result<Option<(Vec<u8>, usize)>, ResponseError> {
    const BROKEN: ResponseError = ResponseError::NotHttp("its chunks cannot be read");
    let mut bytes = Vec::new();
    let mut at = from;
    loop {
        let rest = buffer.get(at..).unwrap_or_default();
        let (head, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BROKEN),
        };
        if size == 0 {
            return trailers(buffer, at + head).map(|until| until.map(|until| (bytes, until)));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_ANSWER_BYTES).ok_or(BROKEN)?;
        let Some(chunk) = rest.get(head..head + size) else { return Ok(None) };
        let Some(line_end) = rest.get(head + size..head + size + 2) else { return Ok(None) };
        if line_end != b"\r\n" {
            return Err(BROKEN);
        }
        bytes.extend_from_slice(chunk);
        at += head + size + 2;
    }
}

/// Where the trailer section that begins at `from` ends.
fn trailers(buffer: &[u8], from: usize) -> Result<Option<usize>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(buffer.get(from..).unwrap_or_default(), &mut headers) {
        Ok(httparse::Status::Complete((length, _))) => Ok(Some(from + length)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(ResponseError::NotHttp("its trailers cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, end: bool) -> Result<Option<(u16, String, bool)>, ResponseError> {
        let answer = parse(text.as_bytes(), end)?;
        Ok(answer.map(|answer| {
            let body = String::from_utf8_lossy(answer.body.of(text.as_bytes())).into_owned();
            (answer.status, body, answer.reusable)
        }))
    }

    #[test]
    fn bodies_of_every_framing_are_read() {
        for (text, end, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, (200, "hello", true)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
                false,
                (404, "", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n",
                false,
                (200, "hello", true),
            ),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", false, (200, "x", false)),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
                false,
                (200, "x", true),
            ),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", true, (200, "until the end", false)),
            ("HTTP/1.1 204 None\r\n\r\n", false, (204, "", true)),
        ] {
            let (status, body, reusable) = expected;
            assert_eq!(read(text, end), Ok(Some((status, body.to_owned(), reusable))), "{text}");
        }
    }

    #[test]
    fn split_answer_is_read_and_cut_one_is_an_error() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length], false), Ok(None), "{length}");
                assert_eq!(read(&whole[..length], true), Err(ResponseError::Closed), "{length}");
            }
            assert!(matches!(read(whole, false), Ok(Some((200, body, true))) if body == "hello"));
        }
    }

    #[test]
    fn malformed_http_is_an_error() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhe",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        ] {
            assert!(matches!(read(text, false), Err(ResponseError::NotHttp(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), end: bool) {
            for head in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
                let bytes = [head.as_bytes(), &tail].concat();
                if let Ok(Some(answer)) = parse(&bytes, end) {
                    prop_assert!(answer.body.of(&bytes).len() <= bytes.len());
                }
            }
        }
    }
}
