//! Reaching a running server.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use countersign_client::{ClientError, Credentials, DEFAULT_SERVER, PrivateApi, Trace};
use zeroize::Zeroizing;

use crate::output::Failure;

/// The heading of the flags that name a server.
pub(crate) const SERVER: &str = "Which server";

/// Which server a command talks to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = SERVER)]
pub(crate) struct ServerArgs {
    /// Its private API: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, env = "COUNTERSIGN_SERVER", value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
    /// A file with the secret that the private API asks for, if it does
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    private_bearer_file: Option<PathBuf>,
    /// Authorities (PEM) of its certificate [default: those that this machine trusts]
    #[arg(long, env = "COUNTERSIGN_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// The client certificate (PEM, with its private key) that it asks for, if it does
    #[arg(long, env = "COUNTERSIGN_CLIENT_IDENTITY", value_name = "FILE")]
    client_identity: Option<PathBuf>,
}

impl ServerArgs {
    pub(crate) fn connect(&self) -> Result<PrivateApi, Failure> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
        };
        let credentials = Credentials {
            bearer: self.private_bearer_file.as_deref().map(read_secret).transpose()?,
            server_authorities: self.server_ca.as_deref().map(read).transpose()?,
            identity: self.client_identity.as_deref().map(read).transpose()?.map(Zeroizing::new),
        };
        Ok(PrivateApi::new(&self.server, credentials)?.in_trace(trace()))
    }
}

/// The trace that this process is a part of, as OpenTelemetry has it told to processes.
pub(crate) fn trace() -> Option<Trace> {
    let parent = std::env::var("TRACEPARENT").ok()?;
    Trace::read(&parent, std::env::var("TRACESTATE").ok().as_deref())
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Server(_) => Failure::usage(error),
            ClientError::Tls(_)
            | ClientError::Unreachable { .. }
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
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let file = match path.to_str() {
            // Somebody who takes the setting for the secret itself must not find it in a log.
            Some(name) if !name.contains(['/', '.']) => {
                "whose name was given (it is not shown, lest it be the secret)"
            }
            _ => &path.display().to_string(),
        };
        Failure::usage(format!("cannot read the {what} file {file}: {error}"))
    })?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
