//! The trackers for which a caller may have tokens issued.

use std::fmt;
use std::str::FromStr;

use countersign_core::{Audience, AudienceError};

/// What stands behind a base URL for everything below it.
const BELOW: &str = "/*";

/// The base URL of a tracker, or of a part of a site with everything below it: `https://bugs.example.org/` and
/// `https://trac.example.org/projects/*`.
///
/// Two normal forms are compared, the one of the pattern and the one that is sealed into the token. So no spelling of a URL
/// (case, default port, dot segments, percent-encoding, backslashes) makes it match what a tracker would not call itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudiencePattern {
    base: Audience,
    is_below: bool,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no base URL.
    #[error("{0}")]
    Url(#[from] AudienceError),
    /// It has a `*` elsewhere than as its last segment.
    #[error("can have a * only as its last segment, as in https://trac.example.org/projects/*")]
    Star,
}

impl AudiencePattern {
    /// Whether it covers this tracker.
    pub fn covers(&self, audience: &Audience) -> bool {
        if !self.is_below {
            return *audience == self.base;
        }
        let base = self.base.as_str().trim_end_matches('/');
        // What follows has to begin a new segment; and the base itself is the tracker at the root of that part.
        audience.as_str().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The one tracker that it covers, unless it covers more.
    pub fn only(&self) -> Option<&Audience> {
        (!self.is_below).then_some(&self.base)
    }
}

impl FromStr for AudiencePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        let (base, is_below) = match text.strip_suffix(BELOW) {
            Some(base) => (base, true),
            None => (text, false),
        };
        if base.contains('*') {
            return Err(PatternError::Star);
        }
        Ok(Self { base: Audience::parse(base)?, is_below })
    }
}

impl fmt::Display for AudiencePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_below {
            write!(f, "{}{BELOW}", self.base.as_str().trim_end_matches('/'))
        } else {
            f.write_str(self.base.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, url: &str) -> bool {
        let audience = Audience::parse(url).unwrap();
        pattern.parse::<AudiencePattern>().unwrap().covers(&audience)
    }

    #[test]
    fn every_spelling_of_a_tracker_is_covered() {
        let pattern = "https://bugs.example.org/";
        for url in [
            "https://bugs.example.org",
            "HTTPS://Bugs.Example.Org:443//",
            "https://bugs.example.org./",
            "https://bugs.example.org/a/..",
        ] {
            assert!(covers(pattern, url), "{url}");
        }
        for url in [
            "http://bugs.example.org/",
            "https://bugs.example.org:8443/",
            "https://bugs.example.org/a",
            "https://bugs.example.org.evil.example/",
            "https://evil.example/bugs.example.org/",
            "https://bugs.example.org%2eevil.example/",
            "https://evil.example/https://bugs.example.org/",
        ] {
            assert!(!covers(pattern, url), "{url}");
        }
    }

    #[test]
    fn part_of_a_site_ends_where_a_segment_ends() {
        let pattern = "https://trac.example.org/projects/*";
        for url in [
            "https://trac.example.org/projects",
            "https://trac.example.org/projects/",
            "https://trac.example.org/projects/a",
            "https://trac.example.org/projects/a/b",
            "https://trac.example.org/%70rojects/a",
            "https://trac.example.org/x/../projects/a",
            "https://trac.example.org\\projects\\a",
        ] {
            assert!(covers(pattern, url), "{url}");
        }
        for url in [
            "https://trac.example.org/",
            "https://trac.example.org/projectsevil",
            "https://trac.example.org/projects.evil/",
            "https://trac.example.org/projects%2fa",
            "https://trac.example.org/Projects/a",
            "https://trac.example.org/projects/../admin",
            "https://trac.example.org/projects/%2e%2e/admin",
            "https://trac.example.org/projects/.%2E/admin",
            "https://trac.example.org/projects\\..\\admin",
            "https://trac.example.org.evil.example/projects/a",
            "http://trac.example.org/projects/a",
            "https://trac.example.org:8443/projects/a",
        ] {
            assert!(!covers(pattern, url), "{url}");
        }
        assert!(covers("https://trac.example.org/*", "https://trac.example.org/"));
        assert!(covers("https://trac.example.org/*", "https://trac.example.org/a/b"));
        assert!(!covers("https://trac.example.org/*", "https://trac.example.org.evil.example/"));
        assert!(!covers("https://trac.example.org/*", "https://trac.example.org:8443/"));
    }

    #[test]
    fn invalid_pattern_is_refused() {
        for (text, error) in [
            ("", PatternError::Url(AudienceError::NotAUrl)),
            ("*", PatternError::Star),
            ("https://*/", PatternError::Star),
            ("https://*.example.org/", PatternError::Star),
            ("https://a.example/*/b", PatternError::Star),
            ("https://a.example/b*", PatternError::Star),
            ("https://a.example/**", PatternError::Star),
            ("/*", PatternError::Url(AudienceError::NotAUrl)),
            ("https:/*", PatternError::Url(AudienceError::NotAUrl)),
            ("https://user@a.example/*", PatternError::Url(AudienceError::Credentials)),
            ("https://user:secret@a.example/", PatternError::Url(AudienceError::Credentials)),
            ("https://a.example/?q/*", PatternError::Url(AudienceError::QueryOrFragment)),
            ("ftp://a.example/*", PatternError::Url(AudienceError::Scheme)),
        ] {
            assert_eq!(text.parse::<AudiencePattern>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn covered_urls_are_below_the_base(
            base in "https://(a|b)\\.example(:80|:443)?(/[ab%.]{0,4}){0,2}",
            url in "https?://(a|b)\\.example\\.?(:80|:443)?([/\\\\][abAB%.25eE]{0,6}){0,4}",
        ) {
            let Ok(pattern) = format!("{base}/*").parse::<AudiencePattern>() else { return Ok(()) };
            let Ok(audience) = Audience::parse(&url) else { return Ok(()) };
            let (base, found) =
                (url::Url::parse(pattern.base.as_str()).unwrap(), url::Url::parse(audience.as_str()).unwrap());
            let segments = |url: &url::Url| {
                url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>()
            };
            let is_below = base.origin() == found.origin() && found.path().split('/').count() >= base.path().split('/').count()
                && segments(&found).starts_with(&segments(&base));
            prop_assert!(!pattern.covers(&audience) || is_below, "{pattern} covers {audience}");
            prop_assert_eq!(pattern.to_string().parse::<AudiencePattern>(), Ok(pattern));
        }
    }
}
