//! `countersign store copy`: moves a store, while tokens are live.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use countersign_core::{Clock, OsEntropy, SystemClock};
use countersign_store::OpenError;
use countersign_store::copy::{self, Begun, Copy, CopyEnd, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output::{Failure, print, print_json};
use crate::settings::ServeArgs;

pub(super) const COPY_HELP: &str = "\
Nothing need be stopped to begin: most of the work is done while the server goes on. Then the command waits until the \
server that uses the source has stopped, hands the source over, copies what has changed, reads both stores back and \
compares them. Only then may a server use the target; start it with --store URL, and with the same key ring.

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
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The server's configuration file, if it is not at its usual place
    #[arg(long, env = "COUNTERSIGN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory, for stores that are named without a place
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(args: CopyArgs) -> Result<(), Failure> {
    let mut settings = ServeArgs { config: args.config.clone(), ..ServeArgs::default() };
    settings.settings.data_dir.clone_from(&args.data_dir);
    let data_dir = settings.resolve()?.data_dir;
    let name = |url: &str| copy::name(url, &data_dir).map_err(Failure::usage);
    let (from, to) = (name(&args.from)?, name(&args.to)?);
    if from == to {
        return Err(Failure::usage(format!("{from} is both --from and --to; name two stores")));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let source = copy::reading(&args.from, &data_dir).await.map_err(Failure::failed)?;
    let target =
        copy::owning(&args.to, &data_dir, Arc::clone(&clock), true).await.map_err(Failure::failed)?;
    let begun = Copy::begin(&*source, &from, &*target, &to, &OsEntropy).await.map_err(Failure::failed)?;
    let summary = match begun {
        Begun::Done => None,
        Begun::Copy(copy) => {
            let bar = Bar::new("copying");
            copy.bulk(&*source, &*target, &bar).await.map_err(Failure::failed)?;
            bar.finish();
            drop(source);
            let source = own(&args, &data_dir, &from, clock).await?;
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
                    "horizon": summary.lines.horizon,
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
            summary.records, summary.digest, args.to
        )),
    }
}

/// Takes the source over, as soon as no server has it.
async fn own(
    args: &CopyArgs,
    data_dir: &Path,
    from: &str,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn CopyEnd>, Failure> {
    let mut told = false;
    loop {
        match copy::owning(&args.from, data_dir, Arc::clone(&clock), false).await {
            Err(OpenError::InUse { pid, .. }) if !args.no_wait => {
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
