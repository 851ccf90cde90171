//! The ends of a copy, by their URLs. A store that can be copied has its line here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_core::Clock;

use super::CopyEnd;
use crate::sqlite::SqliteCopy;
use crate::{OpenError, StoreUrl};

/// What people, and the other end of the copy, call the store that `url` names: the same for every spelling, and without
/// a password.
pub fn name(url: &str, data_dir: &Path) -> Result<String, OpenError> {
    let url: StoreUrl = url.parse()?;
    let path = file(&url, data_dir)?;
    let absolute = std::path::absolute(&path).and_then(|path| match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
        found => found,
    });
    match absolute {
        Ok(path) => Ok(format!("sqlite:{}", path.display())),
        Err(error) => Err(OpenError::Files { doing: "found", path, error }),
    }
}

fn file(url: &StoreUrl, data_dir: &Path) -> Result<PathBuf, OpenError> {
    match url {
        StoreUrl::Postgres(_) => {
            let sentence = "a PostgreSQL store can be neither end of a copy; to change to one, or from one, begin with a \
                            new store: it refuses every token that was issued before";
            Err(OpenError::Unusable(sentence.to_owned()))
        }
        StoreUrl::Sqlite(_) | StoreUrl::Memory => url.database(data_dir).ok_or(OpenError::OnlyInMemory),
    }
}

/// The store that `url` names, to read from while a server uses it.
pub async fn reading(url: &str, data_dir: &Path) -> Result<Arc<dyn CopyEnd>, OpenError> {
    let url: StoreUrl = url.parse()?;
    let path = file(&url, data_dir)?;
    Ok(Arc::new(SqliteCopy::reading(&path).await?))
}

/// The store that `url` names, to change it; made if `make` says so.
///
/// # Errors
///
/// [`OpenError::InUse`] while a server has it that cannot be told to end no more tokens' lives.
pub async fn owning(
    url: &str,
    data_dir: &Path,
    clock: Arc<dyn Clock>,
    make: bool,
) -> Result<Arc<dyn CopyEnd>, OpenError> {
    let url: StoreUrl = url.parse()?;
    let path = file(&url, data_dir)?;
    Ok(Arc::new(SqliteCopy::owning(&path, clock, make).await?))
}
