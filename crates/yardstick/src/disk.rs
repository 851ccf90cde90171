//! A disk that only waits: what any durable answer costs at least.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use countersign_bench::{Limit, Plan, Schedule};
use serde_json::Value;

use crate::{Failure, histogram, micros, summary};

/// Appends 4 KiB, waits until they are on disk, and so on: at once, or so many times a second by a timetable.
pub(crate) fn wait_for(dir: &Path, time: Duration, rate: Option<f64>) -> Result<Value, Failure> {
    if rate.is_some_and(|rate| !(1.0..=1e6).contains(&rate)) {
        return Err("--rate must be from 1 to 1000000".into());
    }
    let path = dir.join("yardstick-disk");
    let mut file = File::create_new(&path)?;
    let waited = appends(&mut file, time, rate);
    fs::remove_file(&path)?;
    waited
}

/// An append that the disk held up counts from when it was due, by the rule of `countersign bench`: a stall of the machine
/// then shows in all that it held up, not in one.
fn appends(file: &mut File, time: Duration, rate: Option<f64>) -> Result<Value, Failure> {
    let mut times = histogram()?;
    let mut schedule = Schedule::new(Plan { rate, warmup: Duration::ZERO, limit: Limit::Time(time) });
    let start = Instant::now();
    let mut now = Duration::ZERO;
    while let Some(slot) = schedule.next(now) {
        let wait = slot.due.saturating_sub(now);
        // Less than a millisecond, mostly, so that the runtime's timer would not do.
        thread::sleep(wait);
        let counts_from = slot.counts_from(start.elapsed(), !wait.is_zero());
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        now = start.elapsed();
        times.saturating_record(micros(now.saturating_sub(counts_from)));
    }
    Ok(summary(&times, now))
}
