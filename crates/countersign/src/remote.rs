//! Reaching a running server.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use countersign_client::{ClientError, DEFAULT_SERVER, PrivateApi};
use zeroize::Zeroizing;

use crate::output::Failure;

/// The heading of the flags that name a server.
pub(crate) const SERVER: &str = "Which server";

/// Which server a command talks to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = SERVER)]
pub(crate) struct ServerArgs {
    /// Its private API
    #[arg(long, env = "COUNTERSIGN_SERVER", value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
    /// A file with the secret that the private API asks for, if it does
    #[arg(long, env = "COUNTERSIGN_PRIVATE_BEARER_FILE", value_name = "FILE")]
    private_bearer_file: Option<PathBuf>,
}

impl ServerArgs {
    pub(crate) fn connect(&self) -> Result<PrivateApi, Failure> {
        let bearer = self.private_bearer_file.as_deref().map(read_secret).transpose()?;
        Ok(PrivateApi::new(&self.server, bearer)?)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Server(_) => Failure::usage(error),
            ClientError::Setup(_)
            | ClientError::Unreachable { .. }
            | ClientError::NotCountersign { .. }
            | ClientError::Refused { .. } => Failure::failed(error),
        }
    }
}

/// Reads a secret that stands alone in a file.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        Failure::usage(format!("cannot read the bearer file {}: {error}", path.display()))
    })?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
