//! The lives that ended last, for people to look at.

use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{Ended, EndingQuery, MAX_LIFETIME, TokenId, after, before, to_millis};
use rusqlite::Connection;

use super::records::{IdBytes, first_id_at, read_ending};

/// How many records are looked at, from the token issued last backwards. Records are in the order in which tokens were
/// issued, and an index for the order in which they ended would make every redemption dearer. So a token that was
/// redeemed long after it was issued is not found if this many were issued since.
const LOOKED_AT: u32 = 200_000;

/// The endings that the query asks for, newest first.
pub(super) fn endings(connection: &Connection, query: &EndingQuery) -> rusqlite::Result<Vec<Ended>> {
    // Nothing ends more than a lifetime after it was issued, nor, by more than what clocks may be apart, before.
    let first = first_id_at(to_millis(before(query.since, MAX_LIFETIME)));
    let (last, cursor_at, cursor_id) = match query.after {
        Some(cursor) => {
            let latest = first_id_at(to_millis(after(cursor.at, CLOCK_SKEW)).saturating_add(1));
            (latest, to_millis(cursor.at), *cursor.id.as_bytes())
        }
        None => (IdBytes::from([0xff; 16]), i64::MAX, [0xff; 16]),
    };
    connection
        .prepare_cached(
            "SELECT kind, at, by, retry_key, id FROM \
             (SELECT kind, expires - early AS at, by, retry_key, id FROM endings \
              WHERE id >= ?1 AND id <= ?2 ORDER BY id DESC LIMIT ?3) \
             WHERE ((kind = 0 AND ?4) OR (kind = 1 AND ?5)) AND at >= ?6 AND (at, id) < (?7, ?8) \
             ORDER BY at DESC, id DESC LIMIT ?9",
        )?
        .query_map(
            (
                first,
                last,
                LOOKED_AT,
                query.consumed,
                query.revoked,
                to_millis(query.since),
                cursor_at,
                cursor_id,
                i64::try_from(query.limit).unwrap_or(i64::MAX),
            ),
            |row| Ok(Ended { id: TokenId::from_bytes(row.get(4)?), ending: read_ending(row)? }),
        )?
        .collect()
}
