//! The handshake, from the tracker's side.

use std::time::Duration;

use countersign_http_client::{HttpError, Proxy, Trust};
use form_urlencoded::Serializer;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base_url::BaseUrl;
use crate::client::{self, Body, Client, HandshakeRequest, IssuerResponse};
use crate::handshake_url::{HandshakeUrl, is_token};
use crate::system::random_id;
use crate::{SetupError, VerifyError};

/// How long an issuer may take unless [`VerifierBuilder::timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that an issuer can be given.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(1);

/// Asks one issuer whether login tokens are its own. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Verifier {
    handshake: HandshakeUrl,
    audience: Option<BaseUrl>,
    timeout: Duration,
    client: Client,
}

/// Settings of a [`Verifier`].
#[derive(Clone, Debug)]
pub struct VerifierBuilder {
    issuer: String,
    audience: Option<String>,
    timeout: Duration,
    authorities: Option<Vec<u8>>,
    proxy: Option<String>,
    insecure: bool,
}

/// The details of an accepted token, which is consumed now.
///
/// An issuer that answers in plain text, as Launchpad does, says nothing beyond the yes; then everything here is empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Verified {
    /// The issuer's name, such as `Launchpad`.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The tracker that the token was bound to, which is this one; `None` for a token that any tracker could have used.
    #[serde(default)]
    pub audience: Option<String>,
    /// What the issuer says about the login, in its own words.
    #[serde(default)]
    pub claims: Map<String, Value>,
    /// When the token was issued.
    #[serde(default)]
    pub date_created: Option<Timestamp>,
    /// When it was consumed: at this login.
    #[serde(default)]
    pub date_consumed: Option<Timestamp>,
}

impl Verifier {
    /// Starts with the issuer's base URL, such as `https://launchpad.net`, or with the URL of its handshake that has
    /// `%s` in its path where the token goes. It must come from configuration, never from a request.
    pub fn builder(issuer: impl Into<String>) -> VerifierBuilder {
        VerifierBuilder {
            issuer: issuer.into(),
            audience: None,
            timeout: DEFAULT_TIMEOUT,
            authorities: None,
            proxy: None,
            insecure: false,
        }
    }

    /// Asks the issuer to consume `token`. `Ok` comes once per token, and only after the issuer's HTTP 200.
    ///
    /// If the answer gets lost (no connection, no answer in time, or HTTP 502, 503 or 504 of a gateway or of the
    /// issuer), the question is asked once more with the same `Idempotency-Key`, which the issuer answers the same way.
    /// So a call takes at most three times the timeout: two waits for an answer, and the pause that an issuer can ask
    /// for with `Retry-After`. Any other answer is final.
    ///
    /// The call must run in a Tokio runtime. A call that is dropped may have used the token up.
    pub async fn verify(&self, token: &str) -> Result<Verified, VerifyError> {
        if !is_token(token) {
            return Err(VerifyError::MalformedToken);
        }
        let question = HandshakeRequest {
            url: self.handshake.of(token).map_err(|_| VerifyError::MalformedToken)?,
            key: random_id().map_err(|_| VerifyError::NoRandomness)?,
            form: self.form(),
        };
        let mut answer = self.client.ask(&question).await;
        if let Some(pause) = pause_before_retry(&answer, self.timeout) {
            tokio::time::sleep(pause).await;
            answer = self.client.ask(&question).await;
        }
        self.judge(token, answer)
    }

    /// The tracker's own base URL, as it was configured.
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_ref().map(BaseUrl::as_str)
    }

    pub(crate) fn base_url(&self) -> Option<&BaseUrl> {
        self.audience.as_ref()
    }

    fn form(&self) -> String {
        let mut form = Serializer::new(String::new());
        if let Some(audience) = &self.audience {
            form.append_pair("audience", audience.as_str());
        }
        form.finish()
    }

    fn judge(&self, token: &str, answer: Result<IssuerResponse, HttpError>) -> Result<Verified, VerifyError> {
        let unreachable = |reason| VerifyError::Unreachable { issuer: self.handshake.origin(), reason };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(unreachable(error.to_string())),
        };
        let status = answer.status.as_u16();
        match status {
            200 => self.read(token, answer.body).map_err(|reason| self.unexpected(status, reason)),
            401 | 403 | 404 | 410 | 429 => Err(VerifyError::Refused { status }),
            _ if is_lost(answer.status) => Err(unreachable(format!("it answers HTTP {status}"))),
            300..=399 => Err(self.unexpected(status, "redirects are not followed")),
            _ => Err(self.unexpected(status, "that is neither a yes nor a no")),
        }
    }

    /// Reads what came with a yes; an error says why it cannot be the answer to this question.
    fn read(&self, token: &str, body: Body) -> Result<Verified, &'static str> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            token_id: Option<String>,
            #[serde(flatten)]
            verified: Verified,
        }
        let json = match body {
            Body::Unread => return Ok(Verified::default()),
            Body::Json(json) => json,
            Body::TooLong => return Err("its JSON is too long"),
        };
        let document: Document =
            serde_json::from_slice(&json).map_err(|_| "its JSON is not the protocol's")?;
        if document.token_id.is_some_and(|about| about != token) {
            return Err("it is about another token");
        }
        let mut verified = document.verified;
        verified.audience = verified.audience.filter(|audience| !audience.is_empty());
        match (&verified.audience, &self.audience) {
            (Some(bound), Some(own)) if !own.is_named_by(bound) => Err("it is for another bug tracker"),
            (Some(_), None) => Err("it is for one bug tracker, and no audience is configured here"),
            _ => Ok(verified),
        }
    }

    fn unexpected(&self, status: u16, reason: &'static str) -> VerifyError {
        VerifyError::UnexpectedAnswer { issuer: self.handshake.origin(), status, reason }
    }
}

/// Whether the issuer, or a gateway in front of it, says that it could not answer.
fn is_lost(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// How long to wait before the question is asked again; `None` if it is not to be asked again.
fn pause_before_retry(answer: &Result<IssuerResponse, HttpError>, timeout: Duration) -> Option<Duration> {
    match answer {
        // Asking again does not make a certificate good.
        Err(HttpError::Certificate(_)) => None,
        Err(_) => Some(Duration::ZERO),
        Ok(answer) if is_lost(answer.status) => {
            let pause = answer.retry_after.unwrap_or_default();
            (pause <= timeout).then_some(pause)
        }
        Ok(_) => None,
    }
}

impl VerifierBuilder {
    /// The tracker's own base URL, from its configuration: never from a `Host` header, which a caller chooses.
    ///
    /// **Set it.** The issuer binds tokens to the tracker that they are meant for, and this is how it recognises the
    /// tracker. Without an audience, tokens that are bound to this tracker are refused, and a token that is bound to
    /// none can be brought here by any other tracker that was given it. A [`Verifier`] without one says so in the log.
    #[must_use]
    pub fn audience(mut self, base_url: impl Into<String>) -> Self {
        self.audience = Some(base_url.into());
        self
    }

    /// How long to wait for an answer, at most a minute; [`DEFAULT_TIMEOUT`] if nothing is said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Certificate authorities (PEM) to trust for the issuer, for example a private one. They are trusted *instead of*
    /// those of the machine: who names an authority means that one.
    #[must_use]
    pub fn certificate_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// An HTTP proxy on the way to the issuer, as `http://HOST:PORT`. It must allow CONNECT; TLS goes through it to the
    /// issuer. Proxy variables of the environment are ignored: under CGI a caller can set them with a `Proxy` header.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Allows an `http` issuer on another machine. Only for a way that is protected by other means: who can answer in
    /// the issuer's place can log in. An issuer on this machine needs no such permission.
    #[must_use]
    pub fn allow_insecure_http(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Checks the settings, and reads the machine's certificate authorities if they are needed.
    pub fn build(self) -> Result<Verifier, SetupError> {
        let handshake = HandshakeUrl::parse(&self.issuer)?;
        if !handshake.is_https() && !handshake.is_loopback() && !self.insecure {
            return Err(SetupError::Insecure(handshake.origin()));
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Err(SetupError::Timeout(self.timeout));
        }
        let audience =
            self.audience.as_deref().map(BaseUrl::parse).transpose().map_err(SetupError::Audience)?;
        let proxy =
            self.proxy.as_deref().map(|text| Proxy::parse(text).ok_or(SetupError::Proxy)).transpose()?;
        let trust = match self.authorities {
            None if !handshake.is_https() => Trust::nobody(),
            authorities => client::trust(authorities.as_deref())?,
        };
        if audience.is_none() {
            tracing::warn!(
                issuer = handshake.origin(),
                "no audience is configured: tokens for this tracker alone will be refused, and others can be brought \
                 here by any tracker that was given them; set the audience to this tracker's base URL"
            );
        }
        let client = Client::new(trust, proxy, self.timeout)?;
        Ok(Verifier { handshake, audience, timeout: self.timeout, client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "http://127.0.0.1:9";

    #[test]
    fn unusable_settings_are_refused() {
        let build = |builder: VerifierBuilder| builder.build().map(|_| ()).unwrap_err();
        let at = |issuer: &str| Verifier::builder(issuer);
        assert!(matches!(build(at("launchpad.net")), SetupError::Issuer(_)));
        assert_eq!(
            build(at("http://lp.example.org/x")),
            SetupError::Insecure("http://lp.example.org".to_owned())
        );
        assert!(at("http://lp.example.org/").allow_insecure_http().build().is_ok());
        for wrong in [Duration::ZERO, MAX_TIMEOUT + Duration::from_nanos(1)] {
            assert_eq!(build(at(ISSUER).timeout(wrong)), SetupError::Timeout(wrong));
        }
        assert!(matches!(build(at(ISSUER).audience("bugs.example.org")), SetupError::Audience(_)));
        assert!(matches!(build(at(ISSUER).certificate_authorities("x")), SetupError::Authorities(_)));
        for wrong in ["", "proxy:3128", "https://proxy:3128", "http://u:p@proxy:3128", "http://proxy/x"] {
            assert_eq!(build(at(ISSUER).proxy(wrong)), SetupError::Proxy, "{wrong}");
        }
    }

    #[test]
    fn only_a_lost_answer_is_retried() {
        let timeout = Duration::from_secs(10);
        let answer = |status: u16, retry_after: Option<u64>| {
            Ok(IssuerResponse {
                status: StatusCode::from_u16(status).unwrap(),
                body: Body::Unread,
                retry_after: retry_after.map(Duration::from_secs),
            })
        };
        for (first, pause) in [
            (Err(HttpError::Lost(String::new())), Some(0)),
            (Err(HttpError::Late(timeout)), Some(0)),
            (Err(HttpError::Certificate(String::new())), None),
            (answer(503, None), Some(0)),
            (answer(503, Some(3)), Some(3)),
            (answer(503, Some(10)), Some(10)),
            (answer(503, Some(11)), None),
            (answer(502, None), Some(0)),
            (answer(504, None), Some(0)),
            (answer(500, None), None),
            (answer(429, Some(1)), None),
            (answer(401, None), None),
            (answer(200, None), None),
        ] {
            assert_eq!(pause_before_retry(&first, timeout), pause.map(Duration::from_secs), "{first:?}");
        }
    }
}
