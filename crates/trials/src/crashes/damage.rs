//! What happens to the files between a crash and the next start, as far as a store can be asked to survive it.
//!
//! The log is on disk before an answer goes out, so a power cut can undo or garble only what nobody was answered about:
//! that part is cut off, overwritten, or followed by rubbish. The index of the log (`-shm`) is no data at all.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use uuid::Uuid;

use super::wal::{Salt, Wal, beside};
use crate::TrialError;

/// The longest rubbish behind the end of a log, in bytes; some frames.
const RUBBISH: usize = 16 * 1024;

/// What a disk writes in one piece, in bytes.
const SECTOR: usize = 512;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing; the process died and that is all.
    None,
    /// The log ends somewhere in the part that nobody was answered about.
    Cut,
    /// That part is overwritten with random bytes.
    Garble,
    /// Pages of the database, of which the log has a newer version, are half written.
    TearPages,
    /// Random bytes follow the last frame.
    AppendRubbish,
    /// Earlier frames of the same log follow the last one, once more.
    AppendFrames,
    /// The index is gone.
    RemoveIndex,
    /// The index is random bytes.
    GarbleIndex,
}

impl Damage {
    const ALL: [Self; 7] = [
        Self::Cut,
        Self::Garble,
        Self::TearPages,
        Self::AppendRubbish,
        Self::AppendFrames,
        Self::RemoveIndex,
        Self::GarbleIndex,
    ];

    /// None in half of the cases, and one of the others in the rest.
    pub(crate) fn choose(rng: &mut StdRng) -> Self {
        let choice = rng.random_range(0..2 * Self::ALL.len());
        Self::ALL.get(choice).copied().unwrap_or(Self::None)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing happened to the files",
            Self::Cut => "the unanswered end of the log was cut",
            Self::Garble => "the unanswered end of the log was overwritten",
            Self::TearPages => "pages that a checkpoint writes were torn",
            Self::AppendRubbish => "rubbish was written behind the log's last frame",
            Self::AppendFrames => "earlier frames were written behind the log's last frame",
            Self::RemoveIndex => "the log's index was removed",
            Self::GarbleIndex => "the log's index was overwritten",
        })
    }
}

/// What is known to be on disk before the load begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurablePrefix {
    salt: Option<Salt>,
    end: usize,
}

impl DurablePrefix {
    pub(crate) fn of(database: &Path) -> Self {
        match Wal::read(database) {
            Some(wal) => Self { salt: Some(wal.salt()), end: wal.end() },
            None => Self { salt: None, end: 0 },
        }
    }

    /// Whether the log was begun anew since: a checkpoint was completed.
    pub(crate) fn is_older_generation(self, wal: &Wal) -> bool {
        self.salt.is_some_and(|salt| salt != wal.salt())
    }
}

/// Does it. Returns whether frames of transactions that nobody was answered about were hit.
pub(crate) fn damage(
    damage: Damage,
    database: &Path,
    floor: DurablePrefix,
    answered: &[Uuid],
    rng: &mut StdRng,
) -> Result<bool, TrialError> {
    let (log, index) = (beside(database, "-wal"), beside(database, "-shm"));
    let Some(wal) = Wal::read(database) else { return Ok(false) };
    let floor = if floor.is_older_generation(&wal) { 0 } else { floor.end };
    let open = || OpenOptions::new().write(true).open(&log);
    match damage {
        Damage::None => {}
        Damage::Cut | Damage::Garble => {
            let from = wal.unanswered_from(floor, &fs::read(database)?, answered);
            if from >= wal.bytes.len() {
                return Ok(false);
            }
            let at = rng.random_range(from..wal.bytes.len());
            if damage == Damage::Cut {
                open()?.set_len(u64::try_from(at).unwrap_or(u64::MAX))?;
            } else {
                write_random(open()?, at, rng.random_range(1..=wal.bytes.len() - at), rng)?;
            }
            return Ok(at < wal.end());
        }
        Damage::TearPages => {
            let answered_until = wal.unanswered_from(floor, &fs::read(database)?, answered);
            let (pages, length) = wal.pages(answered_until);
            for page in pages.sample(rng, 3) {
                // The first bytes of the database are the same in every version of it.
                let from = *page + if *page == 0 { SECTOR } else { 0 };
                let at = from + SECTOR * rng.random_range(0..(*page + length - from) / SECTOR);
                write_random(OpenOptions::new().write(true).open(database)?, at, SECTOR, rng)?;
            }
        }
        Damage::AppendRubbish => write_random(open()?, wal.end(), rng.random_range(1..=RUBBISH), rng)?,
        Damage::AppendFrames => {
            let mut file = open()?;
            file.seek(SeekFrom::Start(u64::try_from(wal.end()).unwrap_or(u64::MAX)))?;
            let first = rng.random_range(0..wal.frames().max(1));
            for n in first..first + 3 {
                file.write_all(wal.frame(n).unwrap_or_default())?;
            }
        }
        Damage::RemoveIndex => fs::remove_file(index)?,
        Damage::GarbleIndex => {
            let length = usize::try_from(fs::metadata(&index)?.len()).unwrap_or(0);
            write_random(OpenOptions::new().write(true).open(index)?, 0, length, rng)?;
        }
    }
    Ok(false)
}

fn write_random(mut file: fs::File, at: usize, length: usize, rng: &mut StdRng) -> Result<(), TrialError> {
    let mut rubbish = vec![0; length];
    rng.fill_bytes(&mut rubbish);
    file.seek(SeekFrom::Start(u64::try_from(at).unwrap_or(u64::MAX)))?;
    file.write_all(&rubbish)?;
    Ok(())
}
