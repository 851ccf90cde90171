//! Errors that prevent all checks.

use std::io;
use std::net::SocketAddr;

use countersign_core::{AudienceError, EntropyError};
use countersign_login::LoginError;

/// Why there is no report. Every text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// That is not a tracker's URL.
    #[error("the tracker's URL {0}")]
    Url(AudienceError),
    /// That is not an audience.
    #[error("the audience {0}")]
    Audience(AudienceError),
    /// There is no check of that name.
    #[error("there is no check {name:?} to make here; there are {names}")]
    NoSuchCheck {
        /// What was asked for.
        name: String,
        /// What there is.
        names: String,
    },
    /// The issuer would be seen by others.
    #[error(
        "{0} is not an address of this machine or of a private network, where the issuer of the checks belongs; listen on \
         127.0.0.1"
    )]
    NotPrivate(SocketAddr),
    /// The issuer cannot listen.
    #[error("cannot listen on {address}: {reason}; give another address, or port 0 for a free one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: io::Error,
    },
    /// The TLS library does not work on this machine.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
    /// There can be no certificate for the issuer.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// The plugin API cannot be called.
    #[error(transparent)]
    Api(#[from] LoginError),
    /// There is no randomness to make tokens of.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// No program answers at this address.
    #[error("the tracker at {url} cannot be checked: {reason}; start it, or give another URL")]
    NoTracker {
        /// Its URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// A program answers, but does not ask this issuer.
    #[error(
        "the tracker at {url} {answered}, and did not ask the issuer of these checks; configure it with auth_server = \
         {auth_server}, restart it, and run this again"
    )]
    NotAsked {
        /// The tracker's URL.
        url: String,
        /// What it answered, with its verb.
        answered: String,
        /// What to configure it with.
        auth_server: String,
    },
}

impl CheckError {
    /// Whether it can be otherwise a moment later: when the tracker has been started, or configured.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoTracker { .. } | Self::NotAsked { .. })
    }

    /// Whether another command line would help, rather than another tracker.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Url(_) | Self::Audience(_) | Self::NoSuchCheck { .. } | Self::NotPrivate(_) => true,
            Self::Api(error) => error.is_usage(),
            _ => false,
        }
    }
}
