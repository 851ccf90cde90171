//! Moving a store: every record to another place, while tokens are live, and never two places that say yes.
//!
//! Each store remembers where it stands ([`CopyState`]): it serves, or it receives a copy, or it has been handed over.
//! A server opens only one that serves. A copy takes these steps, and each is durable before the next one begins:
//!
//! 1. the target, which is new or was handed over itself, *receives*;
//! 2. records are copied while the source goes on serving ([`Copy::bulk`]): most of the work;
//! 3. the source is *handed over*: from here on it ends no token's life any more;
//! 4. what has changed since step 2 is copied, and the two lines; both sides are read back and compared;
//! 5. the target *serves*.
//!
//! Whatever is cut short in between is gone on with by the same command again: before step 3 the source serves, until
//! step 5 neither does, after it the target does.

mod end;
mod open;

use std::fmt;

use countersign_core::{Entropy, EntropyError, Horizon, StoreError, TokenId};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

pub use self::end::{CopyEnd, Record};
pub use self::open::{name, owning, reading};

/// How many records travel at a time.
pub const PAGE: usize = 1000;

/// The name of a copy, which both stores remember, so that only its own target can go on from its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyId(String);

impl CopyId {
    fn generate(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut id = [0; 16];
        entropy.fill(&mut id)?;
        Ok(Self(HEXLOWER.encode(&id)))
    }

    /// The name that a store kept.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// For a store to keep.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a server may use a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It may.
    Serving {
        /// The copy that made it, if one did.
        made_by: Option<CopyId>,
    },
    /// It may not: a copy into it has begun and is not complete.
    Receiving {
        /// Which copy.
        copy: CopyId,
        /// From where.
        from: String,
    },
    /// It may not, for good: another store has taken its place.
    HandedOver {
        /// By which copy.
        copy: CopyId,
        /// Which one.
        to: String,
    },
}

/// What tokens a store refuses by their dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// Those created before.
    pub fence: Timestamp,
    /// Those whose records may have been removed.
    pub horizon: Horizon,
}

/// Why a store was not copied. Each text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The target is in use as a store.
    #[error(
        "{0} is a store that serves and is not empty, or a server has used it; what is in it would be mixed up with the \
         copy. Name a new place with --to"
    )]
    TargetServes(String),
    /// The target receives another copy.
    #[error("{to} is receiving a copy of {from}; complete that one, or remove {to} and start again")]
    TargetTaken {
        /// The target.
        to: String,
        /// Where its records come from.
        from: String,
    },
    /// The target was handed over to somewhere else, and its records may not be complete there.
    #[error(
        "{to} was handed over to {taken_by}, which {from} is not: its records may be missing from there still. Name a new \
         place with --to; or, when {taken_by} serves, remove {to} yourself"
    )]
    TargetHandedOver {
        /// The target.
        to: String,
        /// Who has taken its place.
        taken_by: String,
        /// The source.
        from: String,
    },
    /// The source was handed over to somewhere else.
    #[error("{from} has been handed over to {to} already; copy from there, or complete that copy")]
    HandedOver {
        /// The source.
        from: String,
        /// Who has taken its place.
        to: String,
    },
    /// The source was handed over, and the target knows nothing of it.
    #[error(
        "{from} has been handed over to {to}, and what is there now does not know of it; put the target of that copy back"
    )]
    TargetLost {
        /// The source.
        from: String,
        /// The target.
        to: String,
    },
    /// The source is incomplete itself.
    #[error("{0} is itself the target of a copy that is not complete; complete that one first")]
    SourceIncomplete(String),
    /// Both sides know the same token, and not the same of it.
    #[error(
        "both stores have a record of token {0}, and they differ; one of them is not what it should be. Nothing was \
         overwritten"
    )]
    Conflict(TokenId),
    /// The comparison failed.
    #[error(
        "after the copy the two stores differ ({there} against {here}); neither serves. Run the same command again, \
         and if that does not help, look for damage with `countersign doctor`"
    )]
    Differs {
        /// What the source has.
        there: Box<Summary>,
        /// What the target has.
        here: Box<Summary>,
    },
    /// A store's state changed under the copy.
    #[error("the store is not in the state that this copy left it in; run the same command again")]
    Changed,
    /// One of the stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// What is in a store, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many records.
    pub records: u64,
    /// The lines.
    pub lines: Lines,
    /// The SHA-256 of all records in the order of their ids, in hexadecimal digits. [`Record::write`] says of what.
    pub digest: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, lines, digest } = self;
        write!(
            f,
            "{records} records, fence {}, horizon {}, digest {}",
            lines.fence,
            lines.horizon.expires,
            digest.get(..16).unwrap_or_default()
        )
    }
}

/// Is told how many records more have been dealt with.
pub trait Progress: Send + Sync {
    /// So many more.
    fn advance(&self, records: usize);
}

impl Progress for () {
    fn advance(&self, _: usize) {}
}

/// A copy that has begun.
#[derive(Clone, Debug)]
pub struct Copy {
    id: CopyId,
    from: String,
    to: String,
}

/// How a copy stands.
#[derive(Clone, Debug)]
pub enum Begun {
    /// It is to be done, or to be gone on with.
    Copy(Copy),
    /// It has been done before: the target serves.
    Done,
}

impl Copy {
    /// Has the target receive, or finds out how far an earlier run came. `from` and `to` are what people call the two.
    pub async fn begin(
        source: &dyn CopyEnd,
        from: &str,
        target: &dyn CopyEnd,
        to: &str,
        entropy: &dyn Entropy,
    ) -> Result<Begun, CopyError> {
        let (source_state, target_state) = (source.state().await?, target.state().await?);
        let copy = |id: CopyId| Self { id, from: from.to_owned(), to: to.to_owned() };
        match (source_state, target_state) {
            (CopyState::Receiving { .. }, _) => Err(CopyError::SourceIncomplete(from.to_owned())),
            (CopyState::HandedOver { copy: id, .. }, CopyState::Receiving { copy: other, .. })
                if id == other =>
            {
                Ok(Begun::Copy(copy(id)))
            }
            (CopyState::HandedOver { copy: id, .. }, CopyState::Serving { made_by: Some(other) })
                if id == other =>
            {
                Ok(Begun::Done)
            }
            (CopyState::HandedOver { to: other, .. }, _) if other == to => {
                Err(CopyError::TargetLost { from: from.to_owned(), to: other })
            }
            (CopyState::HandedOver { to: other, .. }, _) => {
                Err(CopyError::HandedOver { from: from.to_owned(), to: other })
            }
            (CopyState::Serving { .. }, CopyState::Receiving { copy: id, from: other }) => {
                if other == from {
                    Ok(Begun::Copy(copy(id)))
                } else {
                    Err(CopyError::TargetTaken { to: to.to_owned(), from: other })
                }
            }
            // What was handed over may hold the only records that there are, as long as its own copy is incomplete. One
            // that serves shows that it was completed.
            (CopyState::Serving { made_by }, CopyState::HandedOver { copy: other, to: taken_by })
                if made_by.as_ref() != Some(&other) =>
            {
                Err(CopyError::TargetHandedOver { to: to.to_owned(), taken_by, from: from.to_owned() })
            }
            (CopyState::Serving { .. }, CopyState::Serving { .. } | CopyState::HandedOver { .. }) => {
                let id = CopyId::generate(entropy)?;
                if target.receive(&id, from).await? {
                    Ok(Begun::Copy(copy(id)))
                } else {
                    Err(CopyError::TargetServes(to.to_owned()))
                }
            }
        }
    }

    /// Copies what the target does not have yet, while the source goes on.
    pub async fn bulk(
        &self,
        source: &dyn CopyEnd,
        target: &dyn CopyEnd,
        progress: &dyn Progress,
    ) -> Result<(), CopyError> {
        let after = target.last_id().await?;
        self.pass(source, target, after, progress).await
    }

    /// Hands the source over, copies what has changed, compares, and has the target serve. Nobody else may end tokens'
    /// lives in the source once [`CopyEnd::hand_over`] has returned.
    pub async fn finish(
        &self,
        source: &dyn CopyEnd,
        target: &dyn CopyEnd,
        progress: &dyn Progress,
    ) -> Result<Summary, CopyError> {
        self.hand_over(source).await?;
        let lines = source.lines().await?;
        target.set_lines(&self.id, lines).await?;
        target.set_ring(&self.id, source.ring().await?.as_ref()).await?;
        self.pass(source, target, None, progress).await?;
        let (ours, theirs) = (summarize(source).await?, summarize(target).await?);
        if ours != theirs {
            return Err(CopyError::Differs { there: Box::new(ours), here: Box::new(theirs) });
        }
        target.serve(&self.id).await?;
        Ok(theirs)
    }

    /// Hands the source over: from here on neither its records nor its key ring change. [`finish`](Self::finish) does it, too.
    pub async fn hand_over(&self, source: &dyn CopyEnd) -> Result<(), CopyError> {
        source.hand_over(&self.id, &self.to).await
    }

    /// Makes the target's records after `after` those of the source.
    async fn pass(
        &self,
        source: &dyn CopyEnd,
        target: &dyn CopyEnd,
        mut after: Option<TokenId>,
        progress: &dyn Progress,
    ) -> Result<(), CopyError> {
        loop {
            let page = source.records_after(after, PAGE).await?;
            let until = if page.len() < PAGE { None } else { page.last().map(|record| record.id) };
            target.replace(&self.id, after, until, &page).await?;
            progress.advance(page.len());
            match until {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Its name.
    pub fn id(&self) -> &CopyId {
        &self.id
    }

    /// What people call the source.
    pub fn from(&self) -> &str {
        &self.from
    }
}

/// Reads a whole store.
pub async fn summarize(store: &dyn CopyEnd) -> Result<Summary, CopyError> {
    let (mut digest, mut records, mut after) = (Sha256::new(), 0, None);
    loop {
        let page = store.records_after(after, PAGE).await?;
        let mut bytes = Vec::with_capacity(page.len() * 48);
        for record in &page {
            record.write(&mut bytes);
        }
        digest.update(&bytes);
        records += u64::try_from(page.len()).unwrap_or(u64::MAX);
        match page.last() {
            Some(last) => after = Some(last.id),
            None => break,
        }
    }
    let digest = HEXLOWER.encode(&digest.finalize());
    Ok(Summary { records, lines: store.lines().await?, digest })
}
