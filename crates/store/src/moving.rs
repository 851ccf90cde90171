//! Moving a store: another one takes over, and the two never both accept tokens.
//!
//! A store either serves, or it has been *handed over* to another one and refuses every server. A move has three steps,
//! and each is durable before the next one begins:
//!
//! 1. the target, which no server has used, is handed over to the source, so that no server begins to use it;
//! 2. the source is handed over to the target: it ends no token's life any more;
//! 3. the target's fence moves behind every token that the source has, or had, a record of; then the target serves.
//!
//! Run the command again to finish an interrupted move. Until step 2 the source serves; between 2 and 3 neither does.
//! Records are not copied; `docs/design/moving-a-store.md` says why.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{Clock, ClockError, Entropy, EntropyError, Horizon, StoreError, StoredRing, after};
use jiff::Timestamp;
use uuid::{Builder, Uuid};

/// Tells one run of the command from every other one.
///
/// After step 2 each of the two stores is handed over to the other, whichever way it goes. Had a run been held up there, the
/// operator could move back meanwhile; if it then made its target serve, both would. So a store keeps the id of the run that
/// changed it last, and serves only for that one. A run in the other direction has to hand the target over before the
/// source serves again, and so takes the target from this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveId(Uuid);

impl MoveId {
    /// An id that no other move has.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut random = [0; 16];
        entropy.fill(&mut random)?;
        Ok(Self(Builder::from_random_bytes(random).into_uuid()))
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store that can be the source or the target of a move. Each change is durable when the call returns, and may be repeated.
#[async_trait]
pub trait Movable: Send + Sync {
    /// The store that this one was handed over to; `None`: it serves.
    async fn handed_over_to(&self) -> Result<Option<String>, StoreError>;

    /// The key ring that a shared store keeps, locked.
    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        Ok(None)
    }

    /// Hands it over to `from`, to be the target of the move `id` from there.
    ///
    /// # Errors
    ///
    /// [`MoveError::TargetInUse`] if it serves and a server has used it; [`MoveError::TargetHandedOver`] if it was handed
    /// over to another store. Nothing has changed then.
    async fn reserve(&self, id: MoveId, from: &str) -> Result<(), MoveError>;

    /// Hands it over to `to`: when this returns, it ends no token's life any more, on any server. Returns a moment
    /// after the creation of every token that it has, or had, a record of. Every other move that has reserved it ends
    /// without effect, also if it was handed over before.
    ///
    /// # Errors
    ///
    /// If that moment is later than `latest`, and nothing has changed: a clock is, or was, wrong.
    async fn hand_over(&self, id: MoveId, to: &str, latest: Timestamp) -> Result<Timestamp, MoveError>;

    /// Serves in the place of `from`, with a fence that is no earlier than `fence`; a shared store with this key ring, or
    /// with none, so that its first server takes its key file in.
    ///
    /// # Errors
    ///
    /// [`MoveError::Changed`] if this move was not the last one to change it, unless it serves with such a fence already.
    async fn take_over(
        &self,
        id: MoveId,
        from: &str,
        fence: Timestamp,
        ring: Option<&StoredRing>,
    ) -> Result<(), MoveError>;
}

/// Why a store was not moved. Each text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The target is in use as a store.
    #[error("the store at --to serves, and a server has used it; name a new place with --to")]
    TargetInUse,
    /// Another store than the source has taken the target's place, and tokens that were used there are unknown here.
    #[error(
        "the store at --to was handed over to {0}, which is not the one at --from. Name a new place with --to, or move \
         from {0}"
    )]
    TargetHandedOver(String),
    /// Another store than the target has taken the source's place.
    #[error("the store at --from was handed over to {0} already; move from there, or complete that move")]
    HandedOver(String),
    /// Another move changed one of the stores meanwhile.
    #[error(
        "another move of one of the two stores was given meanwhile, and this one ended before its target served. If the other \
         one is complete, serve from its target; if no store serves, give the one command again whose target is to serve"
    )]
    Changed,
    /// There is no id for the move.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// One of the stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A source that was handed over, whose target does not serve yet.
#[derive(Debug)]
pub struct HandedOver {
    /// The move that the target was reserved for.
    pub id: MoveId,
    /// A moment after the creation of every token that the source has, or had, a record of.
    pub fence: Timestamp,
    /// The key ring that the source keeps. It does not change any more.
    pub ring: Option<StoredRing>,
}

/// Takes the first two steps. `from` and `to` are the [names](crate::backend::Backend::name) of the two stores. Returns
/// `None` if the move is complete already.
pub async fn hand_over(
    (source, from): (&dyn Movable, &str),
    (target, to): (&dyn Movable, &str),
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Option<HandedOver>, MoveError> {
    let id = MoveId::generate(entropy)?;
    let has_begun = match source.handed_over_to().await? {
        Some(other) if other != to => return Err(MoveError::HandedOver(other)),
        before => before.is_some(),
    };
    let latest = after(clock.now(), CLOCK_SKEW);
    match target.reserve(id, from).await {
        Err(MoveError::TargetInUse) if has_begun => {
            let fence = source.hand_over(id, to, latest).await?;
            // Changes nothing: the target serves, or is not reserved for this move.
            return match target.take_over(id, from, fence, None).await {
                Err(MoveError::Changed) => Err(MoveError::TargetInUse),
                done => done.map(|()| None),
            };
        }
        reserved => reserved?,
    }
    let fence = source.hand_over(id, to, latest).await?;
    Ok(Some(HandedOver { id, fence, ring: source.ring().await? }))
}

/// The moment that [`Movable::hand_over`] returns, for a store with these watermarks whose youngest record is of a token that
/// was created at `newest`.
pub(crate) fn fence_of_target(
    fence: Timestamp,
    horizon: Horizon,
    newest: Option<Timestamp>,
    latest: Timestamp,
) -> Result<Timestamp, MoveError> {
    let behind = |created| after(created, Duration::from_millis(1));
    let moment = newest.map_or(fence, behind).max(behind(horizon.created)).max(fence);
    if moment > latest {
        return Err(StoreError::Clock(ClockError::BehindRecords(moment)).into());
    }
    Ok(moment)
}
