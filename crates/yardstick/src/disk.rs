//! A disk that only waits: what any durable answer costs at least.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Failure, histogram, micros, summary};

/// Appends 4 KiB, waits until they are on disk, and so on.
pub(crate) fn wait_for(dir: &Path, time: Duration) -> Result<Value, Failure> {
    let path = dir.join("yardstick-disk");
    let mut file = File::create_new(&path)?;
    let waited = appends(&mut file, time);
    fs::remove_file(&path)?;
    waited
}

fn appends(file: &mut File, time: Duration) -> Result<Value, Failure> {
    let mut times = histogram()?;
    let start = Instant::now();
    let mut before = Duration::ZERO;
    while before < time {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        let after = start.elapsed();
        times.saturating_record(micros(after.saturating_sub(before)));
        before = after;
    }
    Ok(summary(&times, before))
}
