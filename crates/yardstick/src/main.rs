//! Baselines that Countersign is measured against, for `bench/compare` and `bench/growth`. Prints JSON. Not shipped.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product: it asks the machine for the time and prints"
)]

mod disk;
mod fill;
mod redis;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

/// Measure what Countersign is compared with, or fill its store
#[derive(Parser)]
enum Yardstick {
    /// Append 4 KiB to a file and wait for the disk, again and again
    Disk {
        /// Where the file is made, and removed again
        dir: PathBuf,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// So many times a second, by a timetable [default: as often as the disk does]
        #[arg(long)]
        rate: Option<f64>,
    },
    /// SET a value under a new name and GETDEL it, which is what a token is to Redis
    Redis {
        address: SocketAddr,
        #[arg(long, default_value_t = 64)]
        connections: u16,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Put consumptions into a store that no server uses
    Fill {
        /// The database; it is made if it is missing
        database: PathBuf,
        #[arg(long)]
        records: u64,
        /// How long ago the newest of their tokens was issued, in seconds; they live for five minutes
        #[arg(long, default_value_t = 300)]
        age: u64,
    },
}

fn main() -> Result<(), Failure> {
    let result = match Yardstick::parse() {
        Yardstick::Disk { dir, seconds, rate } => disk::wait_for(&dir, Duration::from_secs(seconds), rate)?,
        Yardstick::Redis { address, connections, seconds } => {
            redis::pairs(address, connections, Duration::from_secs(seconds))?
        }
        Yardstick::Fill { database, records, age } => fill::fill(&database, records, age)?,
    };
    println!("{result}");
    Ok(())
}

/// A histogram of microseconds, up to a minute.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// So many a second, and how long each took.
#[expect(clippy::cast_precision_loss, reason = "it is shown, not counted with")]
fn summary(times: &Histogram<u64>, took: Duration) -> Value {
    json!({
        "per_second": (times.len() as f64 / took.as_secs_f64()).round(),
        "p50_ms": times.value_at_quantile(0.5) as f64 / 1000.0,
        "p99_ms": times.value_at_quantile(0.99) as f64 / 1000.0,
    })
}
