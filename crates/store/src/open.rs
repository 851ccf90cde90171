//! Which stores there are, and how to open one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use countersign_core::{Clock, Entropy, StoreStats, TokenStore};

use crate::memory::MemoryStore;
use crate::postgres;
use crate::postgres::{LibpqEnvironment, PostgresOptions, PostgresStore, PostgresUrl};
use crate::sqlite::{self, SqliteStore};

/// Which store, as its URL says it. To add one, add it here; the compiler then asks for it in [`open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:` or `sqlite:PATH`: see [`sqlite`]. A relative path begins at the current directory; without one, it is
    /// [`sqlite::FILE_NAME`] in the data directory.
    Sqlite(Option<PathBuf>),
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`: see [`postgres`](crate::postgres).
    Postgres(Box<PostgresUrl>),
    /// `memory:`: see [`memory`](crate::memory). **It forgets everything when the process ends.**
    Memory,
}

impl StoreUrl {
    /// The database file, for [`sqlite::backup`] and [`sqlite::inspect`]; `None` if the store is not in a file.
    pub fn database(&self, data_dir: &Path) -> Option<PathBuf> {
        match self {
            Self::Sqlite(path) => Some(sqlite_path(path.as_deref(), data_dir)),
            Self::Postgres(_) | Self::Memory => None,
        }
    }
}

/// Where a store is, and what is needed to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// Which store.
    pub url: StoreUrl,
    /// Where a store without a place of its own puts its files; it is made, for its owner only, if it is missing.
    pub data_dir: PathBuf,
    /// What is said about a PostgreSQL store beside its URL.
    pub postgres: PostgresOptions,
}

impl StorePlace {
    /// The store of this URL, without further options.
    pub fn new(url: &str, data_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self { url: url.parse()?, data_dir: data_dir.to_owned(), postgres: PostgresOptions::default() })
    }
}

fn sqlite_path(path: Option<&Path>, data_dir: &Path) -> PathBuf {
    let path = path.map_or_else(|| data_dir.join(sqlite::FILE_NAME), Path::to_owned);
    sqlite::resolve(&path).unwrap_or(path)
}

impl FromStr for StoreUrl {
    type Err = OpenError;

    fn from_str(url: &str) -> Result<Self, OpenError> {
        Self::read(url, &LibpqEnvironment::default())
    }
}

impl StoreUrl {
    /// Reads a URL, together with the variables that say how to get into a PostgreSQL database.
    pub fn read(url: &str, environment: &LibpqEnvironment) -> Result<Self, OpenError> {
        // What does not begin with a scheme is not repeated: a URL can hold a password.
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(OpenError::NoScheme);
        };
        match scheme {
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.contains(['?', '#']) {
                    return Err(OpenError::Options);
                }
                Ok(Self::Sqlite((!path.is_empty()).then(|| PathBuf::from(path))))
            }
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(OpenError::Options),
            "postgres" | "postgresql" => Ok(Self::Postgres(Box::new(PostgresUrl::read(url, environment)?))),
            _ => Err(OpenError::UnknownScheme),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(None) => f.write_str("sqlite:"),
            // Two slashes at the beginning would be read as those before a host.
            Self::Sqlite(Some(path)) if path.as_os_str().as_encoded_bytes().starts_with(b"//") => {
                write!(f, "sqlite://{}", path.display())
            }
            Self::Sqlite(Some(path)) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => write!(f, "{url}"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// Opens the store at `place`, and makes it if there is none yet.
///
/// Needs a tokio runtime, here and for everything that the store does afterwards.
pub async fn open(
    place: &StorePlace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn TokenStore>, OpenError> {
    match &place.url {
        StoreUrl::Sqlite(path) => {
            Ok(Arc::new(SqliteStore::open(&sqlite_path(path.as_deref(), &place.data_dir), clock).await?))
        }
        StoreUrl::Postgres(url) => {
            Ok(Arc::new(PostgresStore::open(url, &place.postgres, clock, entropy).await?))
        }
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new(&*clock))),
    }
}

/// Opens the store at `place` for administration: as [`open`], but a store that does not exist yet is an error, so that a
/// mistyped place is not answered with a new, empty store.
pub async fn open_existing(
    place: &StorePlace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn TokenStore>, OpenError> {
    match &place.url {
        StoreUrl::Sqlite(path) => {
            let path = sqlite_path(path.as_deref(), &place.data_dir);
            Ok(Arc::new(SqliteStore::open_existing(&path, clock).await?))
        }
        StoreUrl::Postgres(url) => {
            Ok(Arc::new(PostgresStore::open_existing(url, &place.postgres, clock, entropy).await?))
        }
        StoreUrl::Memory => Err(OpenError::OnlyInMemory),
    }
}

/// What is in the store at `place`, also while servers use it; changes nothing.
pub async fn inspect(
    place: &StorePlace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<StoreStats, OpenError> {
    match &place.url {
        StoreUrl::Sqlite(path) => {
            let path = sqlite_path(path.as_deref(), &place.data_dir);
            let stats = tokio::task::spawn_blocking(move || sqlite::inspect(&path)).await;
            stats.map_err(|error| OpenError::Unusable(format!("looking was cut short: {error}")))?
        }
        StoreUrl::Postgres(url) => postgres::inspect(url, &place.postgres, clock, entropy).await,
        StoreUrl::Memory => Err(OpenError::OnlyInMemory),
    }
}

/// Copies the store at `place` into the file `to`, also while a server has it open. The copy moves its own fence when it
/// is first opened, so that no token consumed after the copy was made becomes live again.
pub async fn backup(place: &StorePlace, to: &Path) -> Result<(), sqlite::BackupError> {
    match &place.url {
        StoreUrl::Sqlite(path) => {
            let (from, to) = (sqlite_path(path.as_deref(), &place.data_dir), to.to_owned());
            let copied = tokio::task::spawn_blocking(move || sqlite::backup(&from, &to)).await;
            copied.map_err(|error| sqlite::BackupError::CutShort(error.to_string()))?
        }
        StoreUrl::Postgres(_) => Err(OpenError::BackupElsewhere.into()),
        StoreUrl::Memory => Err(OpenError::OnlyInMemory.into()),
    }
}

/// Why a store cannot be opened. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL.
    #[error(
        "a store is named by a URL such as `sqlite:/var/lib/countersign/countersign.db`, \
         `postgres://countersign@db.example.org/countersign` or `memory:`"
    )]
    NoScheme,
    /// No store of that name.
    #[error(
        "the store's URL begins with none of the names that there are: `sqlite:` (or `sqlite:PATH`), \
         `postgres://USER@HOST/DATABASE` and `memory:`"
    )]
    UnknownScheme,
    /// The URL says more than it may.
    #[error("this store's URL takes no options: write `sqlite:`, `sqlite:PATH` or `memory:`")]
    Options,
    /// The URL of a PostgreSQL store cannot be understood.
    #[error(
        "the store's URL cannot be understood ({0}); write postgres://USER@HOST:PORT/DATABASE, with options behind a ?, \
         and write other characters than letters and digits as %XX"
    )]
    PostgresUrl(String),
    /// A character that ends a part of the URL stands inside a part.
    #[error(
        "the store's URL has more than one `@`, so that it is not clear where its password ends; write an `@` in the password \
         as %40 (and / as %2F, ? as %3F, # as %23, % as %25), or put the password into a file and name that with \
         store_password_file"
    )]
    UnescapedUrl,
    /// An option of the URL, or a variable of libpq, that says something else than it can.
    #[error("{option} must {must}")]
    PostgresOption {
        /// The option, or the variable.
        option: String,
        /// What it must be.
        must: &'static str,
    },
    /// Not the name of a schema.
    #[error(
        "store_schema must be lower-case letters, digits and _, at most 63, must not begin with a digit or with pg_"
    )]
    SchemaName,
    /// The authorities' file cannot be used.
    #[error("the authorities of the store's certificate cannot be read from {}: {reason}", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody has made the tables yet.
    #[error(
        "there is no store in {place}; check the store's URL and store_schema, or make one with `countersign store \
         migrate`"
    )]
    NoSchema {
        /// The database.
        place: String,
    },
    /// The tables were made by a newer version.
    #[error(
        "the tables in {place} were made by a newer version of Countersign (schema {found}, this version knows up to \
         {known}); install that version"
    )]
    NewerSchema {
        /// The database.
        place: String,
        /// Its schema's version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The tables are old or not there, and this role may not change that.
    #[error(
        "{place} has schema {found}, this version needs {known}, and its role may not change that ({reason}); run \
         `countersign store migrate --grant-to ROLE` with a role that may, where ROLE is the one that serves"
    )]
    MayNotMigrate {
        /// The database.
        place: String,
        /// The version that is there; 0: none.
        found: u32,
        /// The version that is needed.
        known: u32,
        /// What the database says.
        reason: String,
    },
    /// What is in a database server is saved by its own means.
    #[error(
        "a PostgreSQL store is backed up by PostgreSQL's own means: pg_dump, or a base backup with its log (PITR). After \
         restoring one, run `countersign store fence --offline` before you serve"
    )]
    BackupElsewhere,
    /// There is nothing to administrate.
    #[error("a `memory:` store lives and dies with its server; there is nothing to open from outside")]
    OnlyInMemory,
    /// The file is not there.
    #[error("there is no store at {}; check the path, or start the server once to make it", .0.display())]
    Missing(PathBuf),
    /// Another process has it.
    #[error(
        "the data directory {} is in use by {}; stop that process, or give this one another --data-dir",
        .dir.display(), sqlite::process_name(*.pid)
    )]
    InUse {
        /// The directory with the database.
        dir: PathBuf,
        /// The process that has it, if it has said so.
        pid: Option<u32>,
    },
    /// The directory or a file in it cannot be used.
    #[error("{} cannot be {doing}: {error}; check that it is a place on a local disk that this user may write", .path.display())]
    Files {
        /// What was being done: `made`, `read`, ...
        doing: &'static str,
        /// To which.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A database of some other program.
    #[error("{} is not a Countersign store but some other program's database; name another path", .0.display())]
    Foreign(PathBuf),
    /// Another store has taken its place, or is to.
    #[error(
        "{place} was handed over to {to}: serve from there, with --store. If {to} says that it was handed over to this one, \
         complete the move by running `countersign store move` again with the same --from and --to. To come back, move in the \
         other direction"
    )]
    HandedOver {
        /// The database.
        place: String,
        /// What has taken its place.
        to: String,
    },
    /// Written by a newer version.
    #[error(
        "{} was written by a newer version of Countersign (schema {found}, this version knows up to {known}); \
         install that version again",
        .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// Damaged, or no database at all.
    #[error(
        "{} is damaged or not a database ({detail}); put a backup in its place, or move it away together with its \
         -wal and -shm files. Then start again: tokens issued before that moment will be refused",
        .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system lacks what the database needs.
    #[error(
        "{} is on a file system on which SQLite cannot keep a write-ahead log (shared memory is missing there, as on \
         network file systems); use a local disk",
        .0.display()
    )]
    NoWal(PathBuf),
    /// Something else went wrong; the text names the remedy.
    #[error("{0}")]
    Unusable(String),
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use countersign_core::{Clock, Entropy, ManualClock, SequenceEntropy, from_millis};

    use super::{OpenError, StorePlace, StoreUrl, backup, open, open_existing};
    use crate::sqlite::{BackupError, inspect};

    fn clock() -> Arc<dyn Clock> {
        Arc::new(ManualClock::at(from_millis(1_767_225_600_000)))
    }

    fn entropy() -> Arc<dyn Entropy> {
        Arc::new(SequenceEntropy::default())
    }

    fn place(url: &str, data_dir: &Path) -> StorePlace {
        StorePlace::new(url, data_dir).unwrap()
    }

    #[test]
    fn a_url_names_a_store() {
        let sqlite = |path: &str| StoreUrl::Sqlite(Some(PathBuf::from(path)));
        for (url, store) in [
            ("sqlite:", StoreUrl::Sqlite(None)),
            ("sqlite://", StoreUrl::Sqlite(None)),
            ("sqlite:tokens.db", sqlite("tokens.db")),
            ("sqlite:/srv/tokens.db", sqlite("/srv/tokens.db")),
            ("sqlite:///srv/my tokens.db", sqlite("/srv/my tokens.db")),
            ("sqlite:////srv/tokens.db", sqlite("//srv/tokens.db")),
            ("sqlite://state/tokens.db", sqlite("state/tokens.db")),
            ("memory:", StoreUrl::Memory),
        ] {
            let parsed: StoreUrl = url.parse().unwrap();
            assert_eq!(parsed, store);
            assert_eq!(
                parsed.to_string().parse::<StoreUrl>().unwrap(),
                store,
                "what is shown can be given again"
            );
        }
    }

    #[test]
    fn other_urls_are_refused_and_no_password_is_repeated() {
        for (url, part) in [
            ("postgres://anna:hunter2@db/tokens?hunter=hunter2", "it has an option that there is not"),
            ("postgres://anna:p?hunter2=a@db/tokens", "more than one `@`"),
            ("postgres://anna:p@hunter2@db/tokens", "%40"),
            ("postgres://anna:hunter2@db/tokens?sslkey=hunter2", "`sslkey` is an option of libpq"),
            ("postgresql://anna:hunter2@db:hunter2/tokens", "cannot be understood"),
            ("postgres://anna:hunter2@db/tokens?sslmode=hunter2", "sslmode in the store's URL must be"),
            ("postgres:", "cannot be understood"),
            (
                "redis://anna:hunter2@db",
                "the store's URL begins with none of the names that there are: `sqlite:`",
            ),
            ("hunter2", "named by a URL such as"),
            ("", "named by a URL such as"),
            ("sqlite:tokens.db?mode=ro&hunter2", "takes no options"),
            ("memory:hunter2", "takes no options"),
        ] {
            let error = url.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest::proptest! {
        /// Passwords as people paste them, with whatever characters.
        #[test]
        fn no_part_of_an_unescaped_password_is_shown(before in "[!-~]{0,3}", after in "[!-~]{0,3}", option in "[a-z=&]{0,4}") {
            let url = format!("postgres://anna:{before}hUnter2{after}@db.example/tokens?{option}");
            let (shown, debug) = match url.parse::<StoreUrl>() {
                Ok(parsed) => (parsed.to_string(), format!("{parsed:?}")),
                Err(error) => (error.to_string(), format!("{error:?}")),
            };
            proptest::prop_assert!(!shown.contains("hUnter2") && !debug.contains("hUnter2"), "{url}: {shown} {debug}");
        }
    }

    #[test]
    fn a_database_has_a_place() {
        let place = |url: &str| url.parse::<StoreUrl>().unwrap().database(Path::new("/data"));
        assert_eq!(place("sqlite:"), Some(PathBuf::from("/data/countersign.db")));
        assert_eq!(place("sqlite:/srv/tokens.db"), Some(PathBuf::from("/srv/tokens.db")));
        assert_eq!(place("memory:"), None);
    }

    #[tokio::test]
    async fn the_default_is_a_file_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert!(matches!(
            open_existing(&place("sqlite:", &data), clock(), entropy()).await,
            Err(OpenError::Missing(_))
        ));
        let store = open(&place("sqlite:", &data), clock(), entropy()).await.unwrap();
        assert_eq!(store.stats().await.unwrap().kind, "sqlite");
        assert!(data.join("countersign.db").exists());
        store.close().await;
        open_existing(&place("sqlite:", &data), clock(), entropy()).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_in_use_is_backed_up_by_its_url() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        let store = open(&place("sqlite:", dir.path()), clock(), entropy()).await.unwrap();
        backup(&place("sqlite:", dir.path()), &copy).await.unwrap();
        assert_eq!(inspect(&copy).unwrap().fence, store.stats().await.unwrap().fence);
        let refused = backup(&place("memory:", dir.path()), &dir.path().join("other.db")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Source(OpenError::OnlyInMemory)), "{refused}");
    }

    #[tokio::test]
    async fn memory_needs_no_directory() {
        let store = open(&place("memory:", Path::new("/nonexistent")), clock(), entropy()).await.unwrap();
        assert_eq!(store.stats().await.unwrap().kind, "memory");
        assert!(matches!(
            open_existing(&place("memory:", Path::new("/nonexistent")), clock(), entropy()).await,
            Err(OpenError::OnlyInMemory)
        ));
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error =
            open(&place("sqlite:", &file.join("data")), clock(), entropy()).await.unwrap_err().to_string();
        assert!(error.contains("file/data cannot be made: "), "{error}");
    }
}
