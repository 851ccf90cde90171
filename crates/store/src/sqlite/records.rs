//! The statements: ending a token's life, looking, the two watermarks, purging, counting.
//!
//! Those that write run inside a transaction of the writer; see `writer.rs`.

use std::net::IpAddr;

use countersign_core::{
    Consumption, EndResult, Ending, Horizon, RetryKeyHash, TokenId, from_millis, to_millis,
};
use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row};

use super::schema;

const CONSUMED: i64 = 0;
const REVOKED: i64 = 1;

/// How many rows one slice of a purge looks at. Handshakes wait for a slice, and for what it makes the log longer by: with
/// a thousand rows, some waited twice as long.
pub(super) const SLICE: u32 = 250;

/// The fence, in milliseconds since 1970, and the horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermarks {
    pub(super) fence: i64,
    pub(super) horizon: Horizon,
}

impl Watermarks {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("SELECT fence, cleared, horizon FROM store")?
            .query_row((), |row| Ok(Self { fence: row.get(0)?, horizon: read_horizon(row)? }))
    }

    /// The same of a database that an older version of the program uses.
    pub(super) fn read_of_any_version(connection: &Connection) -> rusqlite::Result<Self> {
        if schema::has_pair(connection)? {
            return Self::read(connection);
        }
        connection.query_row("SELECT fence, horizon - 1, horizon - 1 FROM store", (), |row| {
            Ok(Self { fence: row.get(0)?, horizon: read_horizon(row)? })
        })
    }

    /// What these watermarks say of a token that has no record.
    fn judge(self, id: TokenId, expires: Timestamp) -> EndResult {
        if to_millis(id.created()) < self.fence {
            EndResult::Fenced
        } else if self.horizon.is_beyond(id.created(), expires) {
            EndResult::Forgotten
        } else {
            EndResult::Recorded
        }
    }
}

/// The statement that adds records. A batch keeps it, so it is looked up only once.
pub(super) struct Insert<'c>(CachedStatement<'c>);

impl<'c> Insert<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let sql = "INSERT INTO endings (id, expires, early, kind, by, retry_key) VALUES (?, ?, ?, ?, ?, ?) \
                   ON CONFLICT DO NOTHING";
        connection.prepare_cached(sql).map(Self)
    }

    /// Adds a record, unless there is one. Returns how many it added.
    fn run(&mut self, id: TokenId, expires: Timestamp, ending: &Ending) -> rusqlite::Result<usize> {
        let (kind, at, by, retry_key) = match ending {
            Ending::Consumed(Consumption { at, by, retry_key }) => (CONSUMED, at, *by, retry_key.as_ref()),
            Ending::Revoked { at } => (REVOKED, at, None, None),
        };
        let early = to_millis(expires) - to_millis(*at);
        self.0.execute((
            id.as_bytes(),
            to_millis(expires),
            early,
            kind,
            by.map(Address),
            retry_key.map(RetryKeyHash::as_bytes),
        ))
    }
}

/// Records an ending, if there is none yet and the watermarks allow one. The insert decides; the row is read only to say
/// what was there before.
pub(super) fn end(
    connection: &Connection,
    insert: &mut Insert<'_>,
    watermarks: Watermarks,
    id: TokenId,
    expires: Timestamp,
    ending: &Ending,
) -> rusqlite::Result<EndResult> {
    let verdict = watermarks.judge(id, expires);
    if verdict != EndResult::Recorded {
        return Ok(find(connection, id)?.map_or(verdict, EndResult::Already));
    }
    if insert.run(id, expires, ending)? == 1 {
        return Ok(EndResult::Recorded);
    }
    find(connection, id)?.map(EndResult::Already).ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// How the token stands; changes nothing. Both reads must see the same moment: call it inside a transaction.
pub(super) fn look(connection: &Connection, id: TokenId, expires: Timestamp) -> rusqlite::Result<EndResult> {
    match find(connection, id)? {
        Some(ending) => Ok(EndResult::Already(ending)),
        None => Ok(Watermarks::read(connection)?.judge(id, expires)),
    }
}

fn find(connection: &Connection, id: TokenId) -> rusqlite::Result<Option<Ending>> {
    connection
        .prepare_cached("SELECT kind, expires - early, by, retry_key FROM endings WHERE id = ?")?
        .query_row((id.as_bytes(),), read_ending)
        .optional()
}

pub(super) fn read_ending(row: &Row<'_>) -> rusqlite::Result<Ending> {
    let at = from_millis(row.get(1)?);
    match row.get(0)? {
        CONSUMED => {
            let by = row.get::<_, Option<Address>>(2)?.map(|Address(by)| by);
            let retry_key = row.get::<_, Option<[u8; 16]>>(3)?.map(RetryKeyHash::from_bytes);
            Ok(Ending::Consumed(Consumption { at, by, retry_key }))
        }
        REVOKED => Ok(Ending::Revoked { at }),
        kind => Err(rusqlite::Error::IntegralValueOutOfRange(0, kind)),
    }
}

/// Reads the horizon, which is in the second and the third column.
fn read_horizon(row: &Row<'_>) -> rusqlite::Result<Horizon> {
    Ok(Horizon { created: from_millis(row.get(1)?), expires: from_millis(row.get(2)?) })
}

/// Moves the fence forward. Returns where it stands.
pub(super) fn move_fence(connection: &Connection, to: i64) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("UPDATE store SET fence = max(fence + 1, ?) RETURNING fence")?
        .query_row((to,), |row| row.get(0))
}

/// When the youngest token on record was created.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let id: Option<IdBytes> = connection
        .prepare_cached("SELECT id FROM endings ORDER BY id DESC LIMIT 1")?
        .query_row((), |row| row.get(0))
        .optional()?;
    Ok(id.map(|id| TokenId::from_bytes(id).created()))
}

/// Writes a value only to check that writing works.
pub(super) fn probe(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE store SET probed = ?")?.execute((now,)).map(drop)
}

/// The first id from `from` on, and before `until`, whose token expired before `cutoff`.
pub(super) fn first_expired(
    connection: &Connection,
    from: IdBytes,
    until: IdBytes,
    cutoff: i64,
) -> rusqlite::Result<Option<IdBytes>> {
    connection
        .prepare_cached(
            "SELECT id FROM endings WHERE id >= ? AND id < ? AND expires < ? ORDER BY id LIMIT 1",
        )?
        .query_row((from, until, cutoff), |row| row.get(0))
        .optional()
}

/// What a slice of a purge did.
#[derive(Clone, Copy, Debug)]
pub(super) struct PurgedSlice {
    /// How many records it removed.
    pub(super) removed: u64,
    /// Where the next one begins; `None`: there are no more.
    pub(super) next: Option<IdBytes>,
    /// Where the horizon stands now.
    pub(super) horizon: Horizon,
}

/// Looks at the [`SLICE`] rows from `from` on, and before `until`, removes those that expired before `cutoff`, and moves the
/// horizon over them.
pub(super) fn purge_slice(
    connection: &Connection,
    from: IdBytes,
    until: IdBytes,
    cutoff: i64,
) -> rusqlite::Result<PurgedSlice> {
    let next: Option<IdBytes> = connection
        .prepare_cached("SELECT id FROM endings WHERE id >= ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?")?
        .query_row((from, until, SLICE), |row| row.get(0))
        .optional()?;
    let slice = (from, next.unwrap_or(until), cutoff);
    let (last, expires): (Option<IdBytes>, Option<i64>) = connection
        .prepare_cached("SELECT max(id), max(expires) FROM endings WHERE id >= ? AND id < ? AND expires < ?")?
        .query_row(slice, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let created = last.map(|id| to_millis(TokenId::from_bytes(id).created()));
    let horizon = connection
        .prepare_cached(
            "UPDATE store SET cleared = max(cleared, ?), horizon = max(horizon, ?) RETURNING fence, cleared, horizon",
        )?
        .query_row((created.unwrap_or(0), expires.unwrap_or(0)), read_horizon)?;
    let removed = connection
        .prepare_cached("DELETE FROM endings WHERE id >= ? AND id < ? AND expires < ?")?
        .execute(slice)?;
    Ok(PurgedSlice { removed: u64::try_from(removed).unwrap_or(0), next, horizon })
}

/// The 16 bytes of an id.
pub(crate) type IdBytes = [u8; 16];

/// The first id that a token made at `millis` or later could have. `UUIDv7` begins with 48 bits of milliseconds.
pub(crate) fn first_id_at(millis: i64) -> IdBytes {
    let millis = u64::try_from(millis).unwrap_or(0).min((1 << 48) - 1);
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(millis.to_be_bytes().into_iter().skip(2)) {
        *to = from;
    }
    id
}

/// How many were consumed, and how many revoked.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT count(*) FILTER (WHERE kind = 0), count(*) FILTER (WHERE kind = 1) FROM endings";
    let (consumed, revoked): (i64, i64) =
        connection.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((consumed.unsigned_abs(), revoked.unsigned_abs()))
}

/// An address as 4 or 16 bytes.
pub(crate) struct Address(pub(crate) IpAddr);

impl ToSql for Address {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            IpAddr::V4(address) => address.octets().to_vec().into(),
            IpAddr::V6(address) => address.octets().to_vec().into(),
        })
    }
}

impl FromSql for Address {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        if let Ok(four) = <[u8; 4]>::try_from(bytes) {
            Ok(Self(IpAddr::from(four)))
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
            Ok(Self(IpAddr::from(sixteen)))
        } else {
            Err(FromSqlError::InvalidBlobSize { expected_size: 16, blob_size: bytes.len() })
        }
    }
}
