//! The log, on standard error.
//!
//! A thread of its own writes it, so that no request waits for its reader. When that reads too slowly or not at all, lines are
//! lost, and their number is logged. (`tracing-appender` does much the same, but may print to standard
//! output, which belongs to the two lines of `serve`.)

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::output::{Failure, note};
use crate::settings::LogFormat;

/// How many lines wait at most until they are written; further ones are lost. A line is mostly shorter than 300 bytes.
pub const MAX_WAITING_LINES: usize = 8192;

/// How long the end of the process waits for the last lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts logging. What waits is written when the returned value is dropped.
pub(crate) fn start(format: LogFormat) -> Result<Log, Failure> {
    let filter = filter(&std::env::var("RUST_LOG").unwrap_or_default());
    let most = filter.iter().map(|(_, level)| level).chain(filter.default_level()).max();
    let writer = start_writer(io::stderr())
        .map_err(|error| Failure::failed(format!("cannot start the log's thread: {error}")))?;
    let log = Log(writer.clone());
    let logs = tracing_subscriber::fmt()
        .with_max_level(most.unwrap_or(LevelFilter::OFF))
        .with_writer(move || writer.clone())
        .with_target(false)
        // By default, a failed write of the log is reported to standard error, which fails too and ends the server.
        .log_internal_errors(false);
    match format {
        LogFormat::Human => logs.with_ansi(io::stderr().is_terminal()).finish().with(filter).init(),
        LogFormat::Json => logs.json().finish().with(filter).init(),
    }
    Ok(log)
}

/// What is logged: `RUST_LOG` has levels, and levels of modules, between commas. There are no spans to filter by, so the larger
/// filter that knows them would be of no use. Unreadable parts are reported and ignored.
fn filter(text: &str) -> Targets {
    let mut filter = Targets::new();
    let mut is_given = false;
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        match directive.parse::<Targets>() {
            Ok(read) => {
                is_given = true;
                if let Some(level) = read.default_level() {
                    filter = filter.with_default(level);
                }
                filter = filter.with_targets(read);
            }
            Err(error) => note(format_args!("ignoring {directive:?} in RUST_LOG: {error}")),
        }
    }
    if is_given { filter } else { filter.with_default(LevelFilter::INFO) }
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log(Writer);

impl Drop for Log {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        if self.0.waiting.try_send(Message::Tell(written)).is_ok() {
            // This fails if the log's reader is gone.
            let _ = wait.recv_timeout(PATIENCE);
        }
    }
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Say so when everything before this is written.
    Tell(SyncSender<()>),
}

/// Takes lines and never waits.
#[derive(Clone, Debug)]
struct Writer {
    waiting: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Write for Writer {
    /// Each call brings one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.waiting.try_send(Message::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start_writer(output: impl Write + Send + 'static) -> io::Result<Writer> {
    let (waiting, lines) = sync_channel(MAX_WAITING_LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    thread::Builder::new().name("log".to_owned()).spawn(move || write_all(output, &lines, &counted))?;
    Ok(Writer { waiting, lost })
}

fn write_all(mut output: impl Write, lines: &Receiver<Message>, lost: &AtomicU64) {
    for message in lines {
        match message {
            Message::Line(line) => {
                // A log that cannot be written must not end the server.
                let _ = output.write_all(&line);
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(lost, "lines of this log were lost, because it was not read fast enough");
                }
            }
            Message::Tell(written) => {
                let _ = output.flush();
                let _ = written.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn filter_takes_levels_and_levels_of_modules() {
        for (text, target, level, is_logged) in [
            ("", "countersign", Level::INFO, true),
            ("", "countersign", Level::DEBUG, false),
            (" , ", "countersign", Level::INFO, true),
            ("debug", "hyper", Level::DEBUG, true),
            ("DEBUG", "hyper", Level::DEBUG, true),
            ("off", "countersign", Level::ERROR, false),
            ("warn,countersign_server=debug", "countersign_server::events", Level::DEBUG, true),
            ("warn, countersign_server=debug", "countersign_store", Level::INFO, false),
            ("countersign_server=debug", "countersign_store", Level::ERROR, false),
            ("countersign_server", "countersign_server", Level::TRACE, true),
            ("countersign=!!", "countersign", Level::INFO, true),
            ("error,countersign=!!", "countersign", Level::INFO, false),
            ("[{token=cs1}]=debug", "countersign", Level::DEBUG, false),
        ] {
            assert_eq!(filter(text).would_enable(target, &level), is_logged, "{text:?} {target} {level}");
        }
    }
}
