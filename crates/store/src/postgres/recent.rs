//! The lives that ended last, for people to look at.

use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{Ended, EndingQuery, MAX_LIFETIME, TokenId, after, before, to_millis};
use uuid::Uuid;

use super::fault::Failure;
use super::rows::{first_id_at, read_ending, unreadable};
use super::session::Session;
use super::sql::Query;

/// How many of the newest ids are looked at. Ids are in the order in which tokens were issued, and an index for the order
/// in which they ended would make every redemption dearer.
const LOOKED_AT: i64 = 200_000;

/// The endings that the query asks for, newest first.
pub(super) async fn endings(session: &mut Session, query: &EndingQuery) -> Result<Vec<Ended>, Failure> {
    // Nothing ends more than a lifetime after it was issued, nor, by more than what clocks may be apart, before.
    let first = first_id_at(to_millis(before(query.since, MAX_LIFETIME)));
    let (last, at, id) = match query.after {
        Some(cursor) => {
            let latest = first_id_at(to_millis(after(cursor.at, CLOCK_SKEW)).saturating_add(1));
            (latest, to_millis(cursor.at), Uuid::from_bytes(*cursor.id.as_bytes()))
        }
        None => (Uuid::max(), i64::MAX, Uuid::max()),
    };
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let since = to_millis(query.since);
    let rows = session
        .query(
            Query::Recent,
            &[&first, &last, &LOOKED_AT, &query.consumed, &query.revoked, &since, &at, &id, &limit],
        )
        .await?;
    let ended = rows.iter().map(|row| {
        let id: Uuid = row.try_get(4)?;
        Ok(Ended { id: TokenId::from_bytes(id.into_bytes()), ending: read_ending(row, 0)? })
    });
    ended.collect::<Result<_, tokio_postgres::Error>>().map_err(|error| unreadable(&error, session.place()))
}
