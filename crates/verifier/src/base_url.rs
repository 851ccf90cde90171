//! The tracker's own base URL: the audience that it states.

use data_encoding::HEXUPPER_PERMISSIVE;
use url::{Host, Url};

/// The longest base URL, in bytes, that an issuer has to understand.
const MAX_BYTES: usize = 512;

/// The tracker's base URL, as it was configured, and in the normal form in which an issuer gives it back.
#[derive(Clone, Debug)]
pub(crate) struct BaseUrl {
    given: String,
    url: Url,
    normal: String,
}

impl BaseUrl {
    /// Reads a base URL; an error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let given = text.trim();
        if given.len() > MAX_BYTES {
            return Err("is longer than 512 bytes");
        }
        let url = Url::parse(given).map_err(|_| "is not an absolute URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("does not begin with https:// or http://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user name or password in it");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has a query (?) or a fragment (#)");
        }
        let normal = normal_form(url.clone()).ok_or("has no host that can be")?;
        Ok(Self { given: given.to_owned(), url, normal })
    }

    /// What is stated to the issuer, which normalises it itself.
    pub(crate) fn as_str(&self) -> &str {
        &self.given
    }

    /// Whether `other` is a spelling of the same tracker.
    pub(crate) fn is_named_by(&self, other: &str) -> bool {
        Self::parse(other).is_ok_and(|other| other.normal == self.normal)
    }

    /// The normal form.
    pub(crate) fn normal(&self) -> &str {
        &self.normal
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The path, as browsers see it and without a slash at its end: `""` for a tracker at the root of its host.
    pub(crate) fn path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }
}

/// Normalises what RFC 3986 sections 6.2.2 and 6.2.3 call equivalent, a dot at the end of the host, and slashes at the
/// end of the path. The `url` crate has done case, ports and dot segments.
fn normal_form(mut url: Url) -> Option<String> {
    if let Some(Host::Domain(domain)) = url.host()
        && let Some(without_dot) = domain.strip_suffix('.').map(str::to_owned)
    {
        if without_dot.is_empty() || without_dot.ends_with('.') {
            return None;
        }
        url.set_host(Some(&without_dot)).ok()?;
    }
    let path = normal_percent_encoding(url.path());
    url.set_path(path.trim_end_matches('/'));
    Some(url.into())
}

/// Decodes what needs no encoding, and writes the rest in upper case.
fn normal_percent_encoding(path: &str) -> String {
    let mut parts = path.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octet = part.get(..2).and_then(|hex| HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).ok());
        match (octet.as_deref(), part.split_at_checked(2)) {
            (Some(&[octet]), Some((_, rest)))
                if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') =>
            {
                normal.push(char::from(octet));
                normal.push_str(rest);
            }
            (Some(_), Some((hex, rest))) => {
                normal.push('%');
                normal.push_str(&hex.to_ascii_uppercase());
                normal.push_str(rest);
            }
            _ => {
                normal.push('%');
                normal.push_str(part);
            }
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use countersign_core::Audience;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_tracker_are_one() {
        let tracker = BaseUrl::parse("https://Trac.Example.org:443/main/../%7euser/").unwrap();
        assert_eq!(tracker.normal(), "https://trac.example.org/~user");
        assert_eq!(tracker.path(), "/%7euser", "a cookie's path is compared with what the browser asks for");
        assert!(tracker.is_named_by("https://trac.example.org./~user"));
        assert!(!tracker.is_named_by("https://trac.example.org/user"));
        assert!(!tracker.is_named_by("http://trac.example.org/~user"));
        assert!(!tracker.is_named_by(""));
        assert_eq!(BaseUrl::parse("https://a.example//").unwrap().path(), "");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_BYTES));
        for given in [
            "",
            "trac.example.org",
            "https://",
            "https://./",
            "https://a..",
            "ftp://a.example/",
            "https://user@a.example/",
            "https://:secret@a.example/",
            "https://a.example/?q",
            "https://a.example/#f",
            &long,
        ] {
            assert!(BaseUrl::parse(given).is_err(), "{given}");
        }
    }

    proptest! {
        /// The issuer normalises by its own rules: what this side takes for its own name must be what comes back.
        #[test]
        fn the_normal_form_is_the_token_servers(
            text in "(https?|HTTP)://[a-zA-Z.]{1,12}(:(80|443|8080))?(/([a-zA-Z0-9~./_-]|%[0-9a-fA-F]{2}|é){0,20})?"
        ) {
            let theirs = Audience::parse(&text).ok().map(|audience| audience.as_str().to_owned());
            prop_assert_eq!(BaseUrl::parse(&text).ok().map(|ours| ours.normal), theirs);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*", path in "[%0-9a-fé+]{0,12}") {
            let _ = BaseUrl::parse(&text);
            let _ = BaseUrl::parse(&format!("https://a.example/{path}"));
            let _ = normal_percent_encoding(&path);
        }
    }
}
