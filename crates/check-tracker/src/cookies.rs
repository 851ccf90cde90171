//! The cookies that an answer leaves with a client.

use countersign_login::cookie_end;
use http::HeaderMap;
use http::header::SET_COOKIE;
use jiff::Timestamp;

/// Further cookies in one answer are ignored.
const MAX_COOKIES: usize = 50;

/// In seconds.
const YEAR: i64 = 365 * 86400;

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
        .filter_map(|value| {
            let text = value.to_str().ok()?;
            Some((cookie::Cookie::parse(text).ok()?, cookie_end(text)))
        })
        .filter(|(cookie, end)| !cookie.value().is_empty() && !is_over(cookie, *end))
        .map(|(cookie, _)| Cookie {
            name: cookie.name().to_owned(),
            value: cookie.value().to_owned(),
            path: cookie.path().map(str::to_owned),
            domain: cookie.domain().map(str::to_ascii_lowercase),
            http_only: cookie.http_only() == Some(true),
            secure: cookie.secure() == Some(true),
        })
        .collect()
}

/// Servers delete a cookie with a zero age, or an expiry up to the end of 1970.
fn is_over(cookie: &cookie::Cookie<'_>, end: Option<Timestamp>) -> bool {
    let aged = cookie.max_age().is_some_and(|age| age.whole_seconds() <= 0);
    aged || end.is_some_and(|end| end.as_second() < YEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_that_only_deletes_is_not_live() {
        let mut headers = HeaderMap::new();
        for value in [
            "a=deleted; Expires=Thu, 1 Jan 1970 00:00:00 GMT",
            "b=deleted; Expires=Thu, 01-Jan-70 00:00:01 GMT",
            "c=deleted; Max-Age=0",
            "d=",
            "e=5e551on; Expires=Thu, 1 Jan 2099 00:00:00 GMT",
        ] {
            headers.append(SET_COOKIE, value.parse().unwrap());
        }
        assert_eq!(live_cookies(&headers).into_iter().map(|cookie| cookie.name).collect::<Vec<_>>(), ["e"]);
    }
}
