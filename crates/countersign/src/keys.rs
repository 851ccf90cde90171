//! `countersign keys`: list and rotate.

use clap::{Args, Subcommand};
use countersign_core::{Clock, KeyRing, OsEntropy, SystemClock, after};
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
}

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
                let ring = args.place.key_file()?.rotate(now, after(now, activate_in), &OsEntropy);
                document(&ring.map_err(Failure::failed)?)
            } else {
                args.server.connect()?.rotate_keys(activate_in).await?
            };
            report(&document, args.json)
        }
    }
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
        let usage = match active_from.parse::<Timestamp>() {
            _ if sealing => "seals and opens",
            Ok(active_from) if active_from > now => "opens; will seal from then on",
            _ => "opens",
        };
        lines.push(format!("{:8}  {active_from:30}  {usage}", member(key, "id")));
    }
    print(lines.join("\n"))
}
