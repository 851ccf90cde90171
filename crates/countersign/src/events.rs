//! `countersign events`: what happened, and what happens.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use countersign_client::{EventsRequest, PrivateApi, StreamItem};
use countersign_core::seal::seems_to_have_token;
use countersign_core::{Clock, EventName, KindFilter, SystemClock, before};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::output::{Failure, member, print};
use crate::remote::ServerArgs;
use crate::settings::parse_duration;

pub(crate) const EVENTS_HELP: &str = "\
Kinds: issued, consumed, refused, revoked, replay, relay, key-rotated, key-revoked, fence-moved, credential-rejected. Several are separated by commas.

The oldest event comes first. Events name tokens by their ids, which `countersign token show` prints. A redemption \
comes from its record, with the time and the address. Issued tokens are kept as events only if the server's setting \
record_issued is on. --follow prints every event of that server from then on, issued tokens included, until Ctrl-C.";

/// The most events that the private API gives at once.
const PAGE: usize = 1000;

#[derive(Args, Debug)]
pub(crate) struct EventsCommand {
    /// Wait for new events and print each, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only events of this last period, such as 90s, 5m or 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<SignedDuration>,
    /// Only events older than this, such as 90s, 5m or 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "follow")]
    until: Option<SignedDuration>,
    /// Only events with this id: their own, that of their token or of their request
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only events that this address caused
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only events with this text in a tracker's URL, a user agent or the name of a key
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only these kinds, separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    kind: Vec<KindFilter>,
    /// Print at most this many, the newest; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_kind(label: &str) -> Result<KindFilter, String> {
    KindFilter::of_label(label).ok_or_else(|| {
        let known: Vec<_> = KindFilter::ALL.iter().map(|kind| kind.label()).collect();
        format!("the kinds are {}", known.join(", "))
    })
}

/// Checks an id here: a token itself would go into an address, which is no place for it. What was given instead is not
/// repeated.
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
fn ago(duration: Option<SignedDuration>, flag: &str) -> Result<Option<String>, Failure> {
    let Some(duration) = duration else { return Ok(None) };
    let duration =
        Duration::try_from(duration).map_err(|_| Failure::usage(format!("{flag} cannot be negative")))?;
    Ok(Some(before(SystemClock.now(), duration).to_string()))
}

pub(crate) async fn run(command: EventsCommand) -> Result<(), Failure> {
    let request = EventsRequest {
        kinds: command.kind.iter().map(|kind| kind.label().to_owned()).collect(),
        since: ago(command.since, "--since")?,
        until: ago(command.until, "--until")?,
        id: checked_id(command.id.as_ref())?,
        peer: command.peer.map(|peer| peer.to_string()),
        text: checked_text(command.text.as_ref())?,
        ..EventsRequest::default()
    };
    let api = command.server.connect()?;
    if !command.follow {
        return show(&list(&api, request, command.limit).await?, command.json);
    }
    tokio::select! {
        followed = follow(&api, request, &command) => followed,
        // Whoever follows ends it so.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn follow(api: &PrivateApi, request: EventsRequest, command: &EventsCommand) -> Result<(), Failure> {
    // The stream is opened before the list is asked for, so that nothing falls between; what is in both is told once.
    let mut stream = api.follow_events(&request).await?;
    let listed = list(api, request, command.limit).await?;
    show(&listed, command.json)?;
    let mut told: HashSet<String> = listed.iter().map(|event| member(event, "id")).collect();
    while let Some(news) = stream.next().await? {
        match news {
            StreamItem::Event(event) if told.remove(&member(&event, "id")) => {}
            StreamItem::Event(event) => show(&[event], command.json)?,
            StreamItem::Missed(missed) => {
                let sentence = "events came too fast to be told; `countersign events` lists what was kept";
                Failure::failed(format!("{missed} {sentence}")).report();
            }
        }
    }
    Err(Failure::failed("the server has stopped, so there is nothing to follow any more"))
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

fn show(events: &[Value], json: bool) -> Result<(), Failure> {
    if events.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        events.iter().map(|event| if json { event.to_string() } else { line(event) }).collect();
    print(lines.join("\n"))
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
    fn an_event_is_a_line_with_what_matters_first() {
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
