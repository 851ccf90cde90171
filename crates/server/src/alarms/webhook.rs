//! Signs a delivery (Standard Webhooks 1.0, <https://www.standardwebhooks.com>) and posts it.

use std::fmt;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use countersign_http_client::{Connections, HttpClient, Trust, in_time, is_https_or_loopback};
use data_encoding::BASE64;
use jiff::Timestamp;
use ring::hmac;
use url::Url;

use crate::AGENT;

/// How long a receiver may take for its answer.
pub const ALARM_TIMEOUT: Duration = Duration::from_secs(15);

/// How many bytes a secret may have (Standard Webhooks, "Symmetric signatures").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Where alarms go, and how they are signed. Its `Debug` tells neither the secret nor the URL, which often is one.
pub struct Webhook {
    uri: Uri,
    host: String,
    secret: hmac::Key,
    client: HttpClient,
}

/// Why alarms cannot be sent as asked. No text repeats the URL or the secret.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL will not do.
    #[error(
        "alarm_webhook must be an https URL without a user name, or an http URL on this machine's loopback"
    )]
    Url,
    /// The secret will not do.
    #[error(
        "the alarm secret must be `whsec_` and 24 to 64 random bytes in Base64 behind it; \
         `echo whsec_$(head -c 32 /dev/urandom | base64)` makes one"
    )]
    Secret,
    /// TLS cannot be set up.
    #[error("alarms cannot be sent: {0}")]
    Tls(String),
}

impl Webhook {
    /// A receiver at `url`, which `secret` tells that it was this server. `authorities` (PEM) stand in place of those
    /// that this machine trusts.
    pub fn new(url: &Url, secret: &str, authorities: Option<&[u8]>) -> Result<Self, WebhookError> {
        if !is_https_or_loopback(url) {
            return Err(WebhookError::Url);
        }
        let uri: Uri = url.as_str().parse().map_err(|_| WebhookError::Url)?;
        let secret = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text.as_bytes()).ok());
        let secret =
            secret.filter(|secret| SECRET_BYTES.contains(&secret.len())).ok_or(WebhookError::Secret)?;
        // Without any that this machine trusts, no certificate can be verified, and every delivery says so.
        let trust =
            Trust::only_or_system(authorities).map_err(|error| WebhookError::Tls(error.to_string()))?;
        let client = HttpClient::new(trust, None, Connections::Kept);
        let client = client.map_err(|error| WebhookError::Tls(error.to_string()))?;
        Ok(Self {
            uri,
            host: url.host_str().unwrap_or_default().to_owned(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            client,
        })
    }

    /// The receiver's host, which the log may tell.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Posts a message, with `more` headers. Follows no redirect: only a 2xx is success.
    ///
    /// # Errors
    ///
    /// What went wrong, in words that repeat nothing of the receiver's answer.
    pub(super) async fn deliver(
        &self,
        id: &str,
        now: Timestamp,
        body: &str,
        more: HeaderMap,
    ) -> Result<(), String> {
        let timestamp = now.as_second();
        let signature = hmac::sign(&self.secret, format!("{id}.{timestamp}.{body}").as_bytes());
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", format!("v1,{}", BASE64.encode(signature.as_ref())))
            .body(Bytes::from(body.to_owned()))
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(more);
        let response = in_time(ALARM_TIMEOUT, self.client.send(request)).await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(format!("it redirects ({status}), which is not followed"))
            }
            StatusCode::GONE => Err("it answers 410 Gone: name another alarm_webhook".to_owned()),
            status => Err(format!("it answers {status}")),
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn unsafe_receiver_is_refused_without_quoting_it() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        for (text, fits) in [
            ("https://hooks.example.org/s3cret", true),
            ("http://127.0.0.1:9/s3cret", true),
            ("http://[::1]:9/s3cret", true),
            ("http://localhost/s3cret", true),
            ("http://hooks.example.org/s3cret", false),
            ("https://anna:s3cret@hooks.example.org/", false),
            ("ftp://localhost/s3cret", false),
            ("unix:/s3cret", false),
        ] {
            let webhook = Webhook::new(&url(text), SECRET, None);
            assert_eq!(webhook.is_ok(), fits, "{text}");
            assert!(!format!("{webhook:?}").contains("s3cret"), "{webhook:?}");
        }
        for secret in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!!!!"] {
            let error = Webhook::new(&url("https://a.example"), secret, None).unwrap_err().to_string();
            assert!(error.contains("whsec_") && (secret.len() < 8 || !error.contains(secret)), "{error}");
        }
    }

    #[test]
    fn signature_matches_the_specifications_example() {
        // The example of the Standard Webhooks' reference libraries.
        let webhook = Webhook::new(&"https://a.example".parse().unwrap(), SECRET, None).unwrap();
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let signature = hmac::sign(&webhook.secret, signed.as_bytes());
        assert_eq!(BASE64.encode(signature.as_ref()), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
