//! Metrics of the process from the operating system; on Linux only.

use std::fs;

/// How many ticks a second `/proc` counts in: 100 for every Linux program, independent of the kernel's own clock.
const TICKS_A_SECOND: f64 = 100.0;

/// The process, as far as the system tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) max_files: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
}

/// Looks.
pub(super) fn look() -> Process {
    Process {
        resident_bytes: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes),
        // The one that lists them is among them.
        open_files: fs::read_dir("/proc/self/fd").ok().and_then(|files| u64::try_from(files.count()).ok()),
        max_files: rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(soft, _)| soft),
        cpu_seconds: fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds),
    }
}

/// The line `VmRSS:   1234 kB` (proc(5), `/proc/pid/status`).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Fields 14 and 15, `utime` and `stime` (proc(5), `/proc/pid/stat`). The name before them may have spaces and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 * 1024 * 1024));
        assert_eq!(resident_bytes("Name:\ta\n"), None);
        let stat = "1 (a ) b) S 0 1 1 0 -1 4194560 100 0 0 0 250 150 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("1 (a"), None);
    }
}
