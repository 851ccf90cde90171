//! The cookies that an answer leaves with a client.

use http::HeaderMap;
use http::header::SET_COOKIE;

/// More cookies than this in one answer are not looked at.
const MAX_COOKIES: usize = 50;

/// A cookie as the tracker set it.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Cookie {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) path: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
}

/// Those that a client keeps, without those that only order it to forget one.
pub(crate) fn live_cookies(headers: &HeaderMap) -> Vec<Cookie> {
    headers
        .get_all(SET_COOKIE)
        .iter()
        .take(MAX_COOKIES)
        .filter_map(|value| cookie::Cookie::parse(value.to_str().ok()?).ok())
        .filter(|cookie| !cookie.value().is_empty() && !is_over(cookie))
        .map(|cookie| Cookie {
            name: cookie.name().to_owned(),
            value: cookie.value().to_owned(),
            path: cookie.path().map(str::to_owned),
            domain: cookie.domain().map(str::to_ascii_lowercase),
            http_only: cookie.http_only() == Some(true),
            secure: cookie.secure() == Some(true),
        })
        .collect()
}

/// Servers that want a cookie forgotten give it no age, or the end of 1970 at the latest.
fn is_over(cookie: &cookie::Cookie<'_>) -> bool {
    let aged = cookie.max_age().is_some_and(|age| age.whole_seconds() <= 0);
    aged || cookie.expires_datetime().is_some_and(|end| end.year() <= 1970)
}
