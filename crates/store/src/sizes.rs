//! How large the batches were that a store has committed.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_core::BATCH_SIZES;

/// Batches by their size: one count for each of [`BATCH_SIZES`], and one for those beyond.
#[derive(Debug, Default)]
pub(crate) struct Sizes([AtomicU64; BATCH_SIZES.len() + 1]);

impl Sizes {
    /// A batch of so many calls was committed.
    pub(crate) fn add(&self, calls: u64) {
        let class = BATCH_SIZES.partition_point(|&size| size < calls);
        if let Some(count) = self.0.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> [u64; BATCH_SIZES.len() + 1] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn a_batch_is_in_the_first_class_that_holds_it() {
        let sizes = Sizes::default();
        for calls in [1, 1, 2, 3, 4, 16, 17, 64, 256, 257, 1024] {
            sizes.add(calls);
        }
        assert_eq!(sizes.read(), [2, 1, 2, 0, 1, 2, 1, 2]);
    }
}
