//! The backend of each kind of store, chosen by its URL. [`StorePlace::backend`](crate::place::StorePlace::backend)
//! picks the implementation.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, Entropy, EventStore, StoreStats, TokenStore};

use crate::error::{BackupError, OpenError};
use crate::moving::Movable;

/// What to do about a store that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    /// Make it, new and empty.
    Make,
    /// Fail, so that a mistyped place is not answered with a new, empty store.
    Fail,
}

/// A kind of store, at its place. Needs a tokio runtime, here and for everything that the store does afterwards.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Opens the store to serve from it or to administrate it.
    async fn open(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn TokenStore>, OpenError>;

    /// What is in the store, also while servers use it; changes nothing.
    async fn inspect(
        &self,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<StoreStats, OpenError>;

    /// Copies the store into the file `to`, also while a server has it open. The copy moves its own fence when it is first
    /// opened, so that no token consumed after the copy was made becomes live again.
    async fn backup(&self, to: &Path) -> Result<(), BackupError>;

    /// What people, and the other store of a move, call this one: the same for every spelling, and without a password.
    fn name(&self) -> Result<String, OpenError>;

    /// Opens the store to move it.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] while a server has a store that is in a file.
    async fn movable(
        &self,
        if_missing: IfMissing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<dyn Movable>, OpenError>;

    /// The store of events that goes with it. Never fails on account of its file: that is made, and if need be replaced,
    /// when the first events are written.
    fn events(&self) -> Arc<dyn EventStore>;
}
