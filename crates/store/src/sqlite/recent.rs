//! The endings that were recorded last, for operators.

use countersign_core::{EndedToken, EndingQuery, Endings, TokenId, to_millis};
use rusqlite::{Connection, OptionalExtension};

use super::records::{Address, read_ending};

/// The endings that the query asks for, newest first.
pub(super) fn endings(connection: &Connection, query: &EndingQuery) -> rusqlite::Result<Endings> {
    let (first, last) = query.ids();
    let (cursor_at, cursor_id) = match query.after {
        Some(cursor) => (to_millis(cursor.at), *cursor.id.as_bytes()),
        None => (i64::MAX, [0xff; 16]),
    };
    let found: Vec<EndedToken> = connection
        .prepare_cached(
            "SELECT kind, at, by, retry_key, id FROM \
             (SELECT kind, expires - early AS at, by, retry_key, id FROM endings \
              WHERE id >= ?1 AND id <= ?2 ORDER BY id DESC LIMIT ?3) \
             WHERE ((kind = 0 AND ?4) OR (kind = 1 AND ?5)) AND at >= ?6 AND at < ?7 AND (?8 IS NULL OR by = ?8) \
             AND (at, id) < (?9, ?10) ORDER BY at DESC, id DESC LIMIT ?11",
        )?
        .query_map(
            (
                first.as_bytes(),
                last.as_bytes(),
                query.look_at,
                query.consumed,
                query.revoked,
                to_millis(query.since),
                to_millis(query.until),
                query.by.map(Address),
                cursor_at,
                cursor_id,
                i64::try_from(query.limit).unwrap_or(i64::MAX),
            ),
            |row| Ok(EndedToken { id: TokenId::from_bytes(row.get(4)?), ending: read_ending(row)? }),
        )?
        .collect::<Result<_, _>>()?;
    if found.len() >= query.limit {
        return Ok(Endings { found, below: None });
    }
    let below = connection
        .prepare_cached(
            "SELECT id FROM endings WHERE id >= ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3",
        )?
        .query_row((first.as_bytes(), last.as_bytes(), query.look_at.saturating_sub(1)), |row| row.get(0))
        .optional()?;
    Ok(Endings { found, below: below.map(TokenId::from_bytes) })
}
