//! The ends of a copy, by their places. A store that can be copied has its line here.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::{Clock, Entropy};

use super::CopyEnd;
use crate::postgres::PostgresCopy;
use crate::sqlite::SqliteCopy;
use crate::{OpenError, StorePlace, StoreUrl};

/// What people, and the other end of the copy, call the store at `place`: the same for every spelling, and without a
/// password.
pub fn name(place: &StorePlace) -> Result<String, OpenError> {
    if let StoreUrl::Postgres(url) = &place.url {
        return Ok(PostgresCopy::name(url, &place.postgres));
    }
    let path = file(place)?;
    let absolute = std::path::absolute(&path).and_then(|path| match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
        found => found,
    });
    match absolute {
        Ok(path) => Ok(format!("sqlite:{}", path.display())),
        Err(error) => Err(OpenError::Files { doing: "found", path, error }),
    }
}

fn file(place: &StorePlace) -> Result<PathBuf, OpenError> {
    place.url.database(&place.data_dir).ok_or(OpenError::OnlyInMemory)
}

/// The store at `place`, to read from while servers use it.
pub async fn reading(
    place: &StorePlace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn CopyEnd>, OpenError> {
    match &place.url {
        StoreUrl::Postgres(url) => {
            Ok(Arc::new(PostgresCopy::reading(url, &place.postgres, clock, entropy).await?))
        }
        StoreUrl::Sqlite(_) | StoreUrl::Memory => Ok(Arc::new(SqliteCopy::reading(&file(place)?).await?)),
    }
}

/// The store at `place`, to change it; made if `make` says so.
///
/// # Errors
///
/// [`OpenError::InUse`] while a server has it that cannot be told to end no more tokens' lives.
pub async fn owning(
    place: &StorePlace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    make: bool,
) -> Result<Arc<dyn CopyEnd>, OpenError> {
    match &place.url {
        StoreUrl::Postgres(url) => {
            Ok(Arc::new(PostgresCopy::owning(url, &place.postgres, clock, entropy, make).await?))
        }
        StoreUrl::Sqlite(_) | StoreUrl::Memory => {
            Ok(Arc::new(SqliteCopy::owning(&file(place)?, clock, make).await?))
        }
    }
}
