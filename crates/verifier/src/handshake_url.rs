//! The issuer's handshake URL.

use countersign_http_client::is_this_machine;
use http::Uri;
use url::Url;

use crate::SetupError;

/// The last part of a handshake's URL.
const VIEW: &str = "+bugtracker-handshake";

/// The longest token, in bytes. Countersign's own have about 100.
const MAX_TOKEN_BYTES: usize = 4096;

/// The issuer's handshake URL, with a place for the token.
#[derive(Clone, Debug)]
pub(crate) struct HandshakeUrl {
    /// A normal URL with one `%s` in its path.
    template: Url,
}

impl HandshakeUrl {
    /// Takes a URL with `%s` where the token goes, or the issuer's base URL.
    pub(crate) fn parse(issuer: &str) -> Result<Self, SetupError> {
        let issuer = issuer.trim();
        let template = match issuer.matches("%s").count() {
            1 => issuer.to_owned(),
            0 if !issuer.contains("bugtracker-handshake") => {
                format!("{}/token/%s/{VIEW}", issuer.trim_end_matches('/'))
            }
            _ => return Err(SetupError::Issuer("it does not have %s exactly once")),
        };
        let url = Url::parse(&template).map_err(|_| SetupError::Issuer("it is not an absolute URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SetupError::Issuer("it does not begin with https:// or http://"));
        }
        // The parser takes `https:///token/` for the host `token`, as browsers do.
        if template.split_once("://").is_none_or(|(_, rest)| rest.starts_with(['/', '\\'])) {
            return Err(SetupError::Issuer("it has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SetupError::Issuer("it has a user name or password in it"));
        }
        if url.fragment().is_some() {
            return Err(SetupError::Issuer("it has a fragment (#) in it"));
        }
        if url.path().matches("%s").count() != 1 {
            return Err(SetupError::Issuer("the place of the token is not in its path"));
        }
        let url = Self { template: url };
        url.of("0").map_err(|_| SetupError::Issuer("it has characters that no request can carry"))?;
        Ok(url)
    }

    /// The handshake URL of a token.
    pub(crate) fn of(&self, token: &str) -> Result<Uri, http::uri::InvalidUri> {
        self.template.as_str().replacen("%s", token, 1).parse()
    }

    /// Scheme, host and port, for messages.
    pub(crate) fn origin(&self) -> String {
        self.template.origin().ascii_serialization()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.template.scheme() == "https"
    }

    /// Whether the issuer is on this machine, so that no network is in between.
    pub(crate) fn is_loopback(&self) -> bool {
        is_this_machine(&self.template)
    }
}

/// Whether `text` can be a token. Letters and digits cannot leave their place in a URL.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_or_a_base_url_names_the_issuer() {
        for (issuer, url) in [
            ("https://lp.example.org", "https://lp.example.org/token/T/+bugtracker-handshake"),
            ("https://lp.example.org/", "https://lp.example.org/token/T/+bugtracker-handshake"),
            (" https://lp.example.org/cs/\n", "https://lp.example.org/cs/token/T/+bugtracker-handshake"),
            (
                "https://lp.example.org/tokens/%s/+bugtracker-handshake",
                "https://lp.example.org/tokens/T/+bugtracker-handshake",
            ),
            ("http://127.0.0.1:8080/%s?x=1", "http://127.0.0.1:8080/T?x=1"),
            ("https://LP.example.org:443/a/../%s", "https://lp.example.org/T"),
        ] {
            assert_eq!(HandshakeUrl::parse(issuer).unwrap().of("T").unwrap().to_string(), url, "{issuer}");
        }
    }

    #[test]
    fn invalid_issuer_is_refused() {
        for issuer in [
            "",
            "lp.example.org",
            "ftp://lp.example.org",
            "https:",
            "https:///",
            "https:lp.example.org",
            "https://\\lp.example.org",
            "https://lp.example.org/token/+bugtracker-handshake",
            "https://lp.example.org/token/%s/%s",
            "https://lp.example.org/?token=%s",
            "https://lp.example.org/?token=x",
            "https://lp.example.org/%s/..",
            "https://lp.example.org/token/%s#x",
            "https://%s.example.org/",
            "https://user:secret@lp.example.org/",
        ] {
            assert!(matches!(HandshakeUrl::parse(issuer), Err(SetupError::Issuer(_))), "{issuer}");
        }
    }

    #[test]
    fn only_loopback_counts_as_this_machine() {
        for (issuer, loopback) in [
            ("http://localhost:8080", true),
            ("http://countersign.localhost", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:1", true),
            ("http://localhost.example.org", false),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(HandshakeUrl::parse(issuer).unwrap().is_loopback(), loopback, "{issuer}");
        }
    }

    #[test]
    fn tokens_are_letters_and_digits() {
        for good in ["0", "cs1abc", "AZaz09", &"a".repeat(MAX_TOKEN_BYTES)] {
            assert!(is_token(good));
        }
        for bad in ["", "../+index", "a/b", "a.b", "a%2Fb", "a b", "a\n", "é", "a?b", &"a".repeat(4097)] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
