//! Counts of what a store has written since it was opened, and the time of the last write.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use countersign_core::{BATCH_SIZES, StoreCounts};

/// In place of a time: never, or not since something failed.
const NEVER: i64 = i64::MIN;

/// What a store counts, and remembers of its last success.
#[derive(Debug)]
pub(crate) struct Counts {
    calls: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    /// Batches by their size: one count for each of [`BATCH_SIZES`], and one for those beyond.
    batches: [AtomicU64; BATCH_SIZES.len() + 1],
    /// When something was last written, in milliseconds, unless something failed since; [`NEVER`] then.
    written: AtomicI64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            calls: AtomicU64::default(),
            commits: AtomicU64::default(),
            failures: AtomicU64::default(),
            batches: Default::default(),
            written: AtomicI64::new(NEVER),
        }
    }
}

impl Counts {
    /// A batch of so many calls was committed.
    pub(crate) fn committed(&self, calls: usize) {
        let calls = u64::try_from(calls).unwrap_or(u64::MAX);
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        let class = BATCH_SIZES.partition_point(|&size| size < calls);
        if let Some(count) = self.batches.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A batch failed as a whole.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was written, and is durable.
    pub(crate) fn has_written(&self, now: i64) {
        self.written.store(now, Ordering::Release);
    }

    /// Something failed: what was written before says no longer whether writing works.
    pub(crate) fn forget_written(&self) {
        self.written.store(NEVER, Ordering::Release);
    }

    /// Whether something was written less than a second ago, and nothing has failed since.
    pub(crate) fn has_just_written(&self, now: i64) -> bool {
        match self.written.load(Ordering::Acquire) {
            NEVER => false,
            // A clock that stepped back says nothing about how long ago it was.
            written => (0..1000).contains(&now.saturating_sub(written)),
        }
    }

    /// All of it, beside how many calls wait now.
    pub(crate) fn read(&self, waiting: usize) -> StoreCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StoreCounts {
            calls: read(&self.calls),
            commits: read(&self.commits),
            failures: read(&self.failures),
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            batches: self.batches.each_ref().map(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn batch_is_counted_in_first_class_that_holds_it() {
        let counts = Counts::default();
        for calls in [1, 1, 2, 3, 4, 16, 17, 64, 256, 257, 1024] {
            counts.committed(calls);
        }
        let read = counts.read(3);
        assert_eq!(read.batches, [2, 1, 2, 0, 1, 2, 1, 2]);
        assert_eq!((read.commits, read.calls, read.waiting), (11, 1645, 3));
    }

    #[test]
    fn write_is_recent_for_a_second_unless_something_fails() {
        let counts = Counts::default();
        assert!(!counts.has_just_written(0));
        counts.has_written(5000);
        assert_eq!(
            [4999, 5000, 5999, 6000].map(|now| counts.has_just_written(now)),
            [false, true, true, false]
        );
        counts.forget_written();
        assert!(!counts.has_just_written(5000));
    }
}
