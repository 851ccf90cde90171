//! What each tracker and each caller did lately, as JSON.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use countersign_core::seal::seems_to_have_token;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::activity::{By, Line, Party, RANGES, range};
use crate::history::Range;
use crate::problem::Problem;
use crate::sum::Sum;

/// What the trackers or the callers of one server did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SummaryDocument {
    /// `tracker` or `caller`.
    by: &'static str,
    /// `1h`, `6h`, `24h` or `7d`.
    range: &'static str,
    /// From when on the numbers count: the range, to the beginning of one of its parts, but nothing from before the server first
    /// kept them.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Up to when.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// The server whose numbers they are: others on the same store have their own.
    server: String,
    /// Those with replays or relay attempts first, then those with refusals, then those with the most handshakes; `other`
    /// and `unattributed` at the end.
    rows: Vec<SummaryRow>,
}

/// What one of them did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SummaryRow {
    /// The tracker's base URL, or the caller's name. `unbound` are tokens for any tracker, and `default` those of the caller
    /// without a name; `other` stands for all beyond the first 256, and `unattributed` handshakes without an authentic token.
    name: String,
    /// Whether `name` is a URL or a caller's name, and none of these words: a caller may be called `other`.
    named: bool,
    /// When a handshake was answered 200 last, also if that was before `since`; missing if none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_good: Option<Timestamp>,
    /// Tokens that were issued.
    issued: u64,
    /// Handshakes that were answered 200.
    good: u64,
    /// Handshakes that were refused, but for replays and relay attempts.
    refused: u64,
    /// The reasons for that, each with how often it was the one.
    reasons: BTreeMap<&'static str, u64>,
    /// Handshakes with a token that had been used.
    replays: u64,
    /// Handshakes of another tracker than the token is bound to. They count for the tracker that it is bound to.
    relays: u64,
    /// Handshakes that could not be answered (503).
    unanswered: u64,
    /// Within what time half of the handshakes were answered, in seconds: from the head of the request to the answer, the wait for
    /// the disk included, and not the network's part. Missing if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_seconds: Option<f64>,
    /// The same of 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
}

impl SummaryRow {
    fn of(by: By, Line { party, last_good, sum }: &Line) -> Self {
        Self {
            name: party.name(by).to_owned(),
            named: matches!(party, Party::Named(_)),
            last_good: *last_good,
            issued: sum.issued,
            good: sum.good(),
            refused: sum.refused(),
            reasons: sum.reasons().collect(),
            replays: sum.replays(),
            relays: sum.relays(),
            unanswered: sum.unanswered(),
            p50_seconds: seconds(sum, 50),
            p99_seconds: seconds(sum, 99),
        }
    }
}

fn seconds(sum: &Sum, percent: u64) -> Option<f64> {
    sum.latencies.percentile(percent).map(|took| took.as_secs_f64())
}

/// Sums up what this server did for each tracker, or for each caller: tokens issued, handshakes by how they were answered, how long
/// those took, and the last good one. Other servers on the same store have numbers of their own.
#[utoipa::path(
    get, path = "/v1/summary", tag = "events",
    params(
        ("by" = String, Query, description = "`tracker` or `caller`"),
        ("range" = Option<String>, Query, description = "how far back: `1h`, `6h`, `24h` or `7d`; the last hour when left out")
    ),
    responses((status = 200, body = SummaryDocument), (status = 400, body = Problem))
)]
pub(crate) async fn summary(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<SummaryDocument>, Problem> {
    let (by, range) = read(query.as_deref().unwrap_or_default())?;
    app.events.look_at_handshakes();
    let now = app.tokens.clock().now();
    let activity = app.events.activity();
    Ok(Json(SummaryDocument {
        by: by.label(),
        range: range.name,
        since: activity.since(range, now),
        until: now,
        server: app.label(),
        rows: activity.lines(by, range, now).iter().map(|line| SummaryRow::of(by, line)).collect(),
    }))
}

fn read(query: &str) -> Result<(By, &'static Range), Problem> {
    let wrong = |detail: &str| Problem::bad_request("query", detail.to_owned());
    let [hour, ..] = &RANGES;
    let (mut by, mut chosen, mut named) = (None, hour, HashSet::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !named.insert(name.clone().into_owned()) {
            return Err(wrong("A parameter is there twice."));
        }
        match &*name {
            "by" => by = By::of_label(&value),
            "range" => {
                chosen = range(&value).ok_or_else(|| {
                    wrong("range must be one of 1h, 6h, 24h and 7d; leave it out for the last hour.")
                })?;
            }
            _ => return Err(wrong("The parameters are by and range.")),
        }
    }
    Ok((by.ok_or_else(|| wrong("by must be tracker or caller."))?, chosen))
}

/// The filter that shows a row's events: the name of a parameter and its value. None for a URL that looks as if it had a token
/// in it, since no address may.
pub(crate) fn filter_of(by: By, party: &Party) -> Option<(&'static str, &str)> {
    match party {
        Party::Named(name) if seems_to_have_token(name) => None,
        Party::Named(_) | Party::Nameless => Some((by.label(), party.name(by))),
        Party::Other | Party::Unattributed => None,
    }
}
