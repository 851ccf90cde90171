//! The errors of the set-up and of a login.

use std::time::Duration;

use countersign_audience::AudienceError;

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The issuer's URL cannot be used, for this reason.
    #[error(
        "the issuer's URL cannot be used: {0}; give its base URL, such as https://launchpad.net, or the URL of its \
         handshake with %s where the token goes, such as https://launchpad.net/token/%s/+bugtracker-handshake"
    )]
    Issuer(&'static str),
    /// Anybody between could answer in the issuer's place.
    #[error(
        "the issuer {0} would be asked without TLS, so that anybody on the way could answer in its place and log in \
         here; use https, or call allow_insecure_http if the way is protected by other means"
    )]
    Insecure(String),
    /// The audience is not the tracker's base URL, for this reason.
    #[error("the audience {0}")]
    Audience(#[from] AudienceError),
    /// The timeout is too short or too long.
    #[error("the timeout is {0:?}; it must be more than 0 and at most {max:?}", max = crate::MAX_TIMEOUT)]
    Timeout(Duration),
    /// The certificate authorities cannot be read.
    #[error("the certificate authorities cannot be used: {0}; give one or more certificates in PEM")]
    Authorities(String),
    /// The machine trusts no certificate authority, so that no issuer could prove who it is.
    #[error(
        "no certificate authorities were found on this machine; install them (the package is usually called \
         ca-certificates), or name the issuer's own with certificate_authorities"
    )]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The proxy's URL cannot be used.
    #[error("the proxy's URL cannot be used; give it as http://HOST:PORT")]
    Proxy,
    /// The secret that signs sessions is too short.
    #[error("the session secret has {0} bytes; give at least {min} random ones", min = crate::MIN_SECRET_BYTES)]
    Secret(usize),
    /// The name of the user is not one.
    #[error("the user's name must not be empty, longer than 256 bytes, or have control characters in it")]
    User,
    /// The cookie's name is not one.
    #[error("the cookie's name must be letters, digits, - and _ only")]
    CookieName,
    /// The login path is not one.
    #[error(
        "the login path must be like /launchpad-auth: a slash, then letters, digits, and any of / - _ . ~ %, \
         and no slash at the end"
    )]
    LoginPath,
    /// The lifetime of sessions is zero, or so long that no calendar has its end.
    #[error("sessions must live for at least a second and at most {max:?}", max = crate::MAX_SESSION_LIFETIME)]
    SessionLifetime,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; no session can be signed until it does")]
    NoRandomness,
}

/// Why a token is not accepted. No text and no `Debug` of it carries the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be a token, so the issuer was not asked.
    #[error("that is not a login token: a token is 1 to 4096 letters and digits")]
    MalformedToken,
    /// The issuer says no.
    #[error("the issuer refused the token (HTTP {status}): {}", refusal(*status))]
    Refused {
        /// The HTTP status: 401, 403, 404, 410 or 429.
        status: u16,
    },
    /// The issuer gave no answer, also not when it was asked once more. The token may still be good, or used up.
    #[error("the issuer {issuer} could not be asked: {reason}; try again later")]
    Unreachable {
        /// Scheme, host and port.
        issuer: String,
        /// The cause.
        reason: String,
    },
    /// What answered is neither a yes nor a no that the protocol knows.
    #[error("the issuer {issuer} answered HTTP {status}, but {reason}; check that the issuer's URL is right")]
    UnexpectedAnswer {
        /// Scheme, host and port.
        issuer: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        reason: &'static str,
    },
    /// The operating system gave no random bytes, so the issuer was not asked.
    #[error("the operating system gave no random bytes, which a login needs; try again later")]
    NoRandomness,
}

impl VerifyError {
    /// A sentence for the client that brought the token. Settings are none of a caller's business: those are in
    /// [`Display`](std::fmt::Display), for the log.
    pub fn sentence_for_caller(&self) -> &'static str {
        match self {
            Self::MalformedToken => "That is not a login token: a token is 1 to 4096 letters and digits.",
            Self::Refused { status: 403 } => "The issuer refused this token: it is for another bug tracker.",
            Self::Refused { status: 404 } => "The issuer refused this token: it is not one of its own.",
            Self::Refused { status: 429 } => {
                "The issuer refused this token: too many from here were refused lately. Try again later."
            }
            Self::Refused { .. } => {
                "The issuer refused this token: it was used already, has expired or was revoked. Take a new one."
            }
            Self::Unreachable { .. } => "The issuer could not be asked. Try again later.",
            Self::UnexpectedAnswer { .. } => {
                "The issuer's answer was not understood. The administrator of this tracker finds the reason in its log."
            }
            Self::NoRandomness => "No login is possible just now. Try again later.",
        }
    }
}

/// What a status of the handshake means, and what to do.
fn refusal(status: u16) -> &'static str {
    match status {
        403 => "it is for another bug tracker than the audience that is configured here",
        404 => "it is not one of its tokens; check that the issuer's URL is right",
        429 => "too many tokens from here were refused lately; try again later",
        _ => "it was used already, has expired or was revoked; take a new one",
    }
}
