//! `countersign store`: stats, purge, fence, backup and move.

mod moving;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use countersign_core::{OsEntropy, SystemClock, TokenStore, move_fence_now, purge_now};
use countersign_server::StoreDocument;
use countersign_store::backend::IfMissing;
use countersign_store::place::StoreUrl;
use countersign_store::postgres;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::output::{Failure, print, print_json, print_members};
use crate::remote::ServerArgs;
use crate::settings::{Given, Resolved, ServeArgs, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Count what is in the store
    Stats(StoreArgs),
    /// Delete the records of tokens that expired long ago; a server does so every minute
    Purge(PurgeArgs),
    /// Reject every token issued until now; needed after you restore a copy that `backup` did not make
    Fence(StoreArgs),
    /// Copy the store to a file, even while a server uses it
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Let another store take this one's place
    #[command(visible_alias = "copy", after_help = moving::MOVE_HELP)]
    Move(moving::MoveArgs),
    /// Create or upgrade the tables of a PostgreSQL store, with a role that may do so
    #[command(after_help = MIGRATE_HELP)]
    Migrate(MigrateArgs),
}

const MIGRATE_HELP: &str = "\
A server creates and upgrades its tables by itself if its role may create a schema. For a server whose role may not, run \
this command once, and after each upgrade that asks for it, with the role that is to own the tables:

  countersign store migrate --store postgres://owner@db.example.org/countersign --grant-to countersign

The role after --grant-to can then read and write records, and nothing else. It must exist already. Servers of the \
previous version keep serving meanwhile.";

const BACKUP_HELP: &str = "\
This is for SQLite. A PostgreSQL store is backed up by PostgreSQL's own means (pg_dump, or a base backup and its log); \
after restoring one, run `countersign store fence --offline` before you serve.

To restore: stop the server, remove countersign.db with its -wal and -shm files from the data directory, put the \
copy there as countersign.db, and start the server. Tokens issued before that moment are rejected, because the copy \
does not know which of them were consumed after it was made.

The key ring is not in the copy; keep key-ring.toml as a secret elsewhere.";

/// The heading of the flags that name a store.
pub(crate) const STORE_PLACE: &str = "Which store, with --offline";

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Open the store itself; for purge and fence no server may use it, unless it is in PostgreSQL
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten, next_help_heading = STORE_PLACE)]
    place: StorePlace,
}

#[derive(Args, Debug)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    common: StoreArgs,
    /// How long the record of a used token is kept after the token's expiry; at least 2m [default: 24h]
    #[arg(long, env = "COUNTERSIGN_RETENTION", value_name = "DURATION", value_parser = parse_duration,
          help_heading = STORE_PLACE)]
    retention: Option<SignedDuration>,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The copy, which must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten, next_help_heading = "Which store")]
    place: StorePlace,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    /// The role that serves
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Which store")]
    place: StorePlace,
}

/// Where a store is, without a server to ask.
#[derive(Args, Debug)]
pub(crate) struct StorePlace {
    /// The server's configuration file, if it is not in its usual place
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory it is in
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Its URL, if it is not the one in the data directory
    #[arg(long, env = "COUNTERSIGN_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// A file with the password for a PostgreSQL store
    #[arg(long, env = "COUNTERSIGN_STORE_PASSWORD_FILE", value_name = "FILE")]
    store_password_file: Option<PathBuf>,
    /// The schema in which a PostgreSQL store keeps its tables [default: countersign]
    #[arg(long, env = "COUNTERSIGN_STORE_SCHEMA", value_name = "NAME")]
    store_schema: Option<String>,
    /// Certificate authorities (PEM) to trust for a PostgreSQL store [default: the system's]
    #[arg(long, env = "COUNTERSIGN_STORE_CA_FILE", value_name = "FILE")]
    store_ca_file: Option<PathBuf>,
}

impl StorePlace {
    /// These flags, as `countersign serve` has them.
    pub(crate) fn serve_args(&self) -> ServeArgs {
        let given = Given::default()
            .flag("data_dir", self.data_dir.as_ref())
            .flag("store", self.store.as_ref())
            .flag("store_password_file", self.store_password_file.as_ref())
            .flag("store_schema", self.store_schema.as_ref())
            .flag("store_ca_file", self.store_ca_file.as_ref());
        ServeArgs { config: self.config.clone(), given }
    }

    /// What `countersign serve` would make of these flags and this `retention`.
    fn resolve(&self, retention: Option<SignedDuration>) -> Result<Resolved, Failure> {
        let ServeArgs { config, given } = self.serve_args();
        let given = given.flag("retention", retention.map(|retention| retention.to_string()));
        ServeArgs { config, given }.resolve()
    }
}

pub(crate) async fn open(resolved: &Resolved) -> Result<Arc<dyn TokenStore>, Failure> {
    let backend = resolved.store.backend();
    backend.open(IfMissing::Fail, Arc::new(SystemClock), Arc::new(OsEntropy)).await.map_err(Failure::failed)
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
            let PurgeArgs { common: args, retention } = args;
            let document = if args.offline {
                offline_purge(&args, retention).await?
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
            let resolved = args.place.resolve(None)?;
            resolved.store.backend().backup(&args.file).await.map_err(Failure::failed)?;
            print(format!("backed up to {}", args.file.display()))
        }
        StoreCommand::Move(args) => moving::run(args).await,
        StoreCommand::Migrate(args) => migrate(&args).await,
    }
}

/// Only looks, also while a server has the store open. To open a backup as a store would count as restoring it: its
/// fence would move now, and not when it is put to use.
async fn offline_stats(args: &StoreArgs) -> Result<Value, Failure> {
    let resolved = args.place.resolve(None)?;
    let stats = resolved.store.backend().inspect(Arc::new(SystemClock), Arc::new(OsEntropy)).await;
    let stats = stats.map_err(Failure::failed)?;
    serde_json::to_value(StoreDocument::from(stats)).map_err(Failure::failed)
}

async fn offline_purge(args: &StoreArgs, retention: Option<SignedDuration>) -> Result<Value, Failure> {
    let resolved = args.place.resolve(retention)?;
    let store = open(&resolved).await?;
    let purged = purge_now(&*store, &SystemClock, resolved.policy.retention).await.map_err(Failure::failed);
    store.close().await;
    Ok(json!({ "purged": purged? }))
}

async fn offline_fence(args: &StoreArgs) -> Result<Value, Failure> {
    let store = open(&args.place.resolve(None)?).await?;
    let fence = move_fence_now(&*store, &SystemClock).await.map_err(Failure::failed);
    store.close().await;
    Ok(json!({ "fence": fence? }))
}

/// Makes or upgrades the tables.
async fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let place = args.place.resolve(None)?.store;
    let StoreUrl::Postgres(url) = &place.url else {
        return Err(Failure::usage(
            "only a PostgreSQL store is migrated by hand; others are brought up to date when a server opens them",
        ));
    };
    let clock = Arc::new(SystemClock);
    let (before, after) =
        postgres::migrate(url, &place.postgres, clock, Arc::new(OsEntropy), args.grant_to.as_deref())
            .await
            .map_err(Failure::failed)?;
    let document = json!({ "before": before, "schema": after, "granted_to": args.grant_to });
    if args.json {
        print_json(&document)
    } else {
        print_members(&document, &["before", "schema", "granted_to"])
    }
}
