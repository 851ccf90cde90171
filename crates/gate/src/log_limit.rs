//! Limits how many lines of the log, and how many events, strangers can cause.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use countersign_core::to_millis;
use jiff::Timestamp;

/// How many lines of one kind are written in a minute. The next line of that kind says how many were left out.
const LINES_EACH_MINUTE: u32 = 20;

const MINUTE_MILLIS: i64 = 60_000;

/// The lines of each kind in the present minute.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<BTreeMap<&'static str, Minute>>);

#[derive(Debug)]
struct Minute {
    began: i64,
    written: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether another line of this kind is written; if so, how many were left out before it.
    pub(crate) fn admit(&self, kind: &'static str, now: Timestamp) -> Option<u64> {
        let now = to_millis(now);
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = kinds.entry(kind).or_insert(Minute { began: now, written: 0, left_out: 0 });
        // A clock that stepped back begins another minute.
        if !(0..MINUTE_MILLIS).contains(&now.saturating_sub(minute.began)) {
            (minute.began, minute.written) = (now, 0);
        }
        if minute.written >= LINES_EACH_MINUTE {
            minute.left_out += 1;
            return None;
        }
        minute.written += 1;
        Some(std::mem::take(&mut minute.left_out))
    }

    /// Writes a warning of this kind, if it is to be written.
    pub(crate) fn warn(&self, kind: &'static str, now: Timestamp, what: &dyn Display) {
        if let Some(left_out) = self.admit(kind, now) {
            tracing::warn!(left_out, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_log_lines_leave_room_for_others() {
        let limit = LogLimit::default();
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let written =
            |kind, seconds| (0..1000).filter_map(|_| limit.admit(kind, at(seconds))).collect::<Vec<_>>();
        assert_eq!(written("forged", 0), [0; 20]);
        assert_eq!(written("replay", 59).len(), 20, "another kind");
        assert!(written("forged", 59).is_empty());
        let next = written("forged", 60);
        assert_eq!((next.len(), next[0], next[1]), (20, 1980, 0), "it says how many were left out");
        assert_eq!(written("forged", -100).len(), 20, "also when the clock steps back");
    }
}
