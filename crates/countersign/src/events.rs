//! `countersign events`: past events, new ones as they happen, and counts by tracker and caller.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use countersign_client::{EventsRequest, PrivateApi, StreamItem};
use countersign_core::seal::seems_to_have_token;
use countersign_core::{
    Audience, CallerName, Clock, DEFAULT_CALLER, EventName, KindFilter, SystemClock, UNBOUND, before,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::output::{Failure, member, print, print_json, print_while_read};
use crate::remote::ServerArgs;
use crate::settings::parse_duration;

pub(crate) const EVENTS_HELP: &str = "\
Kinds: issued, consumed, refused, revoked, replay, relay, key-rotated, key-revoked, fence-moved, credential-rejected, caller-denied. Several are separated by commas.

The oldest event comes first. Events name tokens by their ids, which `countersign token show` prints. A redemption \
comes from its record, with the time and the address. Issued tokens are kept as events only if the server's setting \
record_issued is on. --follow prints every event of that server from then on, issued tokens included, until Ctrl-C.

--by tracker and --by caller print a table in place of events: of each tracker or caller the last good handshake, and of the last hour \
(or --since 6h, 24h, 7d) tokens issued, handshakes by how they were answered, and how long half of them and 99 of 100 took. The table \
is what the server at --server did; others on the same store have tables of their own.";

/// How far back a table can go: the server's words for it, and how many hours each is.
const RANGES: [(&str, i64); 4] = [("1h", 1), ("6h", 6), ("24h", 24), ("7d", 7 * 24)];

/// The most events that the private API gives at once.
const PAGE: usize = 1000;

#[derive(Args, Debug)]
pub(crate) struct EventsCommand {
    /// Wait for new events and print each, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Print a table of the trackers that tokens are bound to, or of the callers that got them
    #[arg(long, value_name = "WHOM", conflicts_with_all = ["follow", "until", "id", "peer", "text", "tracker", "caller", "kind", "limit"])]
    by: Option<By>,
    /// Only events of this last period, such as 90s, 5m, 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_period)]
    since: Option<SignedDuration>,
    /// Only events older than this, such as 90s, 5m, 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_period, conflicts_with = "follow")]
    until: Option<SignedDuration>,
    /// Only events with this id: their own, that of their token or of their request
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only events that this address caused
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only events with this text in a tracker's URL, a user agent, or the name of a caller or a key
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only events about tokens that are bound to this tracker; `unbound` for those that are bound to none
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// Only events of this caller of the private API; `default` for the one without a name
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only these kinds, separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    kind: Vec<KindFilter>,
    /// Print at most this many, the newest; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print each event as one line of JSON, or the table as one document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// By what a table is.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum By {
    Tracker,
    Caller,
}

impl By {
    fn label(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::Caller => "caller",
        }
    }
}

/// Reads a duration, and also days: events are kept for weeks.
pub(crate) fn parse_period(text: &str) -> Result<SignedDuration, &'static str> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(SignedDuration::from_hours(24 * i64::from(days))),
        _ => parse_duration(text),
    }
}

fn parse_kind(label: &str) -> Result<KindFilter, String> {
    KindFilter::of_label(label).ok_or_else(|| {
        let known: Vec<_> = KindFilter::ALL.iter().map(|kind| kind.label()).collect();
        format!("the kinds are {}", known.join(", "))
    })
}

/// Checks an id here: a token in its place would end up in a URL, where it must not be. An invalid id is not quoted.
fn checked_id(id: Option<&String>) -> Result<Option<String>, Failure> {
    if id.is_some_and(|id| EventName::read(id).is_none()) {
        return Err(Failure::usage(
            "--id takes a UUID, as events and `countersign token show` have it, or the 16 hexadecimal digits of a request",
        ));
    }
    Ok(id.cloned())
}

/// Checks a text for the same reason.
fn checked_text(text: Option<&String>) -> Result<Option<String>, Failure> {
    if text.is_some_and(|text| seems_to_have_token(text)) {
        return Err(Failure::usage(
            "--text has a token in it, which no event has; --id takes the id that `countersign token show` prints for it",
        ));
    }
    Ok(text.cloned())
}

/// The moment so long before now.
pub(crate) fn ago(duration: Option<SignedDuration>, flag: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(duration) = duration else { return Ok(None) };
    let duration =
        Duration::try_from(duration).map_err(|_| Failure::usage(format!("{flag} cannot be negative")))?;
    Ok(Some(before(SystemClock.now(), duration)))
}

/// Checks whether it is a tracker, and that it has no token in it.
fn checked_tracker(tracker: Option<&String>) -> Result<Option<String>, Failure> {
    if tracker.is_some_and(|tracker| seems_to_have_token(tracker)) {
        return Err(Failure::usage(
            "--tracker has a token in it; it takes the base URL of a tracker, or `unbound`",
        ));
    }
    if tracker.is_some_and(|tracker| tracker != UNBOUND && Audience::parse(tracker).is_err()) {
        return Err(Failure::usage(
            "--tracker takes the base URL of a tracker, such as https://trac.example.org/, or `unbound`",
        ));
    }
    Ok(tracker.cloned())
}

/// Checks whether it can be the name of a caller.
fn checked_caller(caller: Option<&String>) -> Result<Option<String>, Failure> {
    if caller.is_some_and(|caller| caller != DEFAULT_CALLER && caller.parse::<CallerName>().is_err()) {
        return Err(Failure::usage(
            "--caller takes the name of a caller, such as worker-eu, or `default` for the one without a name",
        ));
    }
    Ok(caller.cloned())
}

pub(crate) async fn run(command: EventsCommand) -> Result<(), Failure> {
    if let Some(by) = command.by {
        return sum_up(by, &command).await;
    }
    let request = EventsRequest {
        kinds: command.kind.iter().map(|kind| kind.label().to_owned()).collect(),
        since: ago(command.since, "--since")?.map(|since| since.to_string()),
        until: ago(command.until, "--until")?.map(|until| until.to_string()),
        id: checked_id(command.id.as_ref())?,
        peer: command.peer.map(|peer| peer.to_string()),
        text: checked_text(command.text.as_ref())?,
        tracker: checked_tracker(command.tracker.as_ref())?,
        caller: checked_caller(command.caller.as_ref())?,
        ..EventsRequest::default()
    };
    let api = command.server.connect()?;
    if !command.follow {
        return show(&list(&api, request, command.limit).await?, command.json).map(drop);
    }
    tokio::select! {
        followed = follow(&api, request, &command) => followed,
        // The user ends it with Ctrl-C.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Prints what the server did for each tracker or caller.
async fn sum_up(by: By, command: &EventsCommand) -> Result<(), Failure> {
    let range = match command.since {
        None => "1h",
        Some(since) => RANGES
            .iter()
            .find(|(_, hours)| since == SignedDuration::from_hours(*hours))
            .map(|(name, _)| *name)
            .ok_or_else(|| Failure::usage("with --by, --since is one of 1h, 6h, 24h and 7d"))?,
    };
    let document = command.server.connect()?.summary(by.label(), range).await?;
    if command.json { print_json(&document) } else { print(table(&document)) }
}

/// The columns of a table, each with the member that it shows.
const COLUMNS: [(&str, &str); 9] = [
    ("", "name"),
    ("last good", "last_good"),
    ("issued", "issued"),
    ("good", "good"),
    ("refused", "refused"),
    ("replays", "replays"),
    ("relays", "relays"),
    ("p50", "p50_seconds"),
    ("p99", "p99_seconds"),
];

/// The widest a column gets. Longer values stick out.
const MAX_WIDTH: usize = 60;

/// A table for a person, with the reasons of refusals below each row that has some.
fn table(document: &Value) -> String {
    let rows = document.get("rows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let head = COLUMNS.map(|(title, _)| title.to_owned());
    let cells: Vec<_> = rows.iter().map(|row| COLUMNS.map(|(_, name)| cell(row, name))).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            let of = |row: &[String; COLUMNS.len()]| row.get(column).map_or(0, |cell| cell.chars().count());
            // One long URL is not to push every line out of the window.
            cells.iter().chain([&head]).map(of).filter(|width| *width <= MAX_WIDTH).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &[String; COLUMNS.len()]| {
        let columns = row.iter().zip(&widths).enumerate().map(|(nth, (cell, width))| match nth {
            0 | 1 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        columns.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![format!(
        "{}, from {} to {}:",
        member(document, "server"),
        moment(&member(document, "since")),
        moment(&member(document, "until"))
    )];
    lines.push(line(&head));
    for (row, cells) in rows.iter().zip(&cells) {
        lines.push(line(cells));
        let reasons = row.get("reasons").and_then(Value::as_object).into_iter().flatten();
        let mut facts: Vec<String> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
        if let Some(unanswered @ 1..) = row.get("unanswered").and_then(Value::as_u64) {
            facts.push(format!("not answered {unanswered}"));
        }
        if !facts.is_empty() {
            lines.push(format!("    {}", facts.join(", ")));
        }
    }
    if rows.is_empty() {
        lines.truncate(1);
        lines.push("no token was issued, and there was no handshake".to_owned());
    }
    lines.join("\n")
}

fn cell(row: &Value, name: &str) -> String {
    match (name, row.get(name)) {
        ("last_good", Some(_)) => moment(&member(row, name)),
        ("p50_seconds" | "p99_seconds", Some(seconds)) => {
            seconds.as_f64().map_or("-".to_owned(), |seconds| format!("{:.1} ms", 1000.0 * seconds))
        }
        _ => member(row, name),
    }
}

/// A moment to the second.
fn moment(text: &str) -> String {
    text.parse().map_or(text.to_owned(), |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

async fn follow(api: &PrivateApi, request: EventsRequest, command: &EventsCommand) -> Result<(), Failure> {
    // Open the stream before requesting the list, so no event is missed; an event in both is printed once.
    let mut stream = api.follow_events(&request).await?;
    let listed = list(api, request, command.limit).await?;
    let mut is_read = show(&listed, command.json)?;
    let mut told: HashSet<String> = listed.iter().map(|event| member(event, "id")).collect();
    // When the reader is gone, as after `| grep -m 1 replay`, this follower gives up its place.
    while is_read {
        let Some(news) = stream.next().await? else {
            return Err(Failure::failed("the server has stopped, so there is nothing to follow any more"));
        };
        match news {
            StreamItem::Event(event) if told.remove(&member(&event, "id")) => {}
            StreamItem::Event(event) => is_read = show(&[event], command.json)?,
            StreamItem::Missed(missed) => {
                let sentence = "events came too fast to be told; `countersign events` lists what was kept";
                Failure::failed(format!("{missed} {sentence}")).report();
            }
        }
    }
    Ok(())
}

/// The newest `limit` events, oldest first; 0 for all.
async fn list(api: &PrivateApi, mut request: EventsRequest, limit: usize) -> Result<Vec<Value>, Failure> {
    let mut left = if limit == 0 { usize::MAX } else { limit };
    let mut events = Vec::new();
    while left > 0 {
        request.limit = Some(left.min(PAGE));
        let document = api.events(&request).await?;
        let page = document.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
        // A page may have fewer than asked for.
        left = left.saturating_sub(page.len());
        events.extend(page);
        request.after = document.get("next").and_then(Value::as_str).map(str::to_owned);
        if request.after.is_none() {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

/// Prints events. Returns whether the reader is still there.
fn show(events: &[Value], json: bool) -> Result<bool, Failure> {
    if events.is_empty() {
        return Ok(true);
    }
    let lines: Vec<String> =
        events.iter().map(|event| if json { event.to_string() } else { line(event) }).collect();
    print_while_read(lines.join("\n"))
}

/// An event in a line, for a person.
fn line(event: &Value) -> String {
    let mut kind = member(event, "kind");
    if event.get("reason").is_some() {
        kind = format!("{kind} ({})", member(event, "reason"));
    }
    let at = member(event, "at");
    // Whole milliseconds, so that the columns stay in place.
    let at = at.parse::<Timestamp>().map_or(at, |at| format!("{at:.3}"));
    let mut line = format!("{at}  {kind:22}");
    let mut add = |what: String| {
        line.push_str("  ");
        line.push_str(&what);
    };
    match event.get("count").and_then(Value::as_u64) {
        None | Some(1) => {}
        Some(count) => add(format!("{count} more of them")),
    }
    for (name, before) in [
        ("token", "token "),
        ("peer", "by "),
        ("audience", "for "),
        ("caller", "caller "),
        ("stated", "stated "),
        ("key", "key "),
        ("fence", "to "),
    ] {
        if event.get(name).is_some() {
            add(format!("{before}{}", member(event, name)));
        }
    }
    if let Some(first) = event.get("first") {
        let by = if first.get("peer").is_some() {
            format!(" by {}", member(first, "peer"))
        } else {
            String::new()
        };
        add(format!("first used {}{by}", member(first, "at")));
    }
    for (name, before) in [("user_agent", "agent "), ("request", "request ")] {
        if event.get(name).is_some() {
            add(format!("{before}{}", member(event, name)));
        }
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn period_can_be_given_in_days() {
        assert_eq!(parse_period("7d"), Ok(SignedDuration::from_hours(7 * 24)));
        assert_eq!(parse_period("90m"), Ok(SignedDuration::from_mins(90)));
        for wrong in ["d", "-1d", "1.5d", "week"] {
            assert!(parse_period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn table_lists_every_result_with_its_reason() {
        let document = json!({
            "by": "tracker", "range": "1h", "since": "2026-01-31T11:00:00Z", "until": "2026-01-31T12:00:00.5Z",
            "server": "this server",
            "rows": [
                {
                    "name": "https://trac.example.org/", "last_good": "2026-01-31T11:59:03.7Z", "issued": 12, "good": 9,
                    "refused": 3, "reasons": { "expired": 2, "fenced": 1 }, "replays": 1, "relays": 0, "unanswered": 0,
                    "p50_seconds": 0.00128, "p99_seconds": 0.0512,
                },
                {
                    "name": "unattributed", "issued": 0, "good": 0, "refused": 0, "reasons": {}, "replays": 0, "relays": 0,
                    "unanswered": 2,
                },
            ],
        });
        assert_eq!(
            table(&document).lines().collect::<Vec<_>>(),
            [
                "this server, from 2026-01-31T11:00:00Z to 2026-01-31T12:00:00Z:",
                "                           last good             issued  good  refused  replays  relays     p50      p99",
                "https://trac.example.org/  2026-01-31T11:59:03Z      12     9        3        1       0  1.3 ms  51.2 ms",
                "    expired 2, fenced 1",
                "unattributed               -                          0     0        0        0       0       -        -",
                "    not answered 2",
            ]
        );
        let mut with_long = document.clone();
        with_long["rows"][1]["name"] = json!("u".repeat(400));
        let table_with_long = table(&with_long);
        assert_eq!(
            table_with_long.lines().nth(1).unwrap().len(),
            table(&document).lines().nth(1).unwrap().len()
        );
        let none = json!({ "rows": [], "server": "a", "since": "2026-01-31T11:00:00Z", "until": "2026-01-31T12:00:00Z" });
        assert!(table(&none).ends_with("no token was issued, and there was no handshake"));
    }

    #[test]
    fn event_is_printed_as_one_line() {
        let replay = json!({
            "id": "0", "at": "2026-01-31T12:00:00.5Z", "kind": "replay", "token": "019b", "peer": "192.0.2.1",
            "caller": "worker-eu", "count": 1, "first": { "at": "2026-01-31T11:59:00Z", "peer": "198.51.100.1" }, "user_agent": "curl/8",
            "request": "00ff",
        });
        assert_eq!(
            line(&replay),
            "2026-01-31T12:00:00.500Z  replay                  token 019b  by 192.0.2.1  caller worker-eu  first used \
             2026-01-31T11:59:00Z by 198.51.100.1  agent curl/8  request 00ff"
        );
        let many = json!({ "id": "0", "at": "2026-01-31T12:00:00Z", "kind": "refused", "reason": "unknown", "count": 7 });
        assert_eq!(line(&many), "2026-01-31T12:00:00.000Z  refused (unknown)       7 more of them");
    }
}
