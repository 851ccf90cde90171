use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, TokenStore};
use tempfile::TempDir;

use super::{FILE_NAME, SqliteStore};
use crate::contract::{Subject, contract_tests};

struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Subject for Sqlite {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
        Arc::new(SqliteStore::open(&self.0.path().join(FILE_NAME), clock).await.unwrap())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

contract_tests!(Sqlite::new());
