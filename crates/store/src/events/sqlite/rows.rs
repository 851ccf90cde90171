//! Events as rows: the statements that add, find and purge them.

use std::cmp::Ordering;
use std::net::IpAddr;

use countersign_core::{
    CallerName, Denial, Event, EventId, EventKind, EventName, EventQuery, FirstUse, KindFilter, NameFilter,
    Note, Reason, RequestId, TokenId, from_millis, kept_of, to_millis,
};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, TransactionBehavior, params_from_iter};

use super::file::has_callers;
use crate::sqlite::shared::{Address, first_id_at};

/// How many events one slice of a purge removes, so that appending need not wait for all of it.
const SLICE: i64 = 5000;

/// A kind as it stands in the table.
fn code(kind: KindFilter, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{}/{reason}", kind.label()),
        None => kind.label().to_owned(),
    }
}

/// Every code there is.
fn codes() -> impl Iterator<Item = (KindFilter, String)> {
    KindFilter::ALL.iter().flat_map(|&kind| {
        let reasons: Vec<Option<&str>> = match kind {
            KindFilter::Refused => Reason::ALL.iter().map(|reason| Some(reason.label())).collect(),
            KindFilter::CallerDenied => Denial::ALL.iter().map(|denial| Some(denial.label())).collect(),
            _ => vec![None],
        };
        reasons.into_iter().map(move |reason| (kind, code(kind, reason)))
    })
}

pub(super) fn insert(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let (line, first_by, note) = match &event.kind {
        EventKind::Replay(Some(first)) => (Some(first.at), first.by, None),
        EventKind::Relay { stated } => (None, None, stated.as_ref().map(|note| note.as_str().to_owned())),
        EventKind::KeyRotated { key } | EventKind::KeyRevoked { key } => (None, None, Some(key.to_string())),
        EventKind::FenceMoved { fence } => (Some(*fence), None, None),
        EventKind::Issued
        | EventKind::Consumed
        | EventKind::CredentialRejected
        | EventKind::CallerDenied(_)
        | EventKind::Refused(_)
        | EventKind::Revoked
        | EventKind::Replay(None) => (None, None, None),
    };
    connection
        .prepare_cached(
            "INSERT INTO events \
             (id, kind, token, audience, peer, user_agent, request, count, line, first_by, note, caller) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )?
        .execute((
            event.id.as_bytes(),
            code(event.kind.filter(), event.kind.reason()),
            event.token.as_ref().map(TokenId::as_bytes),
            &event.audience,
            event.peer.map(Address),
            event.user_agent.as_ref().map(Note::as_str),
            event.request.map(|RequestId(id)| id.cast_signed()),
            i64::try_from(event.count).unwrap_or(i64::MAX),
            line.map(to_millis),
            first_by.map(Address),
            note,
            event.caller.as_ref().map(CallerName::as_str),
        ))
        .map(drop)
}

pub(super) fn select(connection: &Connection, query: &EventQuery) -> rusqlite::Result<Vec<Event>> {
    // The file may have been written by an earlier version alone.
    let caller = if has_callers(connection)? { "caller" } else { "NULL" };
    let mut sql = format!(
        "SELECT id, kind, token, audience, peer, user_agent, request, count, line, first_by, note, {caller} \
         FROM events WHERE id >= ?"
    );
    let mut values = vec![Value::Blob(first_id_at(to_millis(query.since)).to_vec())];
    if let Some(after) = query.after {
        // An event's id begins with its moment. The cursor may be at the end of a token's life, whose id is the token's
        // and begins with another one; then all events of the cursor's moment come before it, or all after it.
        let at = to_millis(after.at);
        let bound = match after.id.made().cmp(&after.at) {
            Ordering::Equal => *after.id.as_bytes(),
            Ordering::Less => first_id_at(at),
            Ordering::Greater => first_id_at(at + 1),
        };
        sql.push_str(" AND id < ?");
        values.push(Value::Blob(bound.to_vec()));
    }
    if query.until < Timestamp::MAX {
        sql.push_str(" AND id < ?");
        values.push(Value::Blob(first_id_at(to_millis(query.until)).to_vec()));
    }
    match query.name {
        Some(EventName::Id(id)) => {
            sql.push_str(" AND (id = ? OR token = ?)");
            values.extend([Value::Blob(id.as_bytes().to_vec()), Value::Blob(id.as_bytes().to_vec())]);
        }
        Some(EventName::Request(RequestId(id))) => {
            sql.push_str(" AND request = ?");
            values.push(Value::Integer(id.cast_signed()));
        }
        None => {}
    }
    if let Some(peer) = query.peer {
        sql.push_str(" AND peer = ?");
        values.push(Value::Blob(match peer {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }));
    }
    if let Some(text) = &query.text {
        // SQLite's lower() knows ASCII alone. A missing value contains no text.
        let within =
            ["audience", "user_agent", "note", caller].map(|column| format!("instr(lower({column}), ?) > 0"));
        sql.extend([" AND (", &*within.join(" OR "), ")"]);
        values.extend(within.map(|_| Value::Text(text.to_ascii_lowercase())));
    }
    for (column, wanted) in [("audience", &query.tracker), (caller, &query.caller)] {
        match wanted {
            None => {}
            Some(NameFilter::Named(name)) => {
                sql.extend([" AND ", column, " = ?"]);
                values.push(Value::Text(name.clone()));
            }
            Some(NameFilter::Nameless) => sql.extend([" AND token IS NOT NULL AND ", column, " IS NULL"]),
        }
    }
    if !query.kinds.is_empty() {
        let wanted: Vec<Value> =
            codes().filter(|(kind, _)| query.wants(*kind)).map(|(_, code)| Value::Text(code)).collect();
        sql.push_str(" AND kind IN (");
        sql.push_str(&vec!["?"; wanted.len()].join(", "));
        sql.push(')');
        values.extend(wanted);
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::Integer(i64::try_from(query.limit).unwrap_or(i64::MAX)));
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), read)?;
    // A later version may know kinds that this one does not.
    rows.filter_map(Result::transpose).collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Event>> {
    let id = EventId::from_bytes(row.get(0)?);
    let code: String = row.get(1)?;
    let line: Option<i64> = row.get(8)?;
    let first_by = row.get::<_, Option<Address>>(9)?.map(|Address(by)| by);
    let note: Option<String> = row.get(10)?;
    let Some(kind) = kind_of(&code, line.map(from_millis), first_by, note.as_deref()) else {
        return Ok(None);
    };
    Ok(Some(Event {
        id,
        at: id.made(),
        kind,
        token: row.get::<_, Option<[u8; 16]>>(2)?.map(TokenId::from_bytes),
        audience: row.get(3)?,
        peer: row.get::<_, Option<Address>>(4)?.map(|Address(peer)| peer),
        user_agent: row.get::<_, Option<String>>(5)?.and_then(|text| Note::clean(text.as_bytes())),
        request: row.get::<_, Option<i64>>(6)?.map(|id| RequestId(id.cast_unsigned())),
        count: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(1),
        caller: row.get::<_, Option<String>>(11)?.and_then(|name| name.parse().ok()),
    }))
}

fn kind_of(
    code: &str,
    line: Option<Timestamp>,
    first_by: Option<IpAddr>,
    note: Option<&str>,
) -> Option<EventKind> {
    let (kind, reason) = match code.split_once('/') {
        Some((kind, reason)) => (kind, Some(reason)),
        None => (code, None),
    };
    Some(match KindFilter::of_label(kind)? {
        KindFilter::Issued => EventKind::Issued,
        KindFilter::Consumed => EventKind::Consumed,
        KindFilter::Refused => EventKind::Refused(Reason::of_label(reason?)?),
        KindFilter::Revoked => EventKind::Revoked,
        KindFilter::Replay => EventKind::Replay(line.map(|at| FirstUse { at, by: first_by })),
        KindFilter::Relay => EventKind::Relay { stated: note.and_then(|note| Note::clean(note.as_bytes())) },
        KindFilter::KeyRotated => EventKind::KeyRotated { key: note?.parse().ok()? },
        KindFilter::KeyRevoked => EventKind::KeyRevoked { key: note?.parse().ok()? },
        KindFilter::FenceMoved => EventKind::FenceMoved { fence: line? },
        KindFilter::CredentialRejected => EventKind::CredentialRejected,
        KindFilter::CallerDenied => EventKind::CallerDenied(Denial::of_label(reason?)?),
    })
}

/// Removes some of what is too old, or too many. Returns how many; 0: there is nothing left to remove.
pub(super) fn purge_slice(connection: &mut Connection, cutoff: Timestamp) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut removed = transaction
        .prepare_cached(
            "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id < ? ORDER BY id LIMIT ?)",
        )?
        .execute((first_id_at(to_millis(cutoff)), SLICE))?;
    for (kind, code) in codes() {
        // The newest one that is too many: it and everything before it goes.
        removed += transaction
            .prepare_cached(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE kind = ?1 AND id <= \
                 (SELECT id FROM events WHERE kind = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2) ORDER BY id LIMIT ?3)",
            )?
            .execute((&code, i64::try_from(kept_of(kind)).unwrap_or(i64::MAX), SLICE))?;
    }
    transaction.commit()?;
    if removed > 0 {
        connection.execute_batch("PRAGMA incremental_vacuum(1000)")?;
    }
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}
