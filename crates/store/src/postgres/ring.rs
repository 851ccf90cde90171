//! The key ring that the servers of the store share, locked with a secret that they have and the database has not.
//!
//! It is one row. Its version is in each row of `lines` as well, where the statement that records a batch finds it. A
//! change of the ring changes both in one transaction, which waits for the batches under way, as moving a watermark does.

use countersign_core::{KeyId, StoredRing};
use data_encoding::HEXLOWER;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::fault::Failure;
use super::rows::unreadable;
use super::session::Session;
use super::sql::Query;

/// The ring; `None` before the first one is written.
pub(super) async fn read(session: &mut Session) -> Result<Option<StoredRing>, Failure> {
    let rows = match session.query(Query::Ring, &[]).await {
        Ok(rows) => rows,
        // Tables that a node of an older version made.
        Err(failure) if failure.is(&[&SqlState::UNDEFINED_TABLE]) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let ring = rows.first().map(read_row).transpose();
    ring.map_err(|error| unreadable(&error, session.place())).map(Option::flatten)
}

fn read_row(row: &Row) -> Result<Option<StoredRing>, tokio_postgres::Error> {
    let by = row.try_get::<_, Option<String>>(1)?.and_then(|by| by.parse::<KeyId>().ok());
    let sealed = row.try_get::<_, Option<Vec<u8>>>(2)?;
    let ring = |(unlocked_by, sealed)| {
        Ok(StoredRing { version: row.try_get::<_, i64>(0)?.unsigned_abs(), unlocked_by, sealed })
    };
    by.zip(sealed).map(ring).transpose()
}

/// Puts a ring in the place of another one. Returns whether it is there, also if an earlier attempt of the same change,
/// whose answer was lost, has put it there.
pub(super) async fn replace(session: &mut Session, from: u64, ring: &StoredRing) -> Result<bool, Failure> {
    let sealed = HEXLOWER.encode(&ring.sealed);
    let script =
        session.sql().replace_ring(as_number(from), as_number(ring.version), ring.unlocked_by, &sealed);
    let there = session.script(&script, "there").await?;
    let there = there.first().and_then(Option::as_deref).and_then(|version| version.parse().ok());
    let there: i64 = there.ok_or_else(|| super::no_watermarks(session.place()))?;
    Ok(there == as_number(ring.version))
}

/// A version as the database has it.
pub(super) fn as_number(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}
