//! The session cookie.
//!
//! Its value is random and signed. What it stands for is in the file of the sessions, under the hash of the value: a
//! reader of that file gets no session from it, and a writer needs the secret, too.

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use cookie::{Cookie, CookieJar, Key, SameSite};
use countersign_core::{Entropy, EntropyError};
use data_encoding::HEXLOWER;
use jiff::SignedDuration;
use url::Url;

use crate::sessions::Digest;

/// How many random bytes a session's cookie has.
const RANDOM_BYTES: usize = 32;

/// How many cookies of the session's name are looked at. A browser sends one for each path it was set for.
const MAX_COOKIES: usize = 8;

/// Writes the cookies of one tracker, and reads them.
pub(crate) struct Cookies {
    key: Key,
    name: &'static str,
    path: String,
    is_secure: bool,
}

impl Cookies {
    pub(crate) fn new(key: Key, base_url: &Url) -> Self {
        let (is_secure, path) = (base_url.scheme() == "https", base_url.path().trim_end_matches('/'));
        // A browser takes `__Host-` from this host only, over TLS, for the whole host; and `__Secure-` over TLS only.
        let name = match (is_secure, path) {
            (true, "") => "__Host-countersign_gate",
            (true, _) => "__Secure-countersign_gate",
            (false, _) => "countersign_gate",
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        Self { key, name, path, is_secure }
    }

    /// A new session: what the file knows it by, and the value of `Set-Cookie`.
    pub(crate) fn new_session(
        &self,
        entropy: &dyn Entropy,
        lifetime: SignedDuration,
    ) -> Result<(Digest, String), EntropyError> {
        let mut random = [0; RANDOM_BYTES];
        entropy.fill(&mut random)?;
        let value = HEXLOWER.encode(&random);
        let digest = Digest::of(&value);
        let cookie = Cookie::build((self.name, value))
            .http_only(true)
            // Programs use the session. A browser that another site sends here has no business with it.
            .same_site(SameSite::Strict)
            .secure(self.is_secure)
            .path(self.path.clone())
            .max_age(cookie::time::Duration::seconds(lifetime.as_secs()));
        let mut jar = CookieJar::new();
        jar.signed_mut(&self.key).add(cookie);
        let cookie = jar.get(self.name).map(Cookie::to_string).unwrap_or_default();
        Ok((digest, cookie))
    }

    /// The sessions that a request names with a good signature; `None` if it brings no cookie of the session's name.
    pub(crate) fn sessions(&self, headers: &HeaderMap) -> Option<Vec<Digest>> {
        let mut found = headers
            .get_all(COOKIE)
            .iter()
            // A cookie's name and value are ASCII; a neighbour that is not must not hide it.
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .flat_map(|value| Cookie::split_parse(value.into_owned()))
            .filter_map(Result::ok)
            .filter(|cookie| cookie.name() == self.name)
            .take(MAX_COOKIES)
            .peekable();
        found.peek()?;
        let signed = CookieJar::new();
        let signed = signed.signed(&self.key);
        // The signature is compared in constant time, before anything else is looked at.
        Some(
            found
                .filter_map(|cookie| signed.verify(cookie))
                .map(|cookie| Digest::of(cookie.value()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use countersign_core::SequenceEntropy;
    use proptest::prelude::*;

    use super::*;

    fn cookies(base_url: &str) -> Cookies {
        Cookies::new(Key::from(&[7; 64]), &base_url.parse().unwrap())
    }

    fn open(cookies: &Cookies) -> (Digest, String) {
        cookies.new_session(&SequenceEntropy::default(), SignedDuration::from_hours(1)).unwrap()
    }

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    #[test]
    fn cookie_is_scoped_to_the_url() {
        for (base_url, name, attributes) in [
            ("https://bugs.example.org/", "__Host-countersign_gate", "Path=/; Secure"),
            ("https://example.org/bugs/", "__Secure-countersign_gate", "Path=/bugs; Secure"),
            ("http://localhost/bugs", "countersign_gate", "Path=/bugs"),
        ] {
            let (_, cookie) = open(&cookies(base_url));
            assert!(cookie.starts_with(&format!("{name}=")), "{cookie}");
            let mut found: Vec<&str> = cookie.split("; ").skip(1).collect();
            found.sort_unstable();
            let mut expected: Vec<&str> = attributes.split("; ").collect();
            expected.extend(["HttpOnly", "SameSite=Strict", "Max-Age=3600"]);
            expected.sort_unstable();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn signed_cookie_is_found_among_others() {
        let cookies = cookies("http://localhost/");
        let (digest, cookie) = open(&cookies);
        let pair = cookie.split(';').next().unwrap();
        for lines in [
            vec![pair.to_owned()],
            vec![format!("a=b; {pair}; c=d")],
            vec![format!("a=b;{pair}")],
            vec!["countersign_gate=old; b".to_owned(), pair.to_owned()],
            vec![format!("countersign_gate=; {pair}")],
        ] {
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            assert_eq!(cookies.sessions(&headers(&lines)), Some(vec![digest]), "{lines:?}");
        }
        let neighbour = [b"n=\xff\xfe; ".as_slice(), pair.as_bytes()].concat();
        assert_eq!(cookies.sessions(&headers(&[&neighbour])), Some(vec![digest]));
    }

    #[test]
    fn unsigned_cookie_is_no_session() {
        let cookies = cookies("http://localhost/");
        let (_, cookie) = open(&cookies);
        let pair = cookie.split(';').next().unwrap();
        let value = pair.split_once('=').unwrap().1;
        let other = Cookies::new(Key::from(&[8; 64]), &"http://localhost/".parse().unwrap());
        assert_eq!(other.sessions(&headers(&[pair.as_bytes()])), Some(vec![]), "another secret");
        assert_eq!(cookies.sessions(&headers(&[])), None);
        assert_eq!(cookies.sessions(&headers(&[format!("Countersign_gate={value}").as_bytes()])), None);
        for forged in [&value[..44], &value[44..], "", "x", &value[..value.len() - 1], &format!("{value}0")] {
            let line = format!("countersign_gate={forged}");
            assert_eq!(cookies.sessions(&headers(&[line.as_bytes()])), Some(vec![]), "{forged}");
        }
    }

    proptest! {
        #[test]
        fn forged_cookie_headers_open_no_session(line in any::<Vec<u8>>(), name in any::<bool>()) {
            let cookies = cookies("http://localhost/");
            let line = if name { [b"countersign_gate=".as_slice(), &line].concat() } else { line };
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.append(COOKIE, value);
                prop_assert!(cookies.sessions(&headers).is_none_or(|found| found.is_empty()));
            }
        }
    }
}
