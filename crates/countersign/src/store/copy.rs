//! `countersign store copy`: moves a store, while tokens are live.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use countersign_core::{Clock, Entropy, KeyRing, OsEntropy, SystemClock};
use countersign_server::KeyFile;
use countersign_store::copy::{self, Begun, Copy, CopyEnd, Progress};
use countersign_store::postgres::SchemaName;
use countersign_store::{OpenError, StorePlace, StoreUrl};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output::{Failure, print, print_json};
use crate::settings::{ServeArgs, libpq_environment};

pub(super) const COPY_HELP: &str = "\
Nothing need be stopped to begin: most of the work is done while the server goes on. Then the command hands the source \
over, copies what has changed, reads both stores back and compares them. Only then may a server use the target; start it \
with --store URL, and with the same key ring. From PostgreSQL, where servers keep their key ring in the store, to SQLite the \
command writes it to the file that --to-key-ring names; start the server with --key-ring FILE.

If the source is SQLite, the command first waits until its server has stopped. If it is PostgreSQL, it waits for nobody: \
from that moment on all servers that use the source answer handshakes with 503.

A password in a URL may be seen in the list of processes; name a file instead. The settings of the store beside its URL \
hold for both ends, unless they are told apart with --to-store-schema and --to-store-password-file.

From the handing over on the source refuses every server, so that no token can be used in both. If the command is cut \
short, at any moment, give it again: it goes on. Until then the source serves, or neither does; never both.

To come back, copy in the other direction. Records of consumed and revoked tokens are copied, and both lines; recorded \
events are not. Exit codes: 0 the target may serve, 1 it may not, 2 wrong usage.";

/// How often it is looked whether the server has stopped.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// The store to copy, such as sqlite: for the one in the data directory
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where to; made if it is not there
    #[arg(long, value_name = "URL")]
    to: String,
    /// End with exit code 1, rather than wait, while a server uses the source; the records are copied so far
    #[arg(long)]
    no_wait: bool,
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

impl CopyArgs {
    /// The two stores, and the key file.
    fn places(&self) -> Result<(StorePlace, StorePlace, PathBuf), Failure> {
        let mut serve = ServeArgs { config: self.config.clone(), ..ServeArgs::default() };
        serve.settings.data_dir.clone_from(&self.data_dir);
        serve.settings.store_password_file.clone_from(&self.postgres.store_password_file);
        serve.settings.store_schema.clone_from(&self.postgres.store_schema);
        serve.settings.store_ca_file.clone_from(&self.postgres.store_ca_file);
        serve.settings.key_ring.clone_from(&self.key_ring);
        let settings = serve.resolve()?;
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

pub(super) async fn run(args: CopyArgs) -> Result<(), Failure> {
    let (from_place, to_place, key_file) = args.places()?;
    let name = |place: &StorePlace| copy::name(place).map_err(Failure::usage);
    let (from, to) = (name(&from_place)?, name(&to_place)?);
    if from == to {
        return Err(Failure::usage(format!("{from} is both --from and --to; name two stores")));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let source = copy::reading(&from_place, Arc::clone(&clock), Arc::clone(&entropy)).await;
    let source = source.map_err(Failure::failed)?;
    let target = copy::owning(&to_place, Arc::clone(&clock), entropy, true).await.map_err(Failure::failed)?;
    let begun = Copy::begin(&*source, &from, &*target, &to, &OsEntropy).await.map_err(Failure::failed)?;
    let summary = match begun {
        Begun::Done => None,
        Begun::Copy(copy) => {
            let rings = match &to_place.url {
                StoreUrl::Postgres(_) => None,
                StoreUrl::Sqlite(_) | StoreUrl::Memory => {
                    Rings::find(&*source, &key_file, args.to_key_ring.as_deref()).await?
                }
            };
            let bar = Bar::new("copying");
            copy.bulk(&*source, &*target, &bar).await.map_err(Failure::failed)?;
            bar.finish();
            drop(source);
            let source = own(args.no_wait, &from_place, &from, clock).await?;
            if let Some(rings) = &rings {
                copy.hand_over(&*source).await.map_err(Failure::failed)?;
                rings.write(&*source).await?;
            }
            let bar = Bar::new("completing");
            let summary = copy.finish(&*source, &*target, &bar).await.map_err(Failure::failed)?;
            bar.finish();
            Some(summary)
        }
    };
    if args.json {
        let document = summary.as_ref().map_or_else(
            || json!({ "from": from, "to": to, "already": true }),
            |summary| {
                json!({
                    "from": from,
                    "to": to,
                    "already": false,
                    "records": summary.records,
                    "fence": summary.lines.fence,
                    "horizon": summary.lines.horizon.expires,
                    "sha256": summary.digest,
                })
            },
        );
        return print_json(&document);
    }
    match summary {
        None => print(format!("{from} has been copied to {to} before; serve from there, with --store")),
        Some(summary) => print(format!(
            "copied {} records to {to}; both stores were read back and have the SHA-256 {}\n{from} refuses every server \
             from now on; serve with --store {}",
            summary.records, summary.digest, to_place.url
        )),
    }
}

/// The key ring of a shared store, on its way into a file.
struct Rings<'a> {
    unlocks: KeyRing,
    to: &'a Path,
}

impl<'a> Rings<'a> {
    /// Sees to it that the ring can be written before anything is handed over; `None` if the store keeps none.
    async fn find(
        source: &dyn CopyEnd,
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
        stored.open(&unlocks).map_err(Failure::failed)?;
        Ok(Some(Self { unlocks, to }))
    }

    /// Writes the ring of a store that was handed over, and so changes no more.
    async fn write(&self, source: &dyn CopyEnd) -> Result<(), Failure> {
        let Some(stored) = source.ring().await.map_err(Failure::failed)? else { return Ok(()) };
        let ring = stored.open(&self.unlocks).map_err(Failure::failed)?;
        let file = KeyFile::new(self.to.to_owned());
        let is_new = file.save_new(&ring).map_err(|error| {
            Failure::failed(format!("cannot write the key ring to {}: {error}", self.to.display()))
        })?;
        // An earlier run of the same command may have come so far.
        let is_mine = is_new || file.load().is_ok_and(|there| there.to_text() == ring.to_text());
        if is_mine {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} is there already and is not the key ring of the store; give the command again with another --to-key-ring",
            self.to.display()
        )))
    }
}

/// Takes the source over, as soon as no server has it.
async fn own(
    no_wait: bool,
    place: &StorePlace,
    from: &str,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn CopyEnd>, Failure> {
    let mut told = false;
    loop {
        match copy::owning(place, Arc::clone(&clock), Arc::new(OsEntropy), false).await {
            Err(OpenError::InUse { pid, .. }) if !no_wait => {
                if !std::mem::replace(&mut told, true) {
                    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                    let _ = writeln!(
                        io::stderr(),
                        "most of it is copied; now stop the server that uses {from}{process}: this waits for it"
                    );
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
            opened => return opened.map_err(Failure::failed),
        }
    }
}

/// How many records have been dealt with, on standard error if that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(doing: &'static str) -> Self {
        let bar = if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{spinner} {msg} {human_pos} records, {per_sec}, {elapsed}");
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.set_message(doing);
        Self(bar)
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn advance(&self, records: usize) {
        self.0.inc(u64::try_from(records).unwrap_or(u64::MAX));
    }
}
