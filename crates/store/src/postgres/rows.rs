//! Endings as the database's columns, and back.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use countersign_core::{
    Consumption, EndResult, Ending, Horizon, MAX_LIFETIME, RetryKeyHash, TokenId, from_millis, to_millis,
};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::fault::Failure;
use super::identity::DatabaseIdentity;
use super::ring::as_number;
use super::sql::Table;

const CONSUMED: i16 = 0;
const REVOKED: i16 = 1;

/// The fence, and the horizon as when the youngest token was created whose record was removed and the latest expiry of one;
/// in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermarks {
    pub(super) fence: i64,
    pub(super) cleared: i64,
    pub(super) horizon: i64,
}

impl Watermarks {
    /// Reads fence, creation and expiry, which are in this order from a column on.
    pub(super) fn read(row: &Row, column: usize) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            fence: row.try_get(column)?,
            cleared: row.try_get(column + 1)?,
            horizon: row.try_get(column + 2)?,
        })
    }

    pub(super) fn horizon(self) -> Horizon {
        Horizon { created: from_millis(self.cleared), expires: from_millis(self.horizon) }
    }
}

/// A token, as far as the store is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenKey {
    pub(super) id: TokenId,
    pub(super) created: i64,
    /// No later than the longest life allows, so that a table can be emptied by arithmetic alone.
    pub(super) expires: i64,
    /// The version of the key ring that it was opened with.
    pub(super) ring: i64,
}

impl TokenKey {
    pub(super) fn new(id: TokenId, expires: Timestamp, ring: u64) -> Self {
        let created = to_millis(id.created());
        let expires = to_millis(expires).min(created.saturating_add(longest_life()));
        Self { id, created, expires, ring: as_number(ring) }
    }

    pub(super) fn table(&self) -> Table {
        Table::of(self.id)
    }

    /// What these watermarks say of it, if it has no record.
    pub(super) fn judge(&self, watermarks: Watermarks) -> EndResult {
        if self.created < watermarks.fence {
            EndResult::Fenced
        } else if self.created <= watermarks.cleared && self.expires <= watermarks.horizon {
            EndResult::Forgotten
        } else {
            EndResult::Recorded
        }
    }
}

/// [`MAX_LIFETIME`] in milliseconds.
pub(super) fn longest_life() -> i64 {
    i64::try_from(MAX_LIFETIME.as_millis()).unwrap_or(i64::MAX)
}

/// The first id that a token made at `millis` or later could have. `UUIDv7` begins with 48 bits of milliseconds.
pub(super) fn first_id_at(millis: i64) -> Uuid {
    let millis = u128::try_from(millis).unwrap_or(0).min((1 << 48) - 1);
    Uuid::from_u128(millis << 80)
}

/// When the token with this id was created.
pub(super) fn created_at(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX)
}

pub(super) fn uuid(id: TokenId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// What a batch is called with.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchArguments<'a> {
    pub(super) nonce: i64,
    /// Which stripes the batch may take, see [`GROUPS`](super::sql::GROUPS).
    pub(super) group: i16,
    /// The database, as the node knows it.
    pub(super) known: &'a DatabaseIdentity,
    /// The version of the key ring.
    pub(super) ring: i64,
    pub(super) columns: &'a BatchColumns,
}

impl BatchArguments<'_> {
    /// As they stand in a statement of this name.
    pub(super) fn text(&self, name: &str) -> String {
        let mut text = self.columns.text(self.nonce, self.group, self.known.name());
        let _ = write!(text, ", {}, '{name}', {}, {}", self.ring, self.known.since, self.known.table);
        text
    }
}

/// The columns of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchColumns {
    pub(super) ids: Vec<Uuid>,
    pub(super) created: Vec<i64>,
    pub(super) expires: Vec<i64>,
    pub(super) ended: Vec<i64>,
    pub(super) kinds: Vec<i16>,
    pub(super) peers: Vec<Option<IpAddr>>,
    pub(super) retry_keys: Vec<Option<Vec<u8>>>,
}

impl BatchColumns {
    /// The columns as the arguments of a batch. They need no quoting: there are only digits, letters and what is between
    /// them.
    fn text(&self, nonce: i64, group: i16, identity: &str) -> String {
        // What a row takes, and what is around them.
        let mut text = String::with_capacity(self.ids.len() * 160 + 100);
        let _ = write!(text, "{nonce}, {group}::SMALLINT, '{identity}'");
        array(&mut text, &self.ids, Some);
        array(&mut text, &self.created, Some);
        array(&mut text, &self.expires, Some);
        array(&mut text, &self.ended, Some);
        array(&mut text, &self.kinds, Some);
        array(&mut text, &self.peers, |peer| peer.as_ref());
        array(&mut text, &self.retry_keys, |key| key.as_ref().map(|key| HEXLOWER.encode(key)));
        text
    }

    pub(super) fn push(&mut self, token: TokenKey, ending: &Ending) {
        let (kind, at, peer, retry_key) = match ending {
            Ending::Consumed(Consumption { at, by, retry_key }) => (CONSUMED, at, *by, retry_key.as_ref()),
            Ending::Revoked { at } => (REVOKED, at, None, None),
        };
        self.ids.push(uuid(token.id));
        self.created.push(token.created);
        self.expires.push(token.expires);
        self.ended.push(to_millis(*at));
        self.kinds.push(kind);
        self.peers.push(peer);
        self.retry_keys.push(retry_key.map(|key| key.as_bytes().to_vec()));
    }
}

fn array<'a, T, S: fmt::Display>(text: &mut String, values: &'a [T], show: impl Fn(&'a T) -> Option<S>) {
    text.push_str(", '{");
    for (n, value) in values.iter().enumerate() {
        text.push_str(if n == 0 { "" } else { "," });
        // Writing to a string does not fail.
        let _ = match show(value) {
            Some(value) => write!(text, "{value}"),
            None => write!(text, "NULL"),
        };
    }
    text.push_str("}'");
}

/// A row of [`Query::Look`](super::sql::Query::Look).
#[derive(Debug)]
pub(super) struct LookupRow {
    pub(super) watermarks: Watermarks,
    pub(super) id: Uuid,
    /// The version of the key ring.
    pub(super) ring: i64,
    /// The record, and the nonce of the batch that wrote it.
    pub(super) record: Option<(Ending, i64)>,
}

impl LookupRow {
    pub(super) fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let watermarks =
            Watermarks { fence: row.try_get(0)?, cleared: row.try_get(9)?, horizon: row.try_get(1)? };
        let (id, ring) = (row.try_get(2)?, row.try_get(8)?);
        if row.try_get::<_, Option<i16>>(3)?.is_none() {
            return Ok(Self { watermarks, id, ring, record: None });
        }
        let ending = read_ending(row, 3)?;
        Ok(Self { watermarks, id, ring, record: Some((ending, row.try_get(7)?)) })
    }
}

/// Reads kind, time, address and retry key, which are in this order from a column on.
pub(super) fn read_ending(row: &Row, column: usize) -> Result<Ending, tokio_postgres::Error> {
    let at = from_millis(row.try_get(column + 1)?);
    if row.try_get::<_, i16>(column)? == REVOKED {
        return Ok(Ending::Revoked { at });
    }
    let key: Option<&[u8]> = row.try_get(column + 3)?;
    let retry_key = key.and_then(|key| key.try_into().ok()).map(RetryKeyHash::from_bytes);
    Ok(Ending::Consumed(Consumption { at, by: row.try_get(column + 2)?, retry_key }))
}

/// How many endings there are of each kind: consumed and revoked.
pub(super) fn counts(rows: &[Row]) -> Result<(u64, u64), tokio_postgres::Error> {
    let (mut consumed, mut revoked) = (0, 0);
    for row in rows {
        let count = row.try_get::<_, i64>(1)?.unsigned_abs();
        if row.try_get::<_, i16>(0)? == REVOKED { revoked += count } else { consumed += count }
    }
    Ok((consumed, revoked))
}

/// A failure to read a row: the tables are not what they were.
pub(super) fn unreadable(error: &tokio_postgres::Error, place: &str) -> Failure {
    Failure::of_request(error, place)
}
