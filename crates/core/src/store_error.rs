//! Why a store does not do as asked.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::ClockError;

/// Why a store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Too much is waiting already; nothing was written. Ask again later.
    #[error("the store has more work waiting than it takes")]
    Busy,
    /// It cannot be reached, is full, read-only or damaged. The reason is for the operator, not for the network.
    #[error(transparent)]
    Unavailable(Unusable),
    /// The store's key ring is another one than the caller has; nothing was written. Read the ring, and decide anew.
    #[error("the key ring in the store has changed; ask again")]
    OtherRing,
    /// It is not used, because this machine's clock is wrong; nothing was written.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

impl StoreError {
    /// [`Unavailable`](Self::Unavailable), for a reason that no other error is the cause of.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(Unusable { reason: reason.into(), cause: None })
    }

    /// Its label in answers and metrics. It reveals nothing of the reason, which is for the operator.
    pub fn label(&self) -> &'static str {
        match self {
            // Another ring is one to ask again with, immediately.
            Self::Busy | Self::OtherRing => "busy",
            Self::Unavailable(_) => "store-unavailable",
            Self::Clock(_) => "clock",
        }
    }

    /// Why, for the operator, of something else than the store of tokens.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(why) => why.reason().to_owned(),
            Self::Busy | Self::OtherRing | Self::Clock(_) => self.to_string(),
        }
    }

    /// How long to wait before asking again is worth it.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Busy | Self::OtherRing => Duration::from_secs(1),
            Self::Unavailable(_) | Self::Clock(_) => Duration::from_secs(5),
        }
    }
}

/// Why a store is not usable: a sentence for the operator, and the error that it is about, as its source.
#[derive(Clone)]
pub struct Unusable {
    reason: String,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Unusable {
    /// The sentence says what `cause` means for the store, and what to do.
    pub fn because(reason: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { reason: reason.into(), cause: Some(Arc::new(cause)) }
    }

    /// The sentence.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self { reason, cause: None }
    }
}

impl PartialEq for Unusable {
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
    }
}

impl Eq for Unusable {}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store is not usable: {}", self.reason)
    }
}

impl fmt::Debug for Unusable {
    /// The cause is left out: what it holds beside its text is not ours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.reason)
    }
}

impl Error for Unusable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_label_and_pause() {
        let second = Duration::from_secs(1);
        for (error, label, pause) in [
            (StoreError::Busy, "busy", second),
            (StoreError::OtherRing, "busy", second),
            (StoreError::unavailable("full"), "store-unavailable", 5 * second),
            (StoreError::Clock(ClockError::New), "clock", 5 * second),
        ] {
            assert_eq!((error.label(), error.retry_after()), (label, pause), "{error}");
        }
    }

    #[test]
    fn reason_is_the_sentence_for_the_operator() {
        let full = StoreError::unavailable("the disk is full");
        assert_eq!(full.reason(), "the disk is full");
        assert_eq!(full.to_string(), "the store is not usable: the disk is full");
        assert_eq!(StoreError::Busy.reason(), StoreError::Busy.to_string());
    }

    #[test]
    fn cause_is_a_source_and_is_not_shown() {
        let because = Unusable::because("it cannot be read", std::io::Error::other("secret.db is gone"));
        assert_eq!(because.reason(), "it cannot be read");
        assert_eq!(because.source().unwrap().to_string(), "secret.db is gone");
        assert_eq!(format!("{because:?}"), "\"it cannot be read\"");
        assert_eq!(because, Unusable::from("it cannot be read".to_owned()));
        assert_ne!(because, Unusable::from("it is full".to_owned()));
        assert!(Unusable::from("it is full".to_owned()).source().is_none());
    }
}
