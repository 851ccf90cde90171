//! As much of `SQLite`'s write-ahead log as is needed to damage it only where a power cut could.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#walformat>. A header of 32 bytes, then frames: 24 bytes of header and
//! a page. All numbers are big-endian.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;
use uuid::Uuid;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// A log as it was found on disk.
pub(crate) struct Wal {
    pub(crate) bytes: Vec<u8>,
    page: usize,
    /// Where each transaction's last frame ends, in order. The first is the end of the header: no transaction.
    commits: Vec<usize>,
    /// Where the last frame of this generation ends, committed or not.
    end: usize,
}

/// Which generation a log is of; changes whenever it is begun anew after a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt([u8; 8]);

impl Wal {
    /// Reads the log of a database. `None`: there is none, or it is empty.
    pub(crate) fn read(database: &Path) -> Option<Self> {
        Self::parse(fs::read(beside(database, "-wal")).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if !matches!(number(&bytes, 0)?, 0x377f_0682 | 0x377f_0683) {
            return None;
        }
        let page = usize::try_from(number(&bytes, 8)?).ok()?;
        let salt = bytes.get(16..24)?.to_vec();
        let mut commits = vec![HEADER];
        let mut end = HEADER;
        while let Some(frame) = bytes.get(end..end + FRAME_HEADER + page) {
            // A frame of an older generation was left behind by it, and means nothing.
            if frame.get(8..16) != Some(&*salt) {
                break;
            }
            end += frame.len();
            if number(frame, 4)? != 0 {
                commits.push(end);
            }
        }
        Some(Self { bytes, page, commits, end })
    }

    pub(crate) fn salt(&self) -> Salt {
        let mut salt = [0; 8];
        if let Some(found) = self.bytes.get(16..24) {
            salt.copy_from_slice(found);
        }
        Salt(salt)
    }

    /// Where the last frame of this generation ends.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// The bytes of frame number `n` from the start, if there is one.
    pub(crate) fn frame(&self, n: usize) -> Option<&[u8]> {
        let size = FRAME_HEADER + self.page;
        let from = HEADER + n * size;
        self.bytes.get(from..(from + size).min(self.end)).filter(|frame| frame.len() == size)
    }

    pub(crate) fn frames(&self) -> usize {
        (self.end - HEADER) / (FRAME_HEADER + self.page)
    }

    /// From where on a power cut could have done anything: the end of the last transaction, not before `floor`, that
    /// was surely on disk, because the answer to some token in it has been seen. A token's id stands in the page that
    /// records it as it is.
    pub(crate) fn unanswered_from(&self, floor: usize, database: &[u8], answered: &[Uuid]) -> usize {
        let missing: Vec<_> =
            answered.iter().filter(|id| memmem::find(database, id.as_bytes()).is_none()).collect();
        let holds_all = |end: &usize| {
            let kept = self.bytes.get(..*end).unwrap_or_default();
            missing.iter().all(|id| memmem::find(kept, id.as_bytes()).is_some())
        };
        let first = self.commits.iter().copied().filter(|end| *end >= floor).find(holds_all);
        match first {
            // A checkpoint begins only after the log is on disk: what it has copied was on disk.
            Some(from) if !self.is_copied(from, database) => from,
            _ => self.end,
        }
    }

    /// Where in the database the pages stand that the frames before `end` are new versions of, and how long a page is.
    /// They are written there by the next checkpoint; a power cut in its midst can leave them half written.
    pub(crate) fn pages(&self, end: usize) -> (Vec<usize>, usize) {
        let frames = self.bytes.get(HEADER..end).unwrap_or_default().chunks_exact(FRAME_HEADER + self.page);
        let numbers = frames.filter_map(|frame| usize::try_from(number(frame, 0)?).ok());
        let unique: BTreeSet<_> = numbers.map(|number| number.saturating_sub(1) * self.page).collect();
        (unique.into_iter().collect(), self.page)
    }

    /// Whether any page of the frames after `from` has been written to the database already.
    fn is_copied(&self, from: usize, database: &[u8]) -> bool {
        let size = FRAME_HEADER + self.page;
        let tail = self.bytes.get(from..self.end).unwrap_or_default();
        tail.chunks_exact(size).any(|frame| {
            let Some(number) = number(frame, 0).and_then(|number| usize::try_from(number).ok()) else {
                return false;
            };
            let at = number.saturating_sub(1) * self.page;
            database.get(at..at + self.page) == frame.get(FRAME_HEADER..)
        })
    }
}

/// The name of a file beside the database.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const A: Uuid = Uuid::from_u128(0xaaaa_0000_0000_0000_0000_0000_0000_0001);
    const B: Uuid = Uuid::from_u128(0xbbbb_0000_0000_0000_0000_0000_0000_0002);

    fn log(frames: &[(u32, u32, u8, Uuid)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [0x377f_0682, 3_007_000, 512, 0, 7, 7, 0, 0] {
            bytes.extend_from_slice(&u32::to_be_bytes(number));
        }
        for (number, commit, salt, id) in frames {
            for number in [*number, *commit, (*salt).into(), 7, 0, 0] {
                bytes.extend_from_slice(&u32::to_be_bytes(number));
            }
            let mut page = vec![0; PAGE];
            page[100..116].copy_from_slice(id.as_bytes());
            bytes.extend_from_slice(&page);
        }
        bytes
    }

    #[test]
    fn log_ends_with_its_generation() {
        let wal = Wal::parse(log(&[(1, 0, 7, A), (2, 2, 7, A), (2, 2, 6, B)])).unwrap();
        assert_eq!(wal.frames(), 2);
        assert_eq!(wal.commits, [32, 32 + 2 * 536]);
        assert!(wal.frame(1).is_some() && wal.frame(2).is_none());
        assert!(Wal::parse(Vec::new()).is_none());
        assert!(Wal::parse(vec![0; 100]).is_none());
    }

    #[test]
    fn answered_records_survive_damage() {
        let wal = Wal::parse(log(&[(1, 1, 7, A), (2, 2, 7, B)])).unwrap();
        let nothing = vec![0; 2 * PAGE];
        let after = |n: usize| 32 + n * 536;
        assert_eq!(wal.unanswered_from(32, &nothing, &[A, B]), after(2));
        assert_eq!(wal.unanswered_from(32, &nothing, &[A]), after(1));
        assert_eq!(wal.unanswered_from(32, &nothing, &[]), after(0));
        assert_eq!(wal.unanswered_from(after(1), &nothing, &[]), after(1), "what was there before stays");
    }

    #[test]
    fn checkpointed_records_survive_damage() {
        let bytes = log(&[(1, 1, 7, A), (2, 2, 7, B)]);
        let page_of_b = bytes[32 + 536 + 24..].to_vec();
        let wal = Wal::parse(bytes).unwrap();
        let database = [vec![0; PAGE], page_of_b].concat();
        assert_eq!(wal.unanswered_from(32, &database, &[A]), 32 + 2 * 536);
    }
}
