//! Randomness, passed in so that tests are repeatable.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The operating system gave no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes; nothing can be issued until it does")]
pub struct EntropyError;

/// A source of random bytes.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills `buffer` with unpredictable bytes.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError>;
}

/// The operating system's generator. It is asked every time: a generator of our own could repeat itself when a
/// virtual machine is cloned.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the machine for randomness"
    )]
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buffer).map_err(|_| EntropyError)
    }
}

/// A counter in place of randomness, so that a test gets the same ids every time. Never use it for keys that matter.
#[derive(Debug, Default)]
pub struct SequenceEntropy(AtomicU64);

impl Entropy for SequenceEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in buffer.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            for (to, from) in chunk.iter_mut().rev().zip(next.iter().rev()) {
                *to = *from;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(entropy: &dyn Entropy) -> [u8; 20] {
        let mut bytes = [0; 20];
        entropy.fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn random_bytes_never_repeat_and_counted_ones_do() {
        assert_ne!(filled(&OsEntropy), filled(&OsEntropy));
        let sequence = SequenceEntropy::default();
        let first = filled(&sequence);
        // Two whole numbers, and the low half of a third.
        assert_eq!(first, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_ne!(filled(&sequence), first);
        assert_eq!(filled(&SequenceEntropy::default()), first);
    }
}
