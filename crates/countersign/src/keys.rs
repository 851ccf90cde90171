//! `countersign keys`: list, rotate, revoke and new.

use clap::{Args, Subcommand};
use countersign_core::{Clock, KeyId, KeyRing, OsEntropy, SystemClock, after};
use countersign_server::KeyFile;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::output::{Failure, member, print, print_json};
use crate::remote::ServerArgs;
use crate::settings::{ServeArgs, parse_duration};
use crate::token::whole_seconds;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys, without their secrets
    List(KeysArgs),
    /// Add a key that seals new tokens; the older ones still open theirs, and leave after a day
    Rotate(RotateArgs),
    /// Take a stolen key out for good: every token that it sealed is refused from then on
    #[command(after_help = REVOKE_HELP)]
    Revoke(RevokeArgs),
    /// Make a key ring where there is none, to be copied to several servers, or in place of one that was lost
    New(NewArgs),
}

const REVOKE_HELP: &str = "\
The name of the key stays in the ring, so that the key cannot come back with an older copy of the file. Other servers on \
the same store stop using it within seconds; copy the ring to them all the same, before they are restarted.";

/// The heading of the flags that name a key ring.
pub(crate) const KEY_PLACE: &str = "Which key ring, with --offline";

#[derive(Args, Debug)]
pub(crate) struct KeysArgs {
    /// Work on the key ring itself; a server that uses it takes up a change within seconds
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
    /// The server's configuration file, if it is not at its usual place
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// The data directory it is in
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
    /// The key ring itself
    #[arg(long, env = "COUNTERSIGN_KEY_RING", value_name = "FILE")]
    key_ring: Option<std::path::PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RotateArgs {
    /// When the new key begins to seal, such as 10m: with several servers, time to hand the key ring to them all
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    activate_in: SignedDuration,
    #[command(flatten)]
    common: KeysArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The key, by the name that `countersign keys list` shows
    #[arg(value_name = "KEY")]
    key: KeyId,
    /// Add a new key in the same step, which seals at once; needed for the key that seals
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    common: KeysArgs,
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Which key ring")]
    place: KeyPlace,
}

pub(crate) async fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::List(args) => {
            let document = if args.offline {
                let ring = args.place.key_file()?.load().map_err(Failure::failed)?;
                document(&ring)
            } else {
                args.server.connect()?.keys().await?
            };
            report(&document, args.json)
        }
        KeysCommand::Rotate(RotateArgs { activate_in, common: args }) => {
            let activate_in = whole_seconds(activate_in)?;
            let document = if args.offline {
                let now = SystemClock.now();
                let ring = args.place.key_file()?.rotate(now, after(now, activate_in), &[], &OsEntropy);
                document(&ring.map_err(Failure::failed)?)
            } else {
                args.server.connect()?.rotate_keys(activate_in).await?
            };
            report(&document, args.json)
        }
        KeysCommand::Revoke(RevokeArgs { key, rotate, common: args }) => {
            let document = if args.offline {
                document(&revoke_offline(&args.place.key_file()?, key, rotate)?)
            } else {
                args.server.connect()?.revoke_key(&key.to_string(), rotate).await?
            };
            report(&document, args.json)
        }
        KeysCommand::New(NewArgs { json, place }) => {
            let file = place.key_file()?;
            let (ring, new) = file.load_or_create(SystemClock.now(), &OsEntropy).map_err(Failure::failed)?;
            if !new {
                return Err(Failure::failed(format!(
                    "there is a key ring at {} already; use it, or add a key to it with `countersign keys rotate`",
                    file.path().display()
                )));
            }
            report(&document(&ring), json)
        }
    }
}

fn revoke_offline(file: &KeyFile, key: KeyId, rotate: bool) -> Result<KeyRing, Failure> {
    let now = SystemClock.now();
    let ring = file.load().map_err(Failure::failed)?;
    if !rotate && ring.sealing_key(now).is_some_and(|sealing| sealing.id() == key) {
        return Err(Failure::failed(format!(
            "key {key} is the one that seals; to replace it in the same step, add --rotate"
        )));
    }
    file.revoke(key, rotate, now, &OsEntropy).map_err(Failure::failed)
}

impl KeyPlace {
    fn key_file(&self) -> Result<KeyFile, Failure> {
        let mut args = ServeArgs { config: self.config.clone(), ..ServeArgs::default() };
        args.settings.data_dir.clone_from(&self.data_dir);
        args.settings.key_ring.clone_from(&self.key_ring);
        Ok(KeyFile::new(args.resolve()?.key_ring))
    }
}

/// The ring as the private API describes it.
fn document(ring: &KeyRing) -> Value {
    let sealing = ring.sealing_key(SystemClock.now()).map(countersign_core::Key::id);
    let keys: Vec<Value> = ring
        .keys()
        .iter()
        .map(|key| {
            json!({
                "id": key.id().to_string(),
                "active_from": key.active_from(),
                "sealing": Some(key.id()) == sealing,
                "waits_for": [],
            })
        })
        .collect();
    json!({ "keys": keys })
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
        let waits_for: Vec<&str> = key
            .get("waits_for")
            .and_then(Value::as_array)
            .map(|nodes| nodes.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let usage = match active_from.parse::<Timestamp>() {
            _ if sealing => "seals and opens".to_owned(),
            _ if !waits_for.is_empty() => {
                format!("opens; waits for {} to have it: copy the key ring there", waits_for.join(", "))
            }
            Ok(active_from) if active_from > now => "opens; will seal from then on".to_owned(),
            _ => "opens".to_owned(),
        };
        lines.push(format!("{:8}  {active_from:30}  {usage}", member(key, "id")));
    }
    print(lines.join("\n"))
}
