//! The path of a request, as every reader takes it.
//!
//! A proxy, a framework and a tracker decode paths differently: one takes `%2e%2e` for a step up, another `//` for `/`, a
//! third cuts `;x` off. A rule that allows one reading would let the other reading through. So the gate grants nothing to a
//! path that can be read in two ways.

use percent_encoding::percent_decode_str;

/// A path that has one reading only: its segments, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath {
    segments: Vec<String>,
    /// The names of the query's parameters, decoded as a form is.
    query_names: Vec<String>,
}

/// Why a path has more than one reading, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnclearPath {
    /// It does not begin with a slash.
    #[error("it does not begin with a slash")]
    NotAbsolute,
    /// It has an empty segment, `.` or `..`, also encoded.
    #[error("it has an empty segment, `.` or `..`")]
    Segment,
    /// It has a character that some readers take for a delimiter, or that has no place in a path.
    #[error("it has a character that some programs take for a delimiter")]
    Character,
    /// A percent sign is not the beginning of an encoded character, or what is encoded is not UTF-8.
    #[error("its percent-encoding cannot be read")]
    Encoding,
}

impl RequestPath {
    /// Reads the target of a request, as the client sent it.
    ///
    /// # Errors
    ///
    /// If two programs could take it for different paths.
    pub fn parse(target: &str) -> Result<Self, UnclearPath> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let rest = path.strip_prefix('/').ok_or(UnclearPath::NotAbsolute)?;
        let raw: Vec<&str> = rest.split('/').collect();
        let last = raw.len().saturating_sub(1);
        let mut segments = Vec::with_capacity(raw.len());
        for (place, segment) in raw.into_iter().enumerate() {
            let segment = decode(segment)?;
            // An empty segment at the end is a slash at the end.
            if matches!(&*segment, "." | "..") || (segment.is_empty() && place != last) {
                return Err(UnclearPath::Segment);
            }
            segments.push(segment);
        }
        Ok(Self { segments, query_names: names(query) })
    }

    /// The segments; the last one is empty if the path ends with a slash.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Whether the query has a parameter that some program takes for one of this name: PHP makes `_` of a dot, a space and `[`.
    pub(crate) fn has_query_parameter(&self, name: &str) -> bool {
        let is_same =
            |(found, wanted): (u8, u8)| found == wanted || (wanted == b'_' && b". [".contains(&found));
        let passes =
            |found: &String| found.len() == name.len() && found.bytes().zip(name.bytes()).all(is_same);
        self.query_names.iter().any(passes)
    }

    /// What stands below these segments; `None` if the path is not below them.
    pub(crate) fn below(&self, base: &[String]) -> Option<&[String]> {
        self.segments.strip_prefix(base)
    }
}

fn decode(segment: &str) -> Result<String, UnclearPath> {
    if !segment.bytes().all(is_plain) {
        return Err(UnclearPath::Character);
    }
    let mut rest = segment.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let (digits, after) =
            rest.get(at + 1..).and_then(<[u8]>::split_first_chunk::<2>).ok_or(UnclearPath::Encoding)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(UnclearPath::Encoding);
        }
        rest = after;
    }
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| UnclearPath::Encoding)?;
    let is_unclear = |c: char| matches!(c, '/' | '\\' | '%' | ';' | '?' | '#') || c.is_control();
    if decoded.contains(is_unclear) { Err(UnclearPath::Character) } else { Ok(decoded.into_owned()) }
}

/// Whether a path may have this byte as it is. Not `;`, which begins a parameter for some readers, nor `\`, which is a slash
/// for some.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=:@".contains(&byte)
}

/// The names of a query's parameters. Some readers separate them with `;`.
fn names(query: &str) -> Vec<String> {
    query
        .split(['&', ';'])
        .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
        .map(|name| percent_decode_str(&name.replace('+', " ")).decode_utf8_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_path_is_read_and_decoded() {
        for (target, segments) in [
            ("/", vec![""]),
            ("/issue1", vec!["issue1"]),
            ("/a/b/", vec!["a", "b", ""]),
            ("/a%20b/%7Eme?x=../../y", vec!["a b", "~me"]),
            ("/na%C3%AFve", vec!["naïve"]),
            ("/...", vec!["..."]),
        ] {
            assert_eq!(RequestPath::parse(target).unwrap().segments(), segments, "{target}");
        }
    }

    #[test]
    fn path_with_two_readings_is_rejected() {
        use UnclearPath::{Character, Encoding, NotAbsolute, Segment};
        for (target, reason) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("http://bugs.example.org/issue1", NotAbsolute),
            ("//issue1", Segment),
            ("/a//b", Segment),
            ("/a/./b", Segment),
            ("/a/../b", Segment),
            ("/a/..", Segment),
            ("/a/%2e%2e/b", Segment),
            ("/a/.%2E/b", Segment),
            ("/a/%2e/b", Segment),
            ("/a%2fb", Character),
            ("/a%5cb", Character),
            ("/a\\b", Character),
            ("/a;b", Character),
            ("/a/..;/b", Character),
            ("/a%3bb", Character),
            ("/a%252e", Character),
            ("/a%3fb", Character),
            ("/a%23b", Character),
            ("/a#b", Character),
            ("/a%00", Character),
            ("/a%0d%0ab", Character),
            ("/a b", Character),
            ("/é", Character),
            ("/a%", Encoding),
            ("/a%2", Encoding),
            ("/a%zz", Encoding),
            ("/a%u002e", Encoding),
            ("/a%c0%ae", Encoding),
            ("/a%ff", Encoding),
        ] {
            assert_eq!(RequestPath::parse(target), Err(reason), "{target}");
        }
    }

    #[test]
    fn query_parameter_is_found_in_each_spelling() {
        for target in [
            "/?_method=put",
            "/?a=b&_method",
            "/?a;_method=x",
            "/?%5fmethod=put",
            "/?_%6Dethod",
            "/?.method=put",
            "/?[method=put",
            "/?+method=put",
        ] {
            assert!(RequestPath::parse(target).unwrap().has_query_parameter("_method"), "{target}");
        }
        assert!(!RequestPath::parse("/_method?method=_method").unwrap().has_query_parameter("_method"));
    }

    /// What the URL standard, which browsers and many frameworks follow, makes of a path.
    fn by_url_standard(target: &str) -> Option<Vec<String>> {
        let url = url::Url::parse("http://a").ok()?.join(&format!("http://a{target}")).ok()?;
        let segments = url.path_segments()?;
        segments.map(|segment| Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())).collect()
    }

    proptest! {
        /// An accepted path has the segments that another reader finds, and decoding it again changes nothing.
        #[test]
        fn accepted_path_reads_the_same_elsewhere(
            target in r"/(%2e|%2F|%5c|%25|\.|/|;|\\|a|%C3%A9|%61|\?|#|[ -~]|\PC){0,12}",
        ) {
            if let Ok(path) = RequestPath::parse(&target) {
                let elsewhere = by_url_standard(&target);
                prop_assert_eq!(elsewhere.as_deref(), Some(path.segments()));
                for segment in path.segments() {
                    prop_assert!(!segment.contains(['/', '%']) && segment != ".." && segment != ".");
                    let again = percent_decode_str(segment).decode_utf8().unwrap();
                    prop_assert_eq!(&*again, &**segment);
                }
            }
        }

        #[test]
        fn any_target_is_read_without_panic(target in "\\PC*") {
            let _ = RequestPath::parse(&target);
        }
    }
}
