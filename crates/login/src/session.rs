//! The session that a login opens, and the cookies that it consists of.

use std::fmt;
use std::net::IpAddr;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use url::Url;

use crate::{Tracker, cookie_end};

/// More cookies than this from one answer are not a session but a nuisance.
const MAX_COOKIES: usize = 50;

/// A session at a tracker. Its cookies are enough to be logged in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Session {
    /// The kind of tracker.
    pub tracker: Tracker,
    /// The tracker's base URL, as it was given.
    pub url: Url,
    /// The user that the issuer is logged in as, by the tracker's own name or number, if it told.
    pub user: Option<String>,
    /// Every cookie that the tracker set at the login: those of the session, and any others.
    pub cookies: Vec<Cookie>,
}

impl Session {
    /// All cookies as the value of a `Cookie` header.
    pub fn cookie_header(&self) -> String {
        header(self.cookies.iter())
    }

    /// The same of those cookies alone that a client sends to this URL of the tracker; empty if it sends none (RFC 6265,
    /// section 5.4).
    pub fn cookies_for(&self, url: &Url) -> String {
        let is_secure = url.scheme() == "https";
        let is_sent = |cookie: &&Cookie| (is_secure || !cookie.secure) && is_below(&cookie.path, url.path());
        header(self.cookies.iter().filter(is_sent))
    }
}

fn header<'a>(cookies: impl Iterator<Item = &'a Cookie>) -> String {
    cookies.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect::<Vec<_>>().join("; ")
}

/// Path matching (RFC 6265, section 5.1.4).
fn is_below(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || directory.ends_with('/'))
}

/// A cookie as a client keeps it (RFC 6265, section 5.3). `Debug` leaves the value out.
#[derive(Clone, Eq, PartialEq, Serialize)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value, as the tracker spelled it: a secret.
    pub value: String,
    /// The host that it is for.
    pub domain: String,
    /// Whether it is for that host alone, and not for those below it.
    pub host_only: bool,
    /// The path that it is for, with all below it.
    pub path: String,
    /// When it ends, UTC; `None`: with the session.
    pub expires: Option<Timestamp>,
    /// Whether it may travel over TLS only.
    pub secure: bool,
    /// Whether scripts in the tracker's pages must not see it.
    pub http_only: bool,
    /// `Strict`, `Lax` or `None`, if the tracker said so.
    pub same_site: Option<String>,
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.name)
            .field("domain", &self.domain)
            .field("path", &self.path)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The cookies that an answer sets and that a client would keep: `url` was asked, and the answer came at `now`.
pub(crate) fn cookies(headers: &HeaderMap, url: &Url, now: Timestamp) -> Vec<Cookie> {
    let mut kept: Vec<Cookie> = Vec::new();
    for header in headers.get_all(SET_COOKIE).iter().take(MAX_COOKIES) {
        let Some(cookie) = read(header, url, now) else { continue };
        // The last one counts, also if all it does is to delete.
        kept.retain(|other| {
            (&other.name, &other.domain, &other.path) != (&cookie.name, &cookie.domain, &cookie.path)
        });
        if !cookie.value.is_empty() && cookie.expires.is_none_or(|expires| expires > now) {
            kept.push(cookie);
        }
    }
    kept
}

fn read(header: &HeaderValue, url: &Url, now: Timestamp) -> Option<Cookie> {
    let text = header.to_str().ok()?;
    // A tab is legal in a header, and would start a new field in a cookie jar.
    if text.contains(|c: char| c.is_ascii_control()) {
        return None;
    }
    let parsed = cookie::Cookie::parse(text).ok()?;
    let host = url.host_str()?;
    let domain = parsed.domain().filter(|domain| !domain.is_empty()).map(str::to_ascii_lowercase);
    // A tracker speaks for itself and for its own domain, not for others, nor for a whole top-level domain.
    if domain.as_deref().is_some_and(|domain| !covers(domain, host)) {
        return None;
    }
    let path = parsed.path().filter(|path| path.starts_with('/'));
    Some(Cookie {
        name: parsed.name().to_owned(),
        value: parsed.value().to_owned(),
        host_only: domain.is_none(),
        domain: domain.unwrap_or_else(|| host.to_owned()),
        path: path.map_or_else(|| default_path(url), str::to_owned),
        expires: expires(&parsed, text, now),
        secure: parsed.secure() == Some(true),
        http_only: parsed.http_only() == Some(true),
        same_site: parsed.same_site().map(|same_site| same_site.to_string()),
    })
}

/// Domain matching (RFC 6265, section 5.1.3).
fn covers(domain: &str, host: &str) -> bool {
    let below = || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    domain == host || (!is_address && domain.contains('.') && below())
}

/// The directory of what was asked for (RFC 6265, section 5.1.4): a token in the last place is not part of it.
fn default_path(url: &Url) -> String {
    match url.path().rsplit_once('/') {
        Some((directory, _)) if !directory.is_empty() => directory.to_owned(),
        _ => "/".to_owned(),
    }
}

/// Max-Age has precedence over Expires (RFC 6265, section 5.3).
fn expires(cookie: &cookie::Cookie<'_>, text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(age) = cookie.max_age() {
        let age = SignedDuration::from_secs(age.whole_seconds());
        return Some(now.checked_add(age).unwrap_or(Timestamp::MAX));
    }
    cookie_end(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T22:00:00Z";

    fn kept(url: &str, lines: &[&str]) -> Vec<Cookie> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SET_COOKIE, line.parse().unwrap());
        }
        cookies(&headers, &url.parse().unwrap(), NOW.parse().unwrap())
    }

    fn one(url: &str, line: &str) -> Cookie {
        kept(url, &[line]).pop().unwrap_or_else(|| panic!("{line} is not kept"))
    }

    #[test]
    fn every_cookie_attribute_is_parsed() {
        let cookie = one(
            "https://trac.example.org/p/launchpad-auth/cs1abc",
            "trac_auth=af; Domain=.Example.org; Path=/p; Secure; HttpOnly; SameSite=Strict; \
             Expires=Tue, 24-Nov-2026 22:00:00 GMT",
        );
        assert_eq!((cookie.name.as_str(), cookie.value.as_str()), ("trac_auth", "af"));
        assert_eq!((cookie.domain.as_str(), cookie.host_only), ("example.org", false));
        assert_eq!(cookie.path, "/p");
        assert_eq!(cookie.expires, Some("2026-11-24T22:00:00Z".parse().unwrap()));
        assert!(cookie.secure && cookie.http_only);
        assert_eq!(cookie.same_site.as_deref(), Some("Strict"));
    }

    #[test]
    fn missing_attributes_have_standard_defaults() {
        let cookie = one("http://127.0.0.1:8000/p/launchpad-auth/cs1abc", "a=b");
        assert_eq!((cookie.domain.as_str(), cookie.host_only), ("127.0.0.1", true));
        assert_eq!(cookie.path, "/p/launchpad-auth");
        assert_eq!((cookie.expires, cookie.same_site.as_deref()), (None, None));
        assert!(!cookie.secure && !cookie.http_only);
        assert_eq!(one("http://127.0.0.1/x", "a=b; path=nowhere").path, "/");
        assert_eq!(
            one("http://127.0.0.1/x", "a=b; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT").expires,
            Some("2026-11-23T22:01:00Z".parse().unwrap())
        );
        assert_eq!(one("http://h/", "a=b; Max-Age=99999999999999999999").expires, Some(Timestamp::MAX));
    }

    #[test]
    fn last_cookie_of_a_name_counts() {
        let url = "http://localhost/";
        assert_eq!(kept(url, &["a=1", "a=2"]).iter().map(|cookie| &cookie.value).collect::<Vec<_>>(), ["2"]);
        assert_eq!(kept(url, &["a=1", "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]), []);
        assert_eq!(kept(url, &["a=1; Max-Age=0"]), []);
        assert_eq!(kept(url, &["a=1; Max-Age=-1"]), []);
        assert_eq!(kept(url, &["a=1; Path=/x", "a=2; Path=/y"]).len(), 2);
    }

    #[test]
    fn cookie_is_sent_only_where_it_matches() {
        for (attributes, url, is_sent) in [
            ("Path=/p", "http://h/p", true),
            ("Path=/p", "http://h/p/xmlrpc", true),
            ("Path=/p/", "http://h/p/xmlrpc", true),
            ("Path=/", "http://h/p/xmlrpc", true),
            ("Path=/p/launchpad-auth", "http://h/p/xmlrpc", false),
            ("Path=/p", "http://h/pq", false),
            ("Path=/; Secure", "http://h/p/xmlrpc", false),
            ("Path=/; Secure", "https://h/p/xmlrpc", true),
        ] {
            let cookies = kept(url, &[&format!("a=1; {attributes}"), &format!("b=2; {attributes}")]);
            let session = Session { tracker: Tracker::Trac, url: url.parse().unwrap(), user: None, cookies };
            let expected = if is_sent { "a=1; b=2" } else { "" };
            assert_eq!(session.cookies_for(&session.url), expected, "{attributes} {url}");
        }
    }

    #[test]
    fn cookie_that_only_deletes_is_not_kept() {
        for end in [
            "Thu, 1 Jan 1970 00:00:00 GMT",
            "Thu, 01-Jan-70 00:00:01 GMT",
            "Thu Jan  1 00:00:00 1970",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Mon, 23 Nov 2026 22:00:00 GMT",
        ] {
            assert_eq!(
                kept("http://localhost/", &[&format!("a=deleted; Path=/; Expires={end}")]),
                [],
                "{end}"
            );
        }
    }

    #[test]
    fn foreign_cookie_domains_are_ignored() {
        for (url, domain) in [
            ("https://trac.example.org/", "example.com"),
            ("https://trac.example.org/", "org"),
            ("https://trac.example.org/", "c.example.org"),
            ("https://trac.example.org/", "other.trac.example.org"),
            ("http://127.0.0.1/", "0.0.1"),
            ("http://[::1]/", "1]"),
        ] {
            assert_eq!(kept(url, &[&format!("a=b; Domain={domain}")]), [], "{domain}");
        }
    }

    #[test]
    fn unsafe_cookie_is_not_kept() {
        for line in ["a=b\tc", "a=b; Path=/\tx", "=b", "ab", ""] {
            assert_eq!(kept("http://localhost/", &[line]), [], "{line:?}");
        }
    }

    #[test]
    fn debug_has_no_value() {
        let shown = format!("{:?}", one("http://localhost/", "a=s3cret"));
        assert!(shown.contains("name: \"a\"") && !shown.contains("s3cret"), "{shown}");
    }
}
