#![doc = include_str!("../README.md")]
//!
//! The audience of a token: the base URL of the bug tracker that may redeem it.
//!
//! Both sides of the handshake, and the tools that check them, must agree on when two spellings of a URL are one tracker.
//! This crate is that agreement: [`Audience`].

use std::fmt;

use data_encoding::HEXUPPER_PERMISSIVE;
use url::{Host, Url};

/// The longest audience, in bytes after normalisation. It travels inside the token, and the token inside a URL.
pub const MAX_AUDIENCE_BYTES: usize = 512;

/// A bug tracker's base URL in its one normal form, so that equality of text is equality of trackers.
///
/// Normalised are (RFC 3986 section 6.2.2 and 6.2.3): the case of scheme and host, a default port, a dot at the end of
/// the host, dot segments, percent-encoding, and slashes at the end of the path. The scheme matters: a tracker reached
/// over `http` is not the one reached over `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(String);

/// Why a text is not the base URL of a bug tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// It cannot be read as an absolute URL.
    #[error("is not an absolute URL; give the tracker's base URL, such as https://bugs.example.org/")]
    NotAUrl,
    /// Its scheme is neither `http` nor `https`.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// It has a user name or a password in it.
    #[error("must not carry a user name or password")]
    Credentials,
    /// It has a query or a fragment.
    #[error("must not carry a query (?) or a fragment (#); give the tracker's base URL")]
    QueryOrFragment,
    /// It is longer than [`MAX_AUDIENCE_BYTES`].
    #[error("is longer than {MAX_AUDIENCE_BYTES} bytes")]
    TooLong,
}

impl Audience {
    /// Reads and normalises a tracker's base URL.
    ///
    /// ```
    /// # use countersign_audience::Audience;
    /// let given = Audience::parse("HTTPS://Trac.Example.org:443/main/../trac/")?;
    /// assert_eq!(given.as_str(), "https://trac.example.org/trac");
    /// assert_eq!(given, Audience::parse("https://trac.example.org/trac")?);
    /// # Ok::<(), countersign_audience::AudienceError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, AudienceError> {
        // The bound comes before the parser: what it may cost is then known.
        if text.len() > 4 * MAX_AUDIENCE_BYTES {
            return Err(AudienceError::TooLong);
        }
        let mut url = Url::parse(text.trim()).map_err(|_| AudienceError::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AudienceError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AudienceError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(AudienceError::QueryOrFragment);
        }
        if let Some(Host::Domain(domain)) = url.host()
            && let Some(without_dot) = domain.strip_suffix('.').map(str::to_owned)
        {
            if without_dot.is_empty() || without_dot.ends_with('.') {
                return Err(AudienceError::NotAUrl);
            }
            url.set_host(Some(&without_dot)).map_err(|_| AudienceError::NotAUrl)?;
        }
        let path = normal_percent_encoding(url.path());
        let trimmed = path.trim_end_matches('/');
        url.set_path(if trimmed.is_empty() { "/" } else { trimmed });
        let text = String::from(url);
        if text.len() > MAX_AUDIENCE_BYTES {
            return Err(AudienceError::TooLong);
        }
        Ok(Self(text))
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a text that [`as_str`](Self::as_str) returned, without checking it again.
    pub fn from_normal_form(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decodes what needs no encoding and writes the rest in upper case (RFC 3986 sections 6.2.2.1 and 6.2.2.2). A percent
/// sign that encodes nothing becomes an encoded one, so that what follows it cannot make it one later.
fn normal_percent_encoding(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        normal.push_str(before);
        let octet = after.get(..2).and_then(|hex| HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).ok());
        rest = if octet.is_some() { after.get(2..).unwrap_or_default() } else { after };
        match octet.as_deref() {
            Some(&[octet]) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                normal.push(char::from(octet));
            }
            octet => {
                normal.push('%');
                normal.push_str(&HEXUPPER_PERMISSIVE.encode(octet.unwrap_or(b"%")));
            }
        }
    }
    normal.push_str(rest);
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_tracker_are_equal() {
        for (given, normal) in [
            ("https://trac.example.org", "https://trac.example.org/"),
            ("https://trac.example.org/", "https://trac.example.org/"),
            ("https://trac.example.org//", "https://trac.example.org/"),
            (" https://trac.example.org/\n", "https://trac.example.org/"),
            ("HTTPS://TRAC.EXAMPLE.ORG/", "https://trac.example.org/"),
            ("https://trac.example.org.:443/", "https://trac.example.org/"),
            ("http://trac.example.org:80/a/", "http://trac.example.org/a"),
            ("http://trac.example.org:8080/a", "http://trac.example.org:8080/a"),
            ("https://trac.example.org/a/./b/../c", "https://trac.example.org/a/c"),
            ("https://trac.example.org/%7euser/%c3%a9", "https://trac.example.org/~user/%C3%A9"),
            ("https://trac.example.org/a%2fb", "https://trac.example.org/a%2Fb"),
            ("https://trac.example.org/%+f", "https://trac.example.org/%25+f"),
            ("https://trac.example.org/%%4141", "https://trac.example.org/%25A41"),
            ("https://trac.example.org/100%", "https://trac.example.org/100%25"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            ("http://[::1]:8000/trac", "http://[::1]:8000/trac"),
            ("http://127.0.0.1:8000/trac", "http://127.0.0.1:8000/trac"),
        ] {
            assert_eq!(Audience::parse(given).unwrap().as_str(), normal, "{given}");
        }
    }

    #[test]
    fn different_trackers_stay_different() {
        let home = Audience::parse("https://trac.example.org/a").unwrap();
        for other in [
            "http://trac.example.org/a",
            "https://trac.example.org/",
            "https://trac.example.org/A",
            "https://trac.example.org/a/b",
            "https://trac.example.org:8443/a",
            "https://trac.example.org.evil.example/a",
            "https://trac.example.org/a%2F",
        ] {
            assert_ne!(home, Audience::parse(other).unwrap(), "{other}");
        }
    }

    #[test]
    fn invalid_base_url_is_refused_with_a_reason() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_AUDIENCE_BYTES));
        let very_long = format!("https://a.example/{}", "x".repeat(1_000_000));
        for (given, error) in [
            ("", AudienceError::NotAUrl),
            ("trac.example.org", AudienceError::NotAUrl),
            ("https://", AudienceError::NotAUrl),
            ("https://./", AudienceError::NotAUrl),
            ("https://trac.example.org../", AudienceError::NotAUrl),
            ("ftp://trac.example.org/", AudienceError::Scheme),
            ("javascript:alert(1)", AudienceError::Scheme),
            ("https://user:secret@trac.example.org/", AudienceError::Credentials),
            ("https://trac.example.org/?a=b", AudienceError::QueryOrFragment),
            ("https://trac.example.org/#a", AudienceError::QueryOrFragment),
            (&long, AudienceError::TooLong),
            (&very_long, AudienceError::TooLong),
        ] {
            assert_eq!(Audience::parse(given), Err(error), "{}", given.get(..40).unwrap_or(given));
        }
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "https?://[a-z.]{1,20}(:[0-9]{1,4})?(/[a-zA-Z0-9%~./-]{0,30})?") {
            if let Ok(once) = Audience::parse(&text) {
                proptest::prop_assert_eq!(Audience::parse(once.as_str()), Ok(once));
            }
        }

        #[test]
        fn any_url_is_read_without_panic(text in ".*") {
            let _ = Audience::parse(&text);
        }
    }
}
