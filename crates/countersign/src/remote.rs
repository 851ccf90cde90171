//! Reaching a running server.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use countersign_client::{Bearer, ClientError, Credentials, DEFAULT_SERVER, PrivateApi, Trace};
use countersign_http_client::is_this_machine;
use countersign_tls::small_file;
use url::Url;
use zeroize::Zeroizing;

use crate::output::{Failure, note};

/// The heading of the flags that name a server.
pub(crate) const SERVER: &str = "Which server";

/// Which server a command talks to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = SERVER)]
pub(crate) struct ServerArgs {
    /// Its private API: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, env = "COUNTERSIGN_SERVER", value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
    /// A file with the secret, or the JWT, that the private API requires, if any
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    private_bearer_file: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
}

impl ServerArgs {
    pub(crate) fn connect(&self) -> Result<PrivateApi, Failure> {
        self.trust.connect(&self.server, self.private_bearer_file.as_deref())
    }
}

/// The certificates by which a server and its caller authenticate each other.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = SERVER)]
pub(crate) struct Trust {
    /// Certificate authorities (PEM) to trust for it [default: those that this machine trusts]
    #[arg(long, env = "COUNTERSIGN_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// A client certificate (PEM, with its private key), if the server requires one
    #[arg(long, env = "COUNTERSIGN_CLIENT_IDENTITY", value_name = "FILE")]
    client_identity: Option<PathBuf>,
}

impl Trust {
    pub(crate) fn connect(&self, server: &str, bearer: Option<&Path>) -> Result<PrivateApi, Failure> {
        let read = |path: &Path| {
            small_file::read(path, small_file::MAX_PEM_BYTES)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
        };
        let credentials = Credentials {
            bearer: bearer.map(bearer_in).transpose()?,
            server_authorities: self.server_ca.as_deref().map(read).transpose()?.map(|pem| pem.to_vec()),
            identity: self.client_identity.as_deref().map(read).transpose()?,
        };
        if credentials.bearer.is_some() && is_plain_http_elsewhere(server) {
            note(
                "the secret goes to another machine in plain HTTP, where anybody on the way can read it; use https",
            );
        }
        Ok(PrivateApi::new(server, credentials)?.in_trace(trace()))
    }
}

/// The credential in a file, which is read again for each request; a pipe can be read once.
fn bearer_in(path: &Path) -> Result<Bearer, Failure> {
    let secret = read_secret(path)?;
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    Ok(if is_file { Bearer::File(path.to_owned()) } else { Bearer::Secret(secret) })
}

/// Whether what is sent to that server leaves this machine without TLS.
fn is_plain_http_elsewhere(server: &str) -> bool {
    let Ok(url) = server.parse::<Url>() else { return false };
    url.scheme() == "http" && !is_this_machine(&url)
}

/// The trace that this process is a part of, as OpenTelemetry has it told to processes.
pub(crate) fn trace() -> Option<Trace> {
    let parent = std::env::var("TRACEPARENT").ok()?;
    Trace::read(&parent, std::env::var("TRACESTATE").ok().as_deref())
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Server(_) | ClientError::Credential | ClientError::BearerFile { .. } => {
                Failure::usage(error)
            }
            ClientError::Tls(_)
            | ClientError::Unreachable { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::NotCountersign { .. }
            | ClientError::Refused { .. } => Failure::failed(error),
        }
    }
}

/// Reads a secret that stands alone in a file.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_secret_in("bearer", path)
}

/// The same, of the file that goes by that name.
pub(crate) fn read_secret_in(what: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = small_file::read_text(path, small_file::MAX_SECRET_BYTES).map_err(|error| {
        let file = match path.to_str() {
            // If the secret itself was put into this setting, it must not get into a log.
            Some(name) if !name.contains(['/', '.']) => {
                "whose name was given (it is not shown, lest it be the secret)"
            }
            _ => &path.display().to_string(),
        };
        Failure::usage(format!("cannot read the {what} file {file}: {error}"))
    })?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_remote_plain_http_is_warned_about() {
        for (server, is_open) in [
            ("http://127.0.0.1:8087", false),
            ("http://[::1]:8087", false),
            ("http://localhost:8087", false),
            ("https://tokens.example.org", false),
            ("unix:/run/countersign.sock", false),
            ("http://tokens.example.org", true),
            ("http://192.0.2.1:8087", true),
            ("http://[2001:db8::1]:8087", true),
        ] {
            assert_eq!(is_plain_http_elsewhere(server), is_open, "{server}");
        }
    }
}
