//! `countersign store`: stats, purge, fence and backup.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_core::{Clock, SystemClock, TokenStore, after, before};
use serde_json::{Value, json};

use crate::output::{Failure, print, print_json, print_members};
use crate::remote::ServerArgs;
use crate::settings::{Resolved, ServeArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Tell what is in the store
    Stats(StoreArgs),
    /// Remove the records of tokens that expired long ago; a server does so by itself every minute
    Purge(StoreArgs),
    /// Refuse every token issued until now; do so with --offline after restoring a file copy, before serving
    Fence(StoreArgs),
    /// Copy the store to a file while the server goes on; the copy moves its own fence when it is first opened
    Backup(BackupArgs),
}

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Work on the store itself, which no server may have open
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Which store, with --offline
    #[command(flatten, next_help_heading = "With --offline")]
    place: StorePlace,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The copy, which must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: StorePlace,
}

/// Where a store is, without a server to ask.
#[derive(Args, Debug)]
pub(crate) struct StorePlace {
    /// The configuration file that says so
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data directory
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The store's URL
    #[arg(long, env = "COUNTERSIGN_STORE", value_name = "URL")]
    store: Option<String>,
}

impl StorePlace {
    fn resolve(&self) -> Result<Resolved, Failure> {
        let mut args = ServeArgs { config: self.config.clone(), ..ServeArgs::default() };
        args.settings.data_dir.clone_from(&self.data_dir);
        args.settings.store.clone_from(&self.store);
        args.resolve()
    }

    async fn open(&self) -> Result<(Arc<dyn TokenStore>, Resolved), Failure> {
        let resolved = self.resolve()?;
        let store =
            countersign_store::open_existing(&resolved.store, &resolved.data_dir, Arc::new(SystemClock))
                .await;
        Ok((store.map_err(Failure::failed)?, resolved))
    }
}

pub(crate) async fn run(command: StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Stats(args) => {
            let document = if args.offline {
                offline_stats(&args).await?
            } else {
                args.server.connect()?.store_stats().await?
            };
            let members = ["kind", "schema", "consumed", "revoked", "fence", "horizon", "bytes"];
            if args.json { print_json(&document) } else { print_members(&document, &members) }
        }
        StoreCommand::Purge(args) => {
            let document = if args.offline {
                offline_purge(&args).await?
            } else {
                args.server.connect()?.purge_store().await?
            };
            if args.json { print_json(&document) } else { print_members(&document, &["purged"]) }
        }
        StoreCommand::Fence(args) => {
            let document = if args.offline {
                offline_fence(&args).await?
            } else {
                args.server.connect()?.fence_store().await?
            };
            if args.json { print_json(&document) } else { print_members(&document, &["fence"]) }
        }
        StoreCommand::Backup(args) => {
            let resolved = args.place.resolve()?;
            countersign_store::backup(&resolved.store, &resolved.data_dir, &args.file)
                .await
                .map_err(Failure::failed)?;
            print(format!("backed up to {}", args.file.display()))
        }
    }
}

async fn offline_stats(args: &StoreArgs) -> Result<Value, Failure> {
    let (store, _) = args.place.open().await?;
    let stats = store.stats().await.map_err(Failure::failed);
    store.close().await;
    let stats = stats?;
    Ok(json!({
        "kind": stats.kind,
        "schema": stats.schema,
        "consumed": stats.consumed,
        "revoked": stats.revoked,
        "fence": stats.fence,
        "horizon": stats.horizon,
        "bytes": stats.bytes,
    }))
}

async fn offline_purge(args: &StoreArgs) -> Result<Value, Failure> {
    let (store, resolved) = args.place.open().await?;
    let purged =
        store.purge(before(SystemClock.now(), resolved.policy.retention)).await.map_err(Failure::failed);
    store.close().await;
    Ok(json!({ "purged": purged? }))
}

async fn offline_fence(args: &StoreArgs) -> Result<Value, Failure> {
    let (store, _) = args.place.open().await?;
    let fence =
        store.move_fence(after(SystemClock.now(), Duration::from_millis(1))).await.map_err(Failure::failed);
    store.close().await;
    Ok(json!({ "fence": fence? }))
}
