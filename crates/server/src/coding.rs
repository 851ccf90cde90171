//! Bodies that a client has compressed (RFC 9110 section 8.4).

use std::borrow::Cow;
use std::io::Read;

use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or RFC 1951 without its frame, which some clients send.
    Deflate,
}

/// The body is compressed in a way that this server does not undo (RFC 9110 section 15.5.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownCoding;

impl UnknownCoding {
    /// For people.
    pub(crate) const TEXT: &str =
        "Send the body as it is, or compressed once: Content-Encoding: gzip, or deflate.";

    /// Names the codings that would have been understood.
    pub(crate) fn explain(mut response: Response) -> Response {
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        response
    }
}

impl IntoResponse for UnknownCoding {
    fn into_response(self) -> Response {
        Self::explain((StatusCode::UNSUPPORTED_MEDIA_TYPE, Self::TEXT).into_response())
    }
}

/// Why a body that is compressed cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// It is longer than it may be.
    TooLong,
    /// It is not what its header says.
    Broken,
}

impl Coding {
    /// Of a message with these headers. Several codings, one upon the other, are not undone.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, UnknownCoding> {
        let mut lines = headers.get_all(CONTENT_ENCODING).iter();
        let (line, None) = (lines.next(), lines.next()) else { return Err(UnknownCoding) };
        let name = line.map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
        match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Ok(Self::Identity),
            b"gzip" | b"x-gzip" => Ok(Self::Gzip),
            b"deflate" => Ok(Self::Deflate),
            _ => Err(UnknownCoding),
        }
    }

    /// Undoes it. Never makes more than `limit` bytes and one.
    pub(crate) fn decode(self, body: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
        // Some libraries send the header with an empty body, too.
        if body.is_empty() || self == Self::Identity {
            return if body.len() > limit { Err(DecodeError::TooLong) } else { Ok(Cow::Borrowed(body)) };
        }
        if self == Self::Gzip {
            return read(MultiGzDecoder::new(body), limit);
        }
        match read(ZlibDecoder::new(body), limit) {
            Err(DecodeError::Broken) => read(DeflateDecoder::new(body), limit),
            read => read,
        }
    }
}

fn read<'a>(decoder: impl Read, limit: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = Vec::new();
    decoder.take(most).read_to_end(&mut body).map_err(|_| DecodeError::Broken)?;
    if body.len() > limit { Err(DecodeError::TooLong) } else { Ok(Cow::Owned(body)) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 10_000;

    fn compressed(text: &[u8]) -> [(Coding, Vec<u8>); 3] {
        let level = Compression::default();
        let (mut gzip, mut zlib, mut raw) = (
            GzEncoder::new(Vec::new(), level),
            ZlibEncoder::new(Vec::new(), level),
            DeflateEncoder::new(Vec::new(), level),
        );
        for encoder in [&mut gzip as &mut dyn Write, &mut zlib, &mut raw] {
            encoder.write_all(text).unwrap();
        }
        [
            (Coding::Gzip, gzip.finish().unwrap()),
            (Coding::Deflate, zlib.finish().unwrap()),
            (Coding::Deflate, raw.finish().unwrap()),
        ]
    }

    #[test]
    fn only_known_codings_are_decoded() {
        for (lines, coding) in [
            (vec![], Ok(Coding::Identity)),
            (vec!["identity"], Ok(Coding::Identity)),
            (vec![""], Ok(Coding::Identity)),
            (vec!["gzip"], Ok(Coding::Gzip)),
            (vec![" X-GZip "], Ok(Coding::Gzip)),
            (vec!["deflate"], Ok(Coding::Deflate)),
            (vec!["br"], Err(UnknownCoding)),
            (vec!["gzip, gzip"], Err(UnknownCoding)),
            (vec!["gzip", "gzip"], Err(UnknownCoding)),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(CONTENT_ENCODING, line.parse().unwrap());
            }
            assert_eq!(Coding::of(&headers), coding, "{lines:?}");
        }
    }

    #[test]
    fn compression_bombs_are_rejected() {
        for (coding, bomb) in compressed(&vec![b'0'; 100_000_000]) {
            assert_eq!(coding.decode(&bomb, LIMIT), Err(DecodeError::TooLong), "{coding:?}");
        }
        assert_eq!(Coding::Identity.decode(&[0; LIMIT + 1], LIMIT), Err(DecodeError::TooLong));
    }

    #[test]
    fn truncated_bodies_are_errors() {
        for (coding, body) in compressed(&[7; 500]) {
            assert_eq!(coding.decode(&body[..body.len() - 1], LIMIT), Err(DecodeError::Broken), "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn compressed_body_is_read(text in prop::collection::vec(any::<u8>(), 0..=LIMIT)) {
            for (coding, body) in compressed(&text) {
                let read = coding.decode(&body, LIMIT);
                prop_assert_eq!(read.as_deref(), Ok(&*text));
            }
        }

        #[test]
        fn any_body_is_read_without_a_panic(body in any::<Vec<u8>>()) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                prop_assert!(coding.decode(&body, 100).map_or(0, |text| text.len()) <= 100);
            }
        }
    }
}
