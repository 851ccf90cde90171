//! The endings that were recorded last, for operators.

use countersign_core::{EndedToken, EndingQuery, Endings, TokenId, to_millis};
use uuid::Uuid;

use super::fault::Failure;
use super::rows::{read_ending, unreadable, uuid};
use super::session::Session;
use super::sql::Query;

/// The endings that the query asks for, newest first.
pub(super) async fn endings(session: &mut Session, query: &EndingQuery) -> Result<Endings, Failure> {
    let (first, last) = query.ids();
    let (first, last) = (uuid(first), uuid(last));
    let (at, id) = match query.after {
        Some(cursor) => (to_millis(cursor.at), Uuid::from_bytes(*cursor.id.as_bytes())),
        None => (i64::MAX, Uuid::max()),
    };
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let look_at = i64::from(query.look_at);
    let (since, until) = (to_millis(query.since), to_millis(query.until));
    let rows = session
        .query(
            Query::Recent,
            &[
                &first,
                &last,
                &look_at,
                &query.consumed,
                &query.revoked,
                &since,
                &until,
                &query.by,
                &at,
                &id,
                &limit,
            ],
        )
        .await?;
    let ended = rows.iter().map(|row| {
        let id: Uuid = row.try_get(4)?;
        Ok(EndedToken { id: TokenId::from_bytes(id.into_bytes()), ending: read_ending(row, 0)? })
    });
    let found: Vec<EndedToken> = ended
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(|error| unreadable(&error, session.place()))?;
    if found.len() >= query.limit {
        return Ok(Endings { found, below: None });
    }
    let skipped = look_at.saturating_sub(1);
    let rows = session.query(Query::RecentEnd, &[&first, &last, &skipped]).await?;
    let below = match rows.first() {
        Some(row) => {
            let id: Uuid = row.try_get(0).map_err(|error| unreadable(&error, session.place()))?;
            Some(TokenId::from_bytes(id.into_bytes()))
        }
        None => None,
    };
    Ok(Endings { found, below })
}
