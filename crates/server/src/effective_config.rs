//! The effective settings of a running server, for `GET /v1/server`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::secret::SecretFile;
use crate::{Address, Tls};

/// The settings of a server, and the places that they name.
#[derive(Debug, Default)]
pub struct EffectiveConfig {
    /// The configuration file that was read, if one was.
    pub config_file: Option<PathBuf>,
    /// Every setting.
    pub settings: Vec<Setting>,
    /// The files that only the server may use.
    pub secrets: Vec<SecretFile>,
    /// The directories that the store and the keys are in, each with what it is.
    pub directories: Vec<(&'static str, PathBuf)>,
    /// Both listeners.
    pub listeners: Vec<BoundListener>,
    /// Looks at what could be meant for the server and changes nothing.
    pub passed_over: Look,
}

/// Something that does not count although it could be meant for the server, such as a variable of another program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PassedOver {
    /// What it is, and where.
    pub what: String,
    /// Why it does not count.
    pub reason: String,
}

/// How to look at what changes while the server runs.
#[derive(Clone)]
pub struct Look(Arc<dyn Fn() -> Vec<PassedOver> + Send + Sync>);

impl Look {
    /// Looks in this way.
    pub fn by(look: impl Fn() -> Vec<PassedOver> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(crate) fn now(&self) -> Vec<PassedOver> {
        (self.0)()
    }
}

impl Default for Look {
    fn default() -> Self {
        Self::by(Vec::new)
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// A setting that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its name in the configuration file.
    pub name: String,
    /// Its value, without what is secret in it: a URL of the store has no password, other secret URLs have scheme, host and
    /// port alone, and a path is absolute. Absent if nothing was said, and its default depends on nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Who said it.
    pub source: Source,
}

/// Who said what a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// A variable.
    Variable,
    /// A flag.
    Flag,
}

/// A path that means the same to processes in other directories.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A listener that listens.
#[derive(Debug)]
pub struct BoundListener {
    /// `public` or `private`.
    pub name: &'static str,
    /// Where it listens; `None` for a socket that cannot be asked.
    pub addresses: Vec<Option<Address>>,
    /// Its TLS.
    pub tls: Option<Arc<Tls>>,
}
