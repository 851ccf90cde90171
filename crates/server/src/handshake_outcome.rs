//! How a handshake was answered, as counters, charts and tables tell it apart.

use countersign_core::StoreError;

/// How a handshake was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandshakeOutcome<'a> {
    /// 200, and the token is consumed.
    Accepted,
    /// 200 again, to the same `Idempotency-Key`.
    Repeated,
    /// The label of a refusal.
    Rejected(&'static str),
    /// 503.
    Unanswered(&'a StoreError),
}

impl HandshakeOutcome<'_> {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Repeated => "repeated",
            Self::Rejected(reason) => reason,
            Self::Unanswered(error) => error.label(),
        }
    }

    /// Its place among [`OUTCOMES`].
    pub(crate) fn place(self) -> usize {
        let label = self.label();
        OUTCOMES.iter().position(|known| *known == label).unwrap_or(OUTCOMES.len())
    }
}

/// The label of every outcome, so that each series begins at 0 and not with its first event, which a rate would not see.
pub(crate) const OUTCOMES: [&str; 15] = [
    "accepted",
    "repeated",
    "replay",
    "audience-mismatch",
    "expired",
    "audience-missing",
    "audience-unreadable",
    "from-the-future",
    "fenced",
    "revoked",
    "method",
    "unknown",
    "busy",
    "store-unavailable",
    "clock",
];
