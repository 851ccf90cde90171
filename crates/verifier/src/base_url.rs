//! The tracker's own base URL: the audience that it states.

use countersign_audience::{Audience, AudienceError};
use url::Url;

/// The tracker's base URL, as it was configured, and in the normal form in which an issuer gives it back.
#[derive(Clone, Debug)]
pub(crate) struct BaseUrl {
    given: String,
    url: Url,
    audience: Audience,
}

impl BaseUrl {
    /// Reads a base URL; an error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, AudienceError> {
        let given = text.trim().to_owned();
        let audience = Audience::parse(&given)?;
        let url = Url::parse(&given).map_err(|_| AudienceError::NotAUrl)?;
        Ok(Self { given, url, audience })
    }

    /// What is stated to the issuer, which normalises it itself.
    pub(crate) fn as_str(&self) -> &str {
        &self.given
    }

    /// Whether `other` is a spelling of the same tracker.
    pub(crate) fn is_named_by(&self, other: &str) -> bool {
        Audience::parse(other).is_ok_and(|other| other == self.audience)
    }

    /// The normal form.
    pub(crate) fn normal(&self) -> &str {
        self.audience.as_str()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The path, as browsers see it and without a slash at its end: `""` for a tracker at the root of its host.
    pub(crate) fn path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_tracker_are_one() {
        let tracker = BaseUrl::parse(" https://Trac.Example.org:443/main/../%7euser/").unwrap();
        assert_eq!(tracker.as_str(), "https://Trac.Example.org:443/main/../%7euser/");
        assert_eq!(tracker.normal(), "https://trac.example.org/~user");
        assert_eq!(tracker.path(), "/%7euser", "a cookie's path is compared with what the browser asks for");
        assert!(tracker.is_named_by("https://trac.example.org./~user"));
        assert!(!tracker.is_named_by("https://trac.example.org/user"));
        assert!(!tracker.is_named_by("http://trac.example.org/~user"));
        assert!(!tracker.is_named_by(""));
        assert_eq!(BaseUrl::parse("https://a.example//").unwrap().path(), "");
    }
}
