//! Why a call of the private API can fail.

use std::path::PathBuf;

use hyper::StatusCode;

/// Why a call failed. No text carries a token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error(
        "{0} is not the address of a server; give it as http://HOST:PORT, https://HOST:PORT or unix:PATH"
    )]
    Server(String),
    /// A certificate cannot be used.
    #[error("cannot speak TLS with the server: {0}")]
    Tls(String),
    /// The credential cannot be sent.
    #[error("the credential has characters that a header cannot carry; put the secret alone into its file")]
    Credential,
    /// The credential cannot be read.
    #[error("cannot read the bearer file {}: {error}", path.display())]
    BearerFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// No program answers at this address.
    #[error(
        "no Countersign server answers at {server} ({reason}); start one with `countersign serve`, or name it with \
         --server URL"
    )]
    Unreachable {
        /// Where.
        server: String,
        /// Why.
        reason: String,
    },
    /// The connection is accepted, but the answer is missing or malformed.
    #[error("the server at {server} was reached, but {reason}")]
    NoAnswer {
        /// Where.
        server: String,
        /// What is wrong with its answer.
        reason: String,
    },
    /// Something answers, but not a Countersign server's private API.
    #[error("what answers at {server} is not the private API of a Countersign server (HTTP status {status})")]
    NotCountersign {
        /// Where.
        server: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The server says no.
    #[error("{detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The reason in a word: the end of the problem's type.
        reason: String,
        /// The server's sentence.
        detail: String,
    },
}

/// What was given for a server's address, but for what can be a secret.
pub(crate) fn shown(server: &str) -> String {
    if server.contains(['@', '?', '#']) {
        "a URL with a user, a password or a query".to_owned()
    } else {
        format!("{server:?}")
    }
}
