//! The addresses of the server under load.

use std::net::SocketAddr;

use url::Url;

use crate::error::BenchError;

/// The last part of a token's handshake URL.
const VIEW: &str = "/+bugtracker-handshake";

/// A listener of the server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As it was named.
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    /// For the `Host` field.
    pub(crate) host: String,
    /// What paths begin with; no slash at its end.
    pub(crate) base: String,
}

impl Endpoint {
    /// Finds the address, and makes sure that it may be loaded.
    pub(crate) async fn find(text: &str, allow_remote: bool) -> Result<Self, BenchError> {
        let url = plain(text)?;
        Self::of(&url, text, allow_remote).await
    }

    async fn of(url: &Url, named: &str, allow_remote: bool) -> Result<Self, BenchError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let no_address = |reason| BenchError::NoAddress { url: named.to_owned(), reason };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses = tokio::net::lookup_host((bare, port)).await.map_err(no_address)?;
        let address = addresses.next().ok_or_else(|| no_address(std::io::ErrorKind::NotFound.into()))?;
        if !allow_remote && !address.ip().to_canonical().is_loopback() {
            return Err(BenchError::Remote { url: named.to_owned() });
        }
        Ok(Self {
            url: named.to_owned(),
            address,
            host: url.port().map_or(host.to_owned(), |port| format!("{host}:{port}")),
            base: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// The URL of a listener, if this speaks to such.
fn plain(text: &str) -> Result<Url, BenchError> {
    // A refused value may hold a password, so the error does not repeat it.
    let shown = if text.contains(['@', '?', '#']) { "the URL".to_owned() } else { format!("{text:?}") };
    let wrong = |reason| BenchError::Url { url: shown.clone(), reason };
    let url = Url::parse(text).map_err(|_| wrong("it is not a URL"))?;
    match url.scheme() {
        "http" if !url.has_host() => Err(wrong("it has no host")),
        "http" if url.query().is_some() || url.fragment().is_some() => Err(wrong("it has a query")),
        "http" if !url.username().is_empty() || url.password().is_some() => Err(wrong("it has a user")),
        "http" => Ok(url),
        "https" => Err(wrong("the load is sent without TLS, to the server's own listener")),
        _ => Err(wrong("it is of another scheme")),
    }
}

/// Where handshakes are: what stands before a token's text in the path, and what after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handshakes {
    pub(crate) before: String,
    pub(crate) after: String,
}

impl Handshakes {
    /// Below a public URL that was given, as the protocol has it.
    pub(crate) fn below(public: &Endpoint) -> Self {
        Self { before: format!("{}/token/", public.base), after: VIEW.to_owned() }
    }

    /// As the server says it of one of its tokens; and the public listener.
    pub(crate) async fn discovered(
        handshake_url: &str,
        token: &str,
        allow_remote: bool,
    ) -> Result<(Self, Endpoint), BenchError> {
        let (handshakes, url) = Self::split(handshake_url, token).map_err(|reason| {
            // The token stays out of what is printed.
            BenchError::Discovered { url: handshake_url.replace(token, "…"), reason: reason.to_owned() }
        })?;
        let named = url.as_str().trim_end_matches('/').to_owned();
        let endpoint = Endpoint::of(&url, &named, allow_remote).await.map_err(|error| match error {
            BenchError::Remote { .. } => BenchError::Discovered {
                url: named.clone(),
                reason: "that is on another machine, which is loaded only with --allow-remote".to_owned(),
            },
            other => other,
        })?;
        Ok((handshakes, endpoint))
    }

    /// Takes the URL of a token's handshake apart; the URL that is left is that of the public listener.
    fn split(handshake_url: &str, token: &str) -> Result<(Self, Url), &'static str> {
        let mut url = Url::parse(handshake_url).map_err(|_| "that is not a URL")?;
        if url.scheme() != "http" {
            return Err("the load is sent without TLS, to the server's own listener");
        }
        if !url.has_host() || url.query().is_some() {
            return Err("that is not a handshake URL");
        }
        let path = url.path().to_owned();
        let (before, after) = path.split_once(token).ok_or("that does not have the token in its path")?;
        let base = before.strip_suffix("/token/").or_else(|| before.strip_suffix("/tokens/")).unwrap_or("");
        url.set_path(base);
        Ok((Self { before: before.to_owned(), after: after.to_owned() }, url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(url: &str, allow_remote: bool) -> Result<Endpoint, BenchError> {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(Endpoint::find(url, allow_remote))
    }

    #[test]
    fn other_machines_are_loaded_only_with_permission() {
        for (url, host, base) in [
            ("http://127.0.0.1:8087", "127.0.0.1:8087", ""),
            ("http://127.3.2.1:8087/prefix/", "127.3.2.1:8087", "/prefix"),
            ("http://[::1]:8087", "[::1]:8087", ""),
        ] {
            let endpoint = find(url, false).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.base.as_str()), (host, base));
            assert_eq!(endpoint.address.port(), 8087);
        }
        assert_eq!(find("http://127.0.0.1", false).unwrap().address.port(), 80);
        assert!(matches!(find("http://192.0.2.1:8087", false), Err(BenchError::Remote { .. })));
        assert!(find("http://192.0.2.1:8087", true).is_ok());
    }

    #[test]
    fn other_urls_are_refused() {
        for url in
            ["https://127.0.0.1", "unix:/run/x", "127.0.0.1:80", "http://u@127.0.0.1", "http://127.0.0.1/?q"]
        {
            assert!(matches!(find(url, false), Err(BenchError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn password_in_the_url_is_not_shown() {
        for url in ["http://ops:s3cret@127.0.0.1", "http://127.0.0.1/?s3cret", "ops:s3cret@127.0.0.1"] {
            let refused = find(url, false).unwrap_err().to_string();
            assert!(!refused.contains("s3cret"), "{refused}");
        }
    }

    #[test]
    fn handshake_url_template_is_used() {
        let split = |url| {
            Handshakes::split(url, "T0").map(|(paths, url)| (paths.before, paths.after, url.to_string()))
        };
        assert_eq!(
            split("http://127.0.0.1:80/lp/token/T0/+bugtracker-handshake"),
            Ok(("/lp/token/".into(), "/+bugtracker-handshake".into(), "http://127.0.0.1/lp".into()))
        );
        assert_eq!(
            split("http://127.0.0.1:9/shake/T0"),
            Ok(("/shake/".into(), String::new(), "http://127.0.0.1:9/".into()))
        );
        assert!(split("https://lp.example.org/token/T0/x").is_err());
        assert!(split("http://lp.example.org/token/T1/x").is_err());
        assert!(split("/token/T0/x").is_err());
    }
}
