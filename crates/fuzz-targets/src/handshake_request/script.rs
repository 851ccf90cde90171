//! Turns bytes into requests, with the facts to judge the answers by.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use percent_encoding::percent_decode_str;

use super::world::{Known, World};

/// The most steps that are taken.
const MAX_STEPS: usize = 16;

/// The most seconds that one step waits: some days.
const MAX_WAIT: u64 = 1_000_000;

/// One step of a script.
pub(super) enum Step {
    /// The clock moves.
    Wait(Duration),
    /// A handshake request.
    Request(Box<Request<Body>>),
}

/// Reads a script. Leaves out requests that no HTTP library would accept.
pub(super) fn steps(input: &[u8], world: &World) -> Vec<Step> {
    let mut script = input.to_vec();
    for token in &world.tokens {
        script = replaced(&script, token.placeholder.as_bytes(), token.text.as_bytes());
    }
    split(&script, b"\n%%\n").into_iter().take(MAX_STEPS).filter_map(step).collect()
}

fn step(text: &[u8]) -> Option<Step> {
    if let Some(seconds) = text.strip_prefix(b"WAIT ") {
        let seconds: u64 = std::str::from_utf8(seconds).ok()?.trim().parse().ok()?;
        return Some(Step::Wait(Duration::from_secs(seconds.min(MAX_WAIT))));
    }
    let end = text.windows(2).position(|window| window == b"\n\n");
    let (head, body) = end
        .map_or((text, &[][..]), |end| (text.get(..end).unwrap_or(text), text.get(end + 2..).unwrap_or(&[])));
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let method = Method::from_bytes(first.next()?).ok()?;
    let uri = Uri::try_from(first.next()?).ok().filter(|uri| uri.path().starts_with('/'))?;
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            request.headers_mut().append(name, value);
        }
    }
    Some(Step::Request(Box::new(request)))
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    split(bytes, from).join(to)
}

fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(separator.len()).position(|window| window == separator) {
        let (part, tail) = rest.split_at(at);
        parts.push(part);
        rest = tail.get(separator.len()..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}

/// What was asked, as far as the answer is judged by it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) method: Method,
    /// Percent-decoded.
    pub(super) path: String,
    pub(super) key: Option<Vec<u8>>,
    pub(super) body_is_empty: bool,
}

impl Sent {
    pub(super) fn of(request: &Request<Body>) -> Self {
        use axum::body::HttpBody as _;
        let key = request.headers().get("idempotency-key").map(|key| key.as_bytes().trim_ascii().to_vec());
        Self {
            method: request.method().clone(),
            path: percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned(),
            key: key.filter(|key| !key.is_empty()),
            body_is_empty: request.body().is_end_stream(),
        }
    }

    /// Which of the tokens stands in the path.
    pub(super) fn shown(&self, tokens: &[Known]) -> Option<usize> {
        tokens.iter().position(|token| self.path.contains(&token.text))
    }

    /// Whether it asks how the server is.
    pub(super) fn is_probe(&self) -> bool {
        matches!(self.path.as_str(), "/healthz" | "/readyz")
    }
}
