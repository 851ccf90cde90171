//! `countersign store move`: lets another store take a store's place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use countersign_core::{Clock, KeyRing, OsEntropy, StoredRing, SystemClock};
use countersign_server::KeyFile;
use countersign_store::backend::IfMissing;
use countersign_store::moving::{self, Movable};
use countersign_store::place::{StorePlace, StoreUrl};
use countersign_store::postgres::SchemaName;
use serde_json::json;

use crate::output::{Failure, print, print_json};
use crate::settings::{Given, ServeArgs, libpq_environment};

pub(super) const MOVE_HELP: &str = "\
Hands the source over, and has the target refuse every token that was created before the last one that was used: no token \
is accepted in both. A worker whose token is refused for that asks for another one. Then start the server with --store URL \
and with the same key ring. From PostgreSQL, where servers keep their key ring in the store, to SQLite the command writes it to \
the file that --to-key-ring names; start the server with --key-ring FILE.

If the source is SQLite, stop its server first. If it is PostgreSQL, nothing need be stopped: from that moment on all servers \
that use the source answer handshakes with 503.

Records stay in the source, which refuses every server from then on, and can be read there. The command ends within \
seconds; if it is cut short, give it again. Until it is done the source serves, or neither does; never both. To come back, \
move in the other direction.

A password in a URL may be seen in the list of processes; name a file instead. The settings of the store beside its URL \
hold for both ends, unless they are told apart with --to-store-schema and --to-store-password-file.

Exit codes: 0 the target may serve, 1 it may not, 2 wrong usage.";

#[derive(Args, Debug)]
pub(crate) struct MoveArgs {
    /// The store to move, such as sqlite: for the one in the data directory
    #[arg(long, value_name = "URL")]
    from: String,
    /// Its new place; made if it is not there
    #[arg(long, value_name = "URL")]
    to: String,
    /// The file that the key ring in a PostgreSQL store is written to when the target is not PostgreSQL; it must not exist yet
    #[arg(long, value_name = "FILE")]
    to_key_ring: Option<PathBuf>,
    /// The key file that unlocks that ring, if it is not the one in the data directory
    #[arg(long, env = "COUNTERSIGN_KEY_RING", value_name = "FILE")]
    key_ring: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The server's configuration file, if it is not at its usual place
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory, for stores that are named without a place
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten, next_help_heading = "A PostgreSQL store")]
    postgres: PostgresArgs,
}

#[derive(Args, Debug)]
struct PostgresArgs {
    /// A file with its password
    #[arg(long, env = "COUNTERSIGN_STORE_PASSWORD_FILE", value_name = "FILE")]
    store_password_file: Option<PathBuf>,
    /// The schema in which it keeps its tables [default: countersign]
    #[arg(long, env = "COUNTERSIGN_STORE_SCHEMA", value_name = "NAME")]
    store_schema: Option<String>,
    /// Authorities (PEM) that its certificate may come from [default: the system's]
    #[arg(long, env = "COUNTERSIGN_STORE_CA_FILE", value_name = "FILE")]
    store_ca_file: Option<PathBuf>,
    /// For --to alone, in place of --store-password-file
    #[arg(long, value_name = "FILE")]
    to_store_password_file: Option<PathBuf>,
    /// For --to alone, in place of --store-schema
    #[arg(long, value_name = "NAME")]
    to_store_schema: Option<SchemaName>,
}

impl MoveArgs {
    /// The two stores, and the key file.
    fn places(&self) -> Result<(StorePlace, StorePlace, PathBuf), Failure> {
        let given = Given::default()
            .flag("data_dir", self.data_dir.as_ref())
            .flag("store_password_file", self.postgres.store_password_file.as_ref())
            .flag("store_schema", self.postgres.store_schema.as_ref())
            .flag("store_ca_file", self.postgres.store_ca_file.as_ref())
            .flag("key_ring", self.key_ring.as_ref());
        let settings = ServeArgs { config: self.config.clone(), given }.resolve()?;
        let libpq = libpq_environment();
        let place = |url: &str| -> Result<StorePlace, Failure> {
            Ok(StorePlace {
                url: StoreUrl::read(url, &libpq).map_err(Failure::usage)?,
                data_dir: settings.data_dir.clone(),
                postgres: settings.store.postgres.clone(),
            })
        };
        let (from, mut to) = (place(&self.from)?, place(&self.to)?);
        if let Some(file) = &self.postgres.to_store_password_file {
            to.postgres.password_file = Some(file.clone());
        }
        if let Some(schema) = &self.postgres.to_store_schema {
            to.postgres.schema = schema.clone();
        }
        Ok((from, to, settings.key_ring))
    }
}

pub(super) async fn run(args: MoveArgs) -> Result<(), Failure> {
    let (from_place, to_place, key_file) = args.places()?;
    let name = |place: &StorePlace| place.backend().name().map_err(Failure::usage);
    let (from, to) = (name(&from_place)?, name(&to_place)?);
    if from == to {
        return Err(Failure::usage(format!("{from} is both --from and --to; name two stores")));
    }
    if let (Some(one), Some(other)) = (directory(&from), directory(&to))
        && one == other
    {
        return Err(Failure::usage(format!(
            "{from} and {to} are in one directory, which only one server can use; stop it, and rename the file together with \
             its -wal and -shm files"
        )));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let source = from_place.backend().movable(IfMissing::Fail, Arc::clone(&clock), Arc::new(OsEntropy)).await;
    let source = source.map_err(Failure::failed)?;
    let rings = match &to_place.url {
        StoreUrl::Postgres(_) => None,
        StoreUrl::Sqlite(_) | StoreUrl::Memory => {
            Rings::find(&*source, &key_file, args.to_key_ring.as_deref()).await?
        }
    };
    let target = to_place.backend().movable(IfMissing::Make, Arc::clone(&clock), Arc::new(OsEntropy)).await;
    let target = target.map_err(Failure::failed)?;
    let handed_over = moving::hand_over((&*source, &from), (&*target, &to), &*clock, &OsEntropy).await;
    let handed_over = handed_over.map_err(Failure::failed)?;
    if let Some(handed_over) = &handed_over {
        if let Some((rings, ring)) = rings.zip(handed_over.ring.as_ref()) {
            rings.write(ring)?;
        }
        let taken =
            target.take_over(handed_over.id, &from, handed_over.fence, handed_over.ring.as_ref()).await;
        taken.map_err(Failure::failed)?;
    }
    let fence = handed_over.map(|handed_over| handed_over.fence);
    let serve = serve_with(&to_place, args.postgres.to_store_schema.is_some());
    if args.json {
        return print_json(&json!({ "from": from, "to": to, "already": fence.is_none(), "fence": fence }));
    }
    match fence {
        None => print(format!("{from} was moved to {to} before; serve with {serve}")),
        Some(fence) => print(format!(
            "moved to {to}, which refuses tokens that were created before {fence}\n{from} refuses every server from now on; \
             serve with {serve}"
        )),
    }
}

/// The flags that name this store, wherever a server with the same settings is started.
fn serve_with(place: &StorePlace, has_own_schema: bool) -> String {
    let schema = &place.postgres.schema;
    match &place.url {
        StoreUrl::Postgres(url) if has_own_schema || *schema != SchemaName::default() => {
            format!("--store {url} --store-schema {}", schema.name())
        }
        StoreUrl::Sqlite(_) => format!("--store {}", StoreUrl::Sqlite(place.url.database(&place.data_dir))),
        url => format!("--store {url}"),
    }
}

/// Where the file of the store of this name is.
fn directory(name: &str) -> Option<&Path> {
    Path::new(name.strip_prefix("sqlite:")?).parent()
}

/// The key ring of a shared store, on its way into a file.
struct Rings<'a> {
    unlocks: KeyRing,
    to: &'a Path,
}

impl<'a> Rings<'a> {
    /// Sees to it that the ring can be written before anything is handed over; `None` if the store keeps none.
    async fn find(
        source: &dyn Movable,
        key_file: &Path,
        to: Option<&'a Path>,
    ) -> Result<Option<Self>, Failure> {
        let Some(stored) = source.ring().await.map_err(Failure::failed)? else { return Ok(None) };
        let to = to.ok_or_else(|| {
            Failure::usage(
                "the servers of the source keep their key ring in the store, and a server on the target needs it in a \
                 file: name a new one with --to-key-ring",
            )
        })?;
        let unlocks = KeyFile::new(key_file.to_owned()).load().map_err(Failure::failed)?;
        let ring = stored.open(&unlocks).map_err(Failure::failed)?;
        if to.symlink_metadata().is_ok() {
            // An earlier run of the same command may have come so far.
            if !holds(to, &ring) {
                return Err(Failure::usage(is_another(to)));
            }
        } else {
            KeyFile::new(to.to_owned()).rehearse_save_new(&ring).map_err(|error| {
                Failure::usage(format!(
                    "the key ring cannot be written to {}: {error}. Nothing was handed over; name a file with --to-key-ring \
                     in a directory that is there and that you may write to",
                    to.display()
                ))
            })?;
        }
        Ok(Some(Self { unlocks, to }))
    }

    /// Writes the ring of a store that was handed over, and so changes no more.
    fn write(&self, stored: &StoredRing) -> Result<(), Failure> {
        let ring = stored.open(&self.unlocks).map_err(Failure::failed)?;
        let file = KeyFile::new(self.to.to_owned());
        let is_new = file.save_new(&ring).map_err(|error| {
            Failure::failed(format!("cannot write the key ring to {}: {error}", self.to.display()))
        })?;
        if is_new || holds(self.to, &ring) { Ok(()) } else { Err(Failure::failed(is_another(self.to))) }
    }
}

/// Whether the file has this ring.
fn holds(file: &Path, ring: &KeyRing) -> bool {
    KeyFile::new(file.to_owned()).load().is_ok_and(|there| there.to_text() == ring.to_text())
}

fn is_another(file: &Path) -> String {
    format!(
        "{} is there already and is not the key ring of the store; give the command again with another --to-key-ring",
        file.display()
    )
}
