//! The variables of libpq.
//!
//! Only the URL says which database a store is: all servers of a store have to use the same one, and a variable that was
//! set for another program must not lead one of them astray. The variables may say how to get in there, as for libpq; the
//! URL comes first.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// The variables that count, and the options of a URL that say the same.
const OPTIONS: [(&str, &str); 9] = [
    ("PGAPPNAME", "application_name"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Not an option, for a URL can hold it in two places.
const PASSWORD: &str = "PGPASSWORD";

/// The variables that say which database, or as whom.
const WHICH: [&str; 7] =
    ["PGDATABASE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGUSER"];

/// The variables that libpq knows and this program does not, of those that change how a connection is protected.
const UNKNOWN: [&str; 17] = [
    "PGGSSDELEGATION",
    "PGGSSENCMODE",
    "PGGSSLIB",
    "PGKRBSRVNAME",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGREQUIRESSL",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCOMPRESSION",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLMAXPROTOCOLVERSION",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLNEGOTIATION",
    "PGSSLSNI",
];

/// The variables of libpq that are set, and where the user's files are. Its `Debug` shows no value: one is a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LibpqEnvironment {
    variables: BTreeMap<String, OsString>,
    home: Option<PathBuf>,
}

impl LibpqEnvironment {
    /// Takes libpq's out of all variables. An empty one counts as not set, as it does for libpq.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, home: Option<PathBuf>) -> Self {
        let variables = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            (name.starts_with("PG") && !value.is_empty()).then_some((name, value))
        });
        Self { variables: variables.collect(), home }
    }

    /// The variables that are set and change nothing, each with the reason.
    pub fn passed_over(&self) -> Vec<(&'static str, &'static str)> {
        let which = "which database, and as whom, the store's URL alone says";
        let unknown = "this program has no such option of libpq";
        let all = WHICH.map(|name| (name, which)).into_iter().chain(UNKNOWN.map(|name| (name, unknown)));
        all.filter(|(name, _)| self.variables.contains_key(*name)).collect()
    }

    /// The variables that say what an option of a URL says: each with the option and the value.
    pub(super) fn options(&self) -> impl Iterator<Item = (&'static str, &'static str, &OsStr)> {
        OPTIONS
            .iter()
            .filter_map(|(variable, option)| Some((*variable, *option, &**self.variables.get(*variable)?)))
    }

    pub(super) fn password(&self) -> Option<&OsString> {
        self.variables.get(PASSWORD)
    }

    /// The password file that libpq reads if none is named.
    pub(super) fn usual_password_file(&self) -> Option<PathBuf> {
        Some(self.home.as_ref()?.join(".pgpass"))
    }
}

impl fmt::Debug for LibpqEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibpqEnvironment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .finish()
    }
}
