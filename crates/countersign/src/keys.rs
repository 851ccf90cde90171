//! `countersign keys`: list, rotate, revoke, rewrap, new and import.

use std::sync::Arc;

use clap::{Args, Subcommand};
use countersign_core::{
    Clock, KeyChange, KeyId, KeyRing, OsEntropy, RingChange, SystemClock, TokenStore, change_ring, put_ring,
    read_ring,
};
use countersign_server::{KeyFile, KeysDocument};
use countersign_store::place::StoreUrl;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::output::{Failure, member, print, print_json};
use crate::remote::ServerArgs;
use crate::settings::{ServeArgs, parse_duration};
use crate::store::{self, StorePlace};
use crate::token::whole_seconds;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys, without their secrets
    List(KeysArgs),
    /// Add a key that seals new tokens; older keys still open their tokens, and a rotation a day later removes them
    Rotate(RotateArgs),
    /// Remove a stolen key for good: from then on every server rejects every token that it sealed
    #[command(after_help = REVOKE_HELP)]
    Revoke(RevokeArgs),
    /// Lock the key ring of a shared store with the newest key of the key file, after a theft of that file
    #[command(after_help = REWRAP_HELP)]
    Rewrap(RewrapArgs),
    /// Create a key ring, to copy it to several servers or to replace a lost one
    New(NewArgs),
    /// Put the keys of a key file into a shared store whose own key ring no key file unlocks any more
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
}

const REVOKE_HELP: &str = "\
To revoke the key that seals, add --rotate, unless a newer key is waiting: then that one seals from then on. An older key never \
takes its place. The name of the revoked key stays in the ring, so an older copy of the file cannot bring the key back.";

const REWRAP_HELP: &str = "\
Several servers keep their key ring in the store, locked with a key from the key file that each of them has. To replace that \
key, run `countersign keys new --add` on one machine, copy the file to all machines, and run this command. It fails, and names the \
server, while a running server lacks the newest key. It does not change the keys that seal tokens: rotate or revoke those.";

const IMPORT_HELP: &str = "\
Use this if the key file is lost on every machine. From then on every token that the lost ring sealed is rejected. Stop the \
servers first, and create a new file with `countersign keys new`.";

/// The heading of the flags that name a key ring.
pub(crate) const KEY_PLACE: &str = "Which key ring, with --offline";

#[derive(Args, Debug)]
pub(crate) struct KeysArgs {
    /// Change the key ring itself, in its file or in a PostgreSQL store; a running server picks up the change within
    /// seconds
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten, next_help_heading = KEY_PLACE)]
    place: KeyPlace,
}

/// Where a key ring is, without a server to ask.
#[derive(Args, Debug)]
pub(crate) struct KeyPlace {
    #[command(flatten)]
    store: StorePlace,
    /// The key ring itself, or the key file that unlocks it
    #[arg(long, env = "COUNTERSIGN_KEY_RING", value_name = "FILE")]
    key_ring: Option<std::path::PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RotateArgs {
    /// When the new key begins to seal, such as 10m; at least 10s if several servers share a store
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    activate_in: SignedDuration,
    #[command(flatten)]
    common: KeysArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The name of the key, as `countersign keys list` prints it
    #[arg(value_name = "KEY")]
    key: KeyId,
    /// Add a new key in the same step, which seals at once; required to revoke the key that seals
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    common: KeysArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RewrapArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Add a key to an existing file, so that `countersign keys rewrap` can lock the key ring of a shared store with
    /// it
    #[arg(long)]
    add: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Which key ring")]
    place: KeyPlace,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Which store and which key file")]
    place: KeyPlace,
}

pub(crate) async fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::List(args) => {
            let document = if args.offline {
                let ring = match args.place.open().await? {
                    OfflineRing::File(file) => file.load().map_err(Failure::failed)?,
                    OfflineRing::Store { store, file } => {
                        read_ring(&*store, &file).await.map_err(Failure::failed)?
                    }
                };
                document(&ring)?
            } else {
                args.server.connect()?.keys().await?
            };
            report(&document, args.json)
        }
        KeysCommand::Rotate(RotateArgs { activate_in, common: args }) => {
            let activate_in = whole_seconds(activate_in)?;
            let document = if args.offline {
                document(&args.place.change(KeyChange::Rotate { activate_in }).await?)?
            } else {
                args.server.connect()?.rotate_keys(activate_in).await?
            };
            report(&document, args.json)
        }
        KeysCommand::Revoke(RevokeArgs { key, rotate, common: args }) => {
            let document = if args.offline {
                document(&args.place.change(KeyChange::Revoke { key, rotate }).await?)?
            } else {
                args.server.connect()?.revoke_key(&key.to_string(), rotate).await?
            };
            report(&document, args.json)
        }
        KeysCommand::Rewrap(RewrapArgs { json, server }) => {
            report(&server.connect()?.rewrap_keys().await?, json)
        }
        KeysCommand::New(NewArgs { add, json, place }) => {
            let file = place.key_file()?;
            if add {
                return report(&document(&change_file(&file, KeyChange::Add)?)?, json);
            }
            let (ring, new) = file.load_or_create(SystemClock.now(), &OsEntropy).map_err(Failure::failed)?;
            if !new {
                return Err(Failure::failed(format!(
                    "there is a key ring at {} already; use it, or add a key to it with `countersign keys rotate`",
                    file.path().display()
                )));
            }
            report(&document(&ring)?, json)
        }
        KeysCommand::Import(ImportArgs { json, place }) => match place.open().await? {
            OfflineRing::File(file) => Err(Failure::usage(format!(
                "the store is not a shared one: its servers use the key ring {} as it is",
                file.path().display()
            ))),
            OfflineRing::Store { store, file } => {
                let ring = put_ring(&*store, &file, &OsEntropy).await.map_err(Failure::failed)?;
                report(&document(&ring)?, json)
            }
        },
    }
}

/// A key ring without a server: in its file, or in a shared store that a file unlocks.
enum OfflineRing {
    File(KeyFile),
    Store { store: Arc<dyn TokenStore>, file: KeyRing },
}

impl KeyPlace {
    fn key_file(&self) -> Result<KeyFile, Failure> {
        let ServeArgs { config, given } = self.store.serve_args();
        let args = ServeArgs { config, given: given.flag("key_ring", self.key_ring.as_ref()) };
        Ok(KeyFile::new(args.resolve()?.key_ring))
    }

    async fn open(&self) -> Result<OfflineRing, Failure> {
        let file = self.key_file()?;
        let resolved = self.store.serve_args().resolve()?;
        if !matches!(resolved.store.url, StoreUrl::Postgres(_)) {
            return Ok(OfflineRing::File(file));
        }
        let file = file.load().map_err(Failure::failed)?;
        Ok(OfflineRing::Store { store: store::open(&resolved).await?, file })
    }

    /// Changes the ring; what it is then.
    async fn change(&self, change: KeyChange) -> Result<KeyRing, Failure> {
        match self.open().await? {
            OfflineRing::File(file) => change_file(&file, change),
            OfflineRing::Store { store, file } => {
                let (change, now) = (RingChange::Keys(change.settling()), SystemClock.now());
                let changed = change_ring(&*store, &file, change, now, &OsEntropy).await;
                Ok(changed.map_err(Failure::failed)?.after)
            }
        }
    }
}

fn change_file(file: &KeyFile, change: KeyChange) -> Result<KeyRing, Failure> {
    file.change(change, SystemClock.now(), &OsEntropy, drop).map_err(Failure::failed)?;
    file.load().map_err(Failure::failed)
}

/// The ring as the private API describes it.
fn document(ring: &KeyRing) -> Result<Value, Failure> {
    serde_json::to_value(KeysDocument::of(ring, SystemClock.now())).map_err(Failure::failed)
}

fn report(document: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(document);
    }
    let keys = document.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let now = SystemClock.now();
    let mut lines = vec![format!("{:8}  {:30}  use", "key", "active from")];
    for key in keys {
        let sealing = key.get("sealing").and_then(Value::as_bool).unwrap_or(false);
        let active_from = member(key, "active_from");
        let usage = match active_from.parse::<Timestamp>() {
            _ if sealing => "seals and opens".to_owned(),
            Ok(active_from) if active_from > now => "opens; will seal from then on".to_owned(),
            _ => "opens".to_owned(),
        };
        lines.push(format!("{:8}  {active_from:30}  {usage}", member(key, "id")));
    }
    print(lines.join("\n"))
}
