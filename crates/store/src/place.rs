//! The place of a store, and the implementation that its URL names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backend::Backend;
use crate::error::OpenError;
use crate::memory::InMemory;
use crate::postgres::{LibpqEnvironment, PostgresDatabase, PostgresOptions, PostgresUrl};
use crate::sqlite::{self, Database};

/// Which store, as its URL says it. To add one, add it here. The compiler then asks for its [`Backend`] in
/// [`StorePlace::backend`]; its scheme has to be added to [`StoreUrl::read`] and to the texts of
/// [`OpenError::UnknownScheme`] by hand.
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
    /// The database file; `None` if the store is not in a file.
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

    /// The store's implementation.
    pub fn backend(&self) -> Box<dyn Backend> {
        match &self.url {
            StoreUrl::Sqlite(path) => Box::new(Database(sqlite_path(path.as_deref(), &self.data_dir))),
            StoreUrl::Postgres(url) => Box::new(PostgresDatabase {
                url: (**url).clone(),
                options: self.postgres.clone(),
                data_dir: self.data_dir.clone(),
            }),
            StoreUrl::Memory => Box::new(InMemory),
        }
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
        // Text without a scheme is not quoted: a URL can hold a password.
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use countersign_core::{Clock, Entropy, ManualClock, SequenceEntropy, TokenStore, from_millis};

    use super::{StorePlace, StoreUrl};
    use crate::backend::IfMissing;
    use crate::error::{BackupError, OpenError};

    fn clock() -> Arc<dyn Clock> {
        Arc::new(ManualClock::at(from_millis(1_767_225_600_000)))
    }

    fn entropy() -> Arc<dyn Entropy> {
        Arc::new(SequenceEntropy::default())
    }

    fn place(url: &str, data_dir: &Path) -> StorePlace {
        StorePlace::new(url, data_dir).unwrap()
    }

    async fn open(place: &StorePlace, if_missing: IfMissing) -> Result<Arc<dyn TokenStore>, OpenError> {
        place.backend().open(if_missing, clock(), entropy()).await
    }

    #[test]
    fn url_names_a_store() {
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
        fn unescaped_password_stays_hidden(before in "[!-~]{0,3}", after in "[!-~]{0,3}", option in "[a-z=&]{0,4}") {
            let url = format!("postgres://anna:{before}hUnter2{after}@db.example/tokens?{option}");
            let (shown, debug) = match url.parse::<StoreUrl>() {
                Ok(parsed) => (parsed.to_string(), format!("{parsed:?}")),
                Err(error) => (error.to_string(), format!("{error:?}")),
            };
            proptest::prop_assert!(!shown.contains("hUnter2") && !debug.contains("hUnter2"), "{url}: {shown} {debug}");
        }
    }

    #[test]
    fn place_of_a_database_is_printed() {
        let place = |url: &str| url.parse::<StoreUrl>().unwrap().database(Path::new("/data"));
        assert_eq!(place("sqlite:"), Some(PathBuf::from("/data/countersign.db")));
        assert_eq!(place("sqlite:/srv/tokens.db"), Some(PathBuf::from("/srv/tokens.db")));
        assert_eq!(place("memory:"), None);
    }

    #[tokio::test]
    async fn default_is_a_file_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert!(matches!(open(&place("sqlite:", &data), IfMissing::Fail).await, Err(OpenError::Missing(_))));
        let store = open(&place("sqlite:", &data), IfMissing::Make).await.unwrap();
        assert_eq!(store.stats().await.unwrap().kind, "sqlite");
        assert!(data.join("countersign.db").exists());
        store.close().await;
        open(&place("sqlite:", &data), IfMissing::Fail).await.unwrap();
    }

    #[tokio::test]
    async fn store_in_use_is_backed_up_by_its_url() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        let store = open(&place("sqlite:", dir.path()), IfMissing::Make).await.unwrap();
        place("sqlite:", dir.path()).backend().backup(&copy).await.unwrap();
        assert_eq!(crate::sqlite::inspect(&copy).unwrap().fence, store.stats().await.unwrap().fence);
        let refused =
            place("memory:", dir.path()).backend().backup(&dir.path().join("other.db")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Source(OpenError::OnlyInMemory)), "{refused}");
    }

    #[tokio::test]
    async fn memory_needs_no_directory() {
        let store = open(&place("memory:", Path::new("/nonexistent")), IfMissing::Make).await.unwrap();
        assert_eq!(store.stats().await.unwrap().kind, "memory");
        assert!(matches!(
            open(&place("memory:", Path::new("/nonexistent")), IfMissing::Fail).await,
            Err(OpenError::OnlyInMemory)
        ));
    }

    #[tokio::test]
    async fn unusable_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error =
            open(&place("sqlite:", &file.join("data")), IfMissing::Make).await.unwrap_err().to_string();
        assert!(error.contains("file/data cannot be made: "), "{error}");
    }
}
