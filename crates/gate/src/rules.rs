//! Which requests the sessions of an issuer may send. What no rule allows is forbidden.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::request_path::RequestPath;

/// Allows some methods on some paths below the tracker's base URL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Such as `GET`. Methods are compared as they are: `get` is another one. GET allows HEAD, too.
    pub methods: Vec<MethodName>,
    /// Such as `/issue*` or `/attachments/**`.
    pub paths: Vec<Pattern>,
}

/// The name of a method, in upper case as all registered ones are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MethodName(String);

/// A pattern for paths below the tracker's base URL.
///
/// Each of its segments is compared with one of the path, in which `*` stands for any text without a slash, also none. A
/// last segment `**` stands for everything below.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    text: String,
    segments: Vec<String>,
    /// Whether it ends with `**`.
    has_all_below: bool,
}

/// A text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no slash at its beginning, or a part that no path has.
    #[error(
        "a path must begin with a slash and be written decoded, without `//`, `.`, `..`, `%`, `?`, `#`, `;` and `\\`, such \
         as /issue* or /attachments/**"
    )]
    NotAPath,
    /// `**` stands somewhere else than alone at the end.
    #[error(
        "`**` must be the last part of a path, such as /attachments/**; `*` stands for a part of one segment"
    )]
    AllBelow,
    /// It is not a method.
    #[error("a method must be written in upper case, such as GET")]
    NotAMethod,
}

impl Rule {
    /// Whether it allows nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.methods.is_empty() || self.paths.is_empty()
    }

    /// Whether it allows this method on what stands below the base URL.
    pub fn allows(&self, method: &str, below: &[String]) -> bool {
        self.methods.iter().any(|allowed| allowed.0 == method || (allowed.0 == "GET" && method == "HEAD"))
            && self.paths.iter().any(|pattern| pattern.matches(below))
    }
}

impl Pattern {
    /// Whether it stands for a path of these segments.
    pub fn matches(&self, path: &[String]) -> bool {
        if path.len() < self.segments.len() || (path.len() > self.segments.len() && !self.has_all_below) {
            return false;
        }
        self.segments.iter().zip(path).all(|(pattern, segment)| matches(pattern, segment))
    }
}

/// Whether `*` in the pattern can stand for texts so that it is the segment.
fn matches(pattern: &str, segment: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| segment.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place leaves most for the parts that follow.
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (path, has_all_below) = match text.strip_suffix("/**") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.contains("**") {
            return Err(PatternError::AllBelow);
        }
        let is_part = |c: char| !matches!(c, '\\' | '%' | ';' | '?' | '#') && !c.is_control();
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let is_root = has_all_below && path.is_empty();
        if (!is_root && !path.starts_with('/')) || !path.chars().all(is_part) {
            return Err(PatternError::NotAPath);
        }
        segments.remove(0);
        let last = segments.len().saturating_sub(1);
        let is_segment = |(place, segment): (usize, &String)| {
            !matches!(&**segment, "." | "..") && (!segment.is_empty() || (place == last && !has_all_below))
        };
        if !segments.iter().enumerate().all(is_segment) {
            return Err(PatternError::NotAPath);
        }
        Ok(Self { text: text.to_owned(), segments, has_all_below })
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl TryFrom<String> for MethodName {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let is_method =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if is_method { Ok(Self(text)) } else { Err(PatternError::NotAMethod) }
    }
}

/// Whether one of the rules allows a method on a path that lies below `base`.
pub(crate) fn allow(rules: &[Rule], method: &str, path: &RequestPath, base: &[String]) -> bool {
    path.below(base).is_some_and(|below| rules.iter().any(|rule| rule.allows(method, below)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_match(pattern: &str, target: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(RequestPath::parse(target).unwrap().segments())
    }

    #[test]
    fn pattern_matches_whole_paths() {
        for (pattern, target, expected) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/issue*", "/issue12", true),
            ("/issue*", "/issue", true),
            ("/issue*", "/issue12/x", false),
            ("/issue*", "/xissue12", false),
            ("/*", "/a", true),
            ("/*", "/", true),
            ("/*", "/a/", false),
            ("/a/*.json", "/a/7.json", true),
            ("/a/*.json", "/a/7.json.exe", false),
            ("/a*b*c", "/abbc", true),
            ("/a*b*c", "/acb", false),
            ("/xy*yx", "/xyx", false),
            ("/a/**", "/a", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/A", "/a", false),
            ("/a b", "/a%20b", true),
        ] {
            assert_eq!(is_match(pattern, target), expected, "{pattern} {target}");
        }
    }

    #[test]
    fn invalid_pattern_is_rejected() {
        use PatternError::{AllBelow, NotAPath};
        for (text, error) in [
            ("", NotAPath),
            ("a", NotAPath),
            ("a/**", NotAPath),
            ("//a", NotAPath),
            ("/a//b", NotAPath),
            ("/a//**", NotAPath),
            ("/a/../b", NotAPath),
            ("/./**", NotAPath),
            ("/a%20b", NotAPath),
            ("/a?b", NotAPath),
            ("/a;b", NotAPath),
            ("/a\n", NotAPath),
            ("/**/a", AllBelow),
            ("/a**", AllBelow),
            ("**", AllBelow),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
        for method in ["", "get", "GET ", "G\u{c9}T"] {
            assert_eq!(MethodName::try_from(method.to_owned()), Err(PatternError::NotAMethod), "{method}");
        }
    }

    #[test]
    fn request_without_a_rule_is_forbidden() {
        let rule = |methods: &[&str], paths: &[&str]| Rule {
            methods: methods.iter().map(|method| MethodName((*method).to_owned())).collect(),
            paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
        };
        let rules = [rule(&["GET"], &["/issue*", "/"]), rule(&["POST"], &["/issue*"])];
        let base = ["tracker".to_owned()];
        for (method, target, expected) in [
            ("GET", "/tracker/issue1", true),
            ("HEAD", "/tracker/issue1", true),
            ("POST", "/tracker/issue1", true),
            ("GET", "/tracker/", true),
            ("POST", "/tracker/", false),
            ("PUT", "/tracker/issue1", false),
            ("get", "/tracker/issue1", false),
            ("GET", "/tracker/user1", false),
            ("GET", "/issue1", false),
            ("GET", "/trackers/issue1", false),
            ("GET", "/tracker", false),
        ] {
            let path = RequestPath::parse(target).unwrap();
            assert_eq!(allow(&rules, method, &path, &base), expected, "{method} {target}");
        }
        let path = RequestPath::parse("/tracker/issue1").unwrap();
        assert!(!allow(&[], "GET", &path, &base));
        let only_head = [rule(&["HEAD"], &["/**"])];
        assert!(allow(&only_head, "HEAD", &path, &base));
        assert!(!allow(&only_head, "GET", &path, &base));
    }

    /// The plain definition of `*`, to compare with.
    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => by_definition(rest, text),
            (Some(('*', rest)), Some((_, after))) => {
                by_definition(rest, text) || by_definition(pattern, after)
            }
            (Some((wanted, rest)), Some((found, after))) => wanted == found && by_definition(rest, after),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn star_matches_any_text(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), by_definition(&chars(&pattern), &chars(&text)));
        }
    }
}
