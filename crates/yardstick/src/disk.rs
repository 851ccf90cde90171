//! A disk that only waits: what any durable answer costs at least.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Failure, histogram, micros, summary};

/// Appends 4 KiB, waits until they are on disk, and so on: at once, or so many times a second by a timetable.
pub(crate) fn wait_for(dir: &Path, time: Duration, rate: Option<f64>) -> Result<Value, Failure> {
    if rate.is_some_and(|rate| !(1.0..=1e6).contains(&rate)) {
        return Err("--rate must be from 1 to 1000000".into());
    }
    let path = dir.join("yardstick-disk");
    let mut file = File::create_new(&path)?;
    let waited = appends(&mut file, time, rate.map(|rate| Duration::from_secs_f64(1.0 / rate)));
    fs::remove_file(&path)?;
    waited
}

/// How late a sleep may end without its being the machine's stall: as much as `countersign bench` grants its timer.
const GRAIN: Duration = Duration::from_millis(2);

/// With a period, an append that the disk held up counts from when it was due, as `countersign bench --rate` counts: a
/// stall of the machine then shows in all that it held up, not in one.
fn appends(file: &mut File, time: Duration, period: Option<Duration>) -> Result<Value, Failure> {
    let mut times = histogram()?;
    let start = Instant::now();
    let (mut now, mut due) = (Duration::ZERO, Duration::ZERO);
    while now < time {
        let mut counts_from = now;
        if let Some(period) = period {
            if due > now {
                thread::sleep(due.saturating_sub(now));
                counts_from = start.elapsed().min(due + GRAIN);
            } else {
                counts_from = due;
            }
            due += period;
        }
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        now = start.elapsed();
        times.saturating_record(micros(now.saturating_sub(counts_from)));
    }
    Ok(summary(&times, now))
}
