//! The request that the proxy asks about.
//!
//! Each proxy states it in its own way: in headers, or by the question itself. The gate reads what the configured proxy states and
//! nothing else: a proxy sets its own headers, and passes on what a client writes into another's.

use axum::http::{HeaderMap, HeaderName, Method, Uri};

use crate::config::ReverseProxy;
use crate::request_path::{RequestPath, UnclearPath};
use crate::routes::AUTH;

/// What a proxy asks the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'q> {
    pub(crate) method: &'q Method,
    pub(crate) uri: &'q Uri,
    pub(crate) headers: &'q HeaderMap,
}

/// A request to the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginalRequest {
    pub(crate) method: String,
    pub(crate) path: Result<RequestPath, UnclearPath>,
}

/// The proxy did not state the request in one line of each header, so it is not set up as the samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy must send exactly one {0}, with a value; set it as the sample for this proxy does")]
pub(crate) struct NotStated(&'static str);

impl OriginalRequest {
    pub(crate) fn read(asked: &Question<'_>, proxy: ReverseProxy) -> Result<Self, NotStated> {
        let by_headers = |uri, method| Ok((one(asked.headers, uri)?, one(asked.headers, method)?));
        let (target, method) = match proxy {
            ReverseProxy::Nginx => by_headers("x-original-uri", "x-original-method")?,
            ReverseProxy::Caddy | ReverseProxy::Traefik => {
                by_headers("x-forwarded-uri", "x-forwarded-method")?
            }
            ReverseProxy::Envoy => {
                let target = asked.uri.path_and_query().and_then(|target| target.as_str().strip_prefix(AUTH));
                let target =
                    target.filter(|target| !target.is_empty()).ok_or(NotStated("path below /auth"))?;
                (target.as_bytes(), asked.method.as_str().as_bytes())
            }
        };
        // A byte that is not ASCII has no place in a target.
        let path = str::from_utf8(target).map_err(|_| UnclearPath::Character).and_then(RequestPath::parse);
        Ok(Self { method: String::from_utf8_lossy(method).into_owned(), path })
    }

    /// Whether the tracker may change something. Anything but the methods that are defined to be safe may.
    pub(crate) fn is_unsafe(&self) -> bool {
        !matches!(&*self.method, "GET" | "HEAD" | "OPTIONS")
    }
}

fn one<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h [u8], NotStated> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value.as_bytes()),
        _ => Err(NotStated(name)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(
        headers: &[(&'static str, &'static str)],
        proxy: ReverseProxy,
    ) -> Result<OriginalRequest, NotStated> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        let asked = Question { method: &Method::PUT, uri: &Uri::from_static("/auth/c?d"), headers: &headers };
        OriginalRequest::read(&asked, proxy)
    }

    #[test]
    fn only_headers_of_the_configured_proxy_count() {
        let nginx = [("x-original-uri", "/a"), ("x-original-method", "GET")];
        let caddy = [("x-forwarded-uri", "/b"), ("x-forwarded-method", "POST")];
        let both = [nginx, caddy].concat();
        let paths = |proxy| read(&both, proxy).unwrap().path.unwrap().segments().to_vec();
        assert_eq!(paths(ReverseProxy::Nginx), ["a"]);
        assert_eq!(paths(ReverseProxy::Caddy), ["b"]);
        assert_eq!(paths(ReverseProxy::Traefik), ["b"]);
        assert_eq!(paths(ReverseProxy::Envoy), ["c"]);
        let methods = |proxy| read(&both, proxy).unwrap().method;
        assert_eq!(
            [ReverseProxy::Nginx, ReverseProxy::Caddy, ReverseProxy::Envoy].map(methods),
            ["GET", "POST", "PUT"]
        );
        assert_eq!(read(&caddy, ReverseProxy::Nginx), Err(NotStated("x-original-uri")));
        assert_eq!(read(&nginx, ReverseProxy::Caddy), Err(NotStated("x-forwarded-uri")));
    }

    #[test]
    fn header_sent_twice_or_empty_is_rejected() {
        for headers in [
            vec![("x-original-uri", "/a"), ("x-original-uri", "/a"), ("x-original-method", "GET")],
            vec![("x-original-uri", "/a"), ("x-original-method", "GET"), ("x-original-method", "GET")],
            vec![("x-original-uri", ""), ("x-original-method", "GET")],
            vec![("x-original-uri", "/a"), ("x-original-method", "")],
            vec![("x-original-uri", "/a")],
            vec![],
        ] {
            assert!(read(&headers, ReverseProxy::Nginx).is_err(), "{headers:?}");
        }
    }
}
