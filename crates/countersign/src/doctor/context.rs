//! What the checks look at, gathered once.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_client::PrivateApi;
use countersign_core::{Clock, KeyRing, OsEntropy, Roll, StoreStats, StoreTimes};
use countersign_server::KeyFile;
use countersign_store::copy::CopyState;
use countersign_store::postgres::{self, DatabaseExamination};
use countersign_store::{StoreUrl, sqlite};
use jiff::Timestamp;
use serde_json::Value;

use crate::settings::{Resolved, ServeArgs};

/// Everything that is known.
pub(super) struct Context {
    pub(super) now: Timestamp,
    /// The configuration, or what is wrong with it.
    pub(super) settings: Result<Resolved, String>,
    /// The key ring, from its file or from a shared store that keeps it.
    pub(super) ring: Option<Result<KeyRing, String>>,
    /// What the running server says; `None`: it is not to be asked.
    pub(super) server: Option<Result<Served, String>>,
    /// What the store says, opened beside the server; `None` without a configuration.
    pub(super) store: Option<Result<Stored, String>>,
}

/// What a running server says.
pub(super) struct Served {
    pub(super) nodes: Value,
    /// What is in its store, or why it cannot be asked.
    pub(super) store: Result<Value, String>,
}

/// What is in the store.
pub(super) struct Stored {
    pub(super) stats: StoreStats,
    pub(super) roll: Roll,
    pub(super) state: CopyState,
    /// What it knows about the time; `None` while no server may use it.
    pub(super) times: Option<StoreTimes>,
    /// The database, if it is in a file.
    pub(super) file: Option<PathBuf>,
    /// What a search for damage has found.
    pub(super) damage: Option<String>,
    /// What a database server says of itself.
    pub(super) database: Option<DatabaseExamination>,
}

impl Context {
    pub(super) async fn gather(args: ServeArgs, server: Option<PrivateApi>, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        let settings = args.resolve().map_err(crate::output::Failure::into_sentence);
        let (mut ring, mut store) = (None, None);
        if let Ok(settings) = &settings {
            let file = KeyFile::new(settings.key_ring.clone()).load().map_err(|error| error.to_string());
            store = Some(look_into(settings, Arc::clone(&clock)).await);
            let stored =
                store.as_ref().and_then(|store| store.as_ref().ok()?.database.as_ref()?.ring.as_ref());
            ring = Some(match stored {
                Some(stored) => file.and_then(|file| stored.open(&file).map_err(|error| error.to_string())),
                None => file,
            });
        }
        let server = match server {
            Some(server) => Some(ask(&server).await),
            None => None,
        };
        Self { now, settings, ring, server, store }
    }

    /// The store, if it could be looked into.
    pub(super) fn stored(&self) -> Option<&Stored> {
        self.store.as_ref()?.as_ref().ok()
    }
}

async fn ask(server: &PrivateApi) -> Result<Served, String> {
    // Whether it answers at all.
    server.keys().await.map_err(|error| error.to_string())?;
    let nodes = server.nodes().await;
    let store = server.store_stats().await.map_err(|error| error.to_string());
    Ok(Served { nodes: nodes.unwrap_or_default(), store })
}

/// Looks into the store without changing it, and without keeping a server from it.
async fn look_into(settings: &Resolved, clock: Arc<dyn Clock>) -> Result<Stored, String> {
    let place = &settings.store;
    if let StoreUrl::Postgres(url) = &place.url {
        let examined = postgres::examine(url, &place.postgres, clock, Arc::new(OsEntropy)).await;
        let examined = examined.map_err(|error| error.to_string())?;
        return Ok(Stored {
            stats: examined.stats.clone(),
            roll: examined.roll.clone(),
            state: examined.state.clone(),
            times: examined.times.clone(),
            damage: None,
            file: None,
            database: Some(examined),
        });
    }
    let Some(path) = place.url.database(&place.data_dir) else {
        return Err("a store in memory can only be asked through its server".to_owned());
    };
    let (file, now) = (path.clone(), clock.now());
    let examined = tokio::task::spawn_blocking(move || sqlite::examine(&path, now)).await;
    let examined = examined.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(Stored {
        stats: examined.stats,
        roll: examined.roll,
        state: examined.state,
        times: Some(examined.times),
        damage: examined.damage,
        file: Some(file),
        database: None,
    })
}
