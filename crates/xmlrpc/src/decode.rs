//! Decodes a document from its encoding to text.
//!
//! In order of authority (RFC 7303, section 3, and XML 1.0, appendix F): a byte order mark, the `charset`
//! parameter of the Content-Type, the XML declaration, else UTF-8. UTF-16 without a byte order mark is
//! recognised by the zero byte beside its first character.

use std::borrow::Cow;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, X_USER_DEFINED};

use crate::fault::{self, Fault};

/// The text of a document that came with this Content-Type, without a byte order mark; borrowed where it is UTF-8 already.
///
/// # Errors
///
/// A fault if the encoding is unknown, or if the bytes are not of that encoding.
pub fn decode<'a>(content_type: Option<&str>, body: &'a [u8]) -> Result<Cow<'a, str>, Fault> {
    let (encoding, body) = match byte_order_mark(body)? {
        Some(found) => found,
        None => (declared(content_type, body)?, body),
    };
    encoding
        .decode_without_bom_handling_and_without_replacement(body)
        .ok_or_else(|| fault::invalid_character(encoding.name()))
}

fn byte_order_mark(body: &[u8]) -> Result<Option<(&'static Encoding, &[u8])>, Fault> {
    match body {
        // UTF-32, whose little-endian mark begins like that of UTF-16.
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(fault::unsupported_encoding("UTF-32")),
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(Some((UTF_8, rest))),
        [0xff, 0xfe, rest @ ..] => Ok(Some((UTF_16LE, rest))),
        [0xfe, 0xff, rest @ ..] => Ok(Some((UTF_16BE, rest))),
        _ => Ok(None),
    }
}

/// The encoding of a document without a byte order mark.
fn declared(content_type: Option<&str>, body: &[u8]) -> Result<&'static Encoding, Fault> {
    // A document starts with `<` or white space, so these first bytes mean UTF-16, even if another encoding is declared.
    match body {
        [first, 0, ..] if *first != 0 => return Ok(UTF_16LE),
        [0, second, ..] if *second != 0 => return Ok(UTF_16BE),
        _ => {}
    }
    let Some(label) = content_type.and_then(charset).or_else(|| xml_declaration(body)) else {
        return Ok(UTF_8);
    };
    if is_ascii_label(label) {
        // Perl's RPC::XML declares US-ASCII and then sends UTF-8. (`encoding_rs` would read windows-1252.)
        return Ok(UTF_8);
    }
    let encoding = Encoding::for_label(label.as_bytes())
        .filter(|encoding| *encoding != REPLACEMENT && *encoding != X_USER_DEFINED)
        .ok_or_else(|| fault::unsupported_encoding(label))?;
    // Some clients send UTF-8 under a declaration of UTF-16, because it was written for a string in memory.
    // UTF-16 itself has been recognised above.
    Ok(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding })
}

fn is_ascii_label(label: &str) -> bool {
    ["us-ascii", "ascii", "ansi_x3.4-1968"].iter().any(|ascii| label.eq_ignore_ascii_case(ascii))
}

/// The `charset` parameter of a Content-Type such as `text/xml; charset="utf-8"`.
fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then_some(value)
    })
}

/// The encoding named by the XML declaration of a document in some superset of ASCII.
fn xml_declaration(body: &[u8]) -> Option<&str> {
    let rest = body.strip_prefix(b"<?xml")?;
    let end = rest.iter().position(|byte| *byte == b'>')?;
    let declaration = std::str::from_utf8(rest.get(..end)?).ok()?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    value.get(1..)?.split_once(quote).map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, mark: bool, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = if mark { "\u{feff}" } else { "" };
        format!("{mark}{text}").encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn utf8_is_borrowed_not_copied() {
        for body in ["<a>é</a>", "<?xml version='1.0' encoding='UTF-8'?><a>é</a>", "\u{feff}<a>é</a>"] {
            assert!(matches!(decode(None, body.as_bytes()), Ok(Cow::Borrowed(_))), "{body}");
        }
    }

    #[test]
    fn declaration_names_the_encoding() {
        for declaration in [
            "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>",
            "<?xml version='1.0' encoding = 'ISO-8859-1' standalone='yes' ?>",
            "<?xml version='1.0' encoding='windows-1252'?>",
        ] {
            let body = [declaration.as_bytes(), b"\xe9"].concat();
            assert_eq!(decode(None, &body).unwrap(), format!("{declaration}é"));
        }
    }

    #[test]
    fn charset_precedence_is_bom_header_declaration() {
        let latin = b"<?xml version='1.0' encoding='utf-8'?>\xe9";
        for content_type in [
            "text/xml; charset=iso-8859-1",
            "text/xml;x=y; CHARSET=\"Latin1\"",
            "text/xml; charset='iso-8859-1'",
        ] {
            assert!(decode(Some(content_type), latin).unwrap().ends_with('é'), "{content_type}");
        }
        assert_eq!(decode(Some("text/xml"), latin).unwrap_err().code(), fault::INVALID_CHARACTER);
        assert_eq!(
            decode(Some("text/xml; charset=\"\""), latin).unwrap_err().code(),
            fault::INVALID_CHARACTER
        );
        assert_eq!(decode(Some("text/xml; charset=iso-8859-1"), "\u{feff}é".as_bytes()).unwrap(), "é");
    }

    #[test]
    fn utf16_with_and_without_a_mark() {
        let text = "<?xml version='1.0' encoding='utf-16'?><a>é\u{1f600}</a>";
        for mark in [true, false] {
            for content_type in [None, Some("text/xml; charset=utf-16"), Some("text/xml; charset=utf-8")] {
                assert_eq!(decode(content_type, &utf16(text, mark, u16::to_le_bytes)).unwrap(), text);
                assert_eq!(decode(content_type, &utf16(text, mark, u16::to_be_bytes)).unwrap(), text);
            }
        }
        // UTF-8 that only claims to be UTF-16.
        assert_eq!(decode(None, text.as_bytes()).unwrap(), text);
    }

    #[test]
    fn us_ascii_is_read_as_utf8() {
        let text = "<?xml version='1.0' encoding='us-ascii'?><a>é</a>";
        assert_eq!(decode(None, text.as_bytes()).unwrap(), text);
    }

    #[test]
    fn undecodable_documents_are_faults() {
        let rows: &[(Option<&str>, &[u8], i32)] = &[
            (Some("text/xml; charset=x-klingon"), b"<a/>", fault::UNSUPPORTED_ENCODING),
            (None, b"<?xml version='1.0' encoding='ebcdic-cp-us'?><a/>", fault::UNSUPPORTED_ENCODING),
            (None, b"<?xml version='1.0' encoding=''?><a/>", fault::UNSUPPORTED_ENCODING),
            (None, b"<?xml version='1.0' encoding='iso-2022-kr'?><a/>", fault::UNSUPPORTED_ENCODING),
            (None, b"\xff\xfe\0\0<\0\0\0", fault::UNSUPPORTED_ENCODING),
            (None, b"\0\0\xfe\xff\0\0\0<", fault::UNSUPPORTED_ENCODING),
            (None, b"<a>\xe9</a>", fault::INVALID_CHARACTER),
            (None, b"<a>\xed\xa0\x80</a>", fault::INVALID_CHARACTER),
            (None, b"\xff\xfe<\0a", fault::INVALID_CHARACTER),
            (None, b"\xff\xfe\x00\xd8<\0", fault::INVALID_CHARACTER),
            (Some("text/xml; charset=us-ascii"), b"<a>\xe9</a>", fault::INVALID_CHARACTER),
            (None, b"<?xml version='1.0' encoding='euc-jp'?>\xff", fault::INVALID_CHARACTER),
        ];
        for (content_type, body, code) in rows {
            assert_eq!(decode(*content_type, body).unwrap_err().code(), *code, "{:?}", body.escape_ascii());
        }
    }
}
