//! The events that the page shows, as a file.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use countersign_core::Event;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::private::events::{Asked, EventDocument, Found, MAX_EVENTS, find};
use crate::problem::Problem;

use super::Page;
use super::wish::Wish;

/// How many events a file has at most, the newest.
pub const MAX_EXPORTED: usize = 100_000;

/// How many files are sent at a time. They have places of their own, so that slow ones take no place of the page.
pub const MAX_EXPORTS: usize = 4;

/// How long a file waits for its next events before it breaks off. A store that hangs would keep its place for ever.
const PATIENCE: Duration = Duration::from_secs(15);

/// The columns of a file of comma-separated values: the members of an event as JSON.
const COLUMNS: [&str; 16] = [
    "at",
    "kind",
    "reason",
    "count",
    "id",
    "token",
    "peer",
    "audience",
    "stated",
    "user_agent",
    "request",
    "first.at",
    "first.peer",
    "key",
    "fence",
    "caller",
];

/// `GET /page/events.jsonl`: an event in each line.
pub(crate) async fn json_lines(page: State<Arc<Page>>, query: RawQuery) -> Result<Response, Problem> {
    export(page, query, ("application/jsonl", "jsonl"), "", |event| {
        // Text that is made here is always valid.
        serde_json::to_string(&EventDocument::from(event)).unwrap_or_default() + "\n"
    })
}

/// `GET /page/events.csv`: the same as comma-separated values (RFC 4180).
pub(crate) async fn csv(page: State<Arc<Page>>, query: RawQuery) -> Result<Response, Problem> {
    let head = COLUMNS.join(",") + "\r\n";
    export(page, query, ("text/csv; charset=utf-8; header=present", "csv"), &head, row)
}

/// The file, a part at a time.
struct Export {
    page: Arc<Page>,
    /// What comes next; `None`: that was all.
    asked: Option<Asked>,
    left: usize,
    waiting: VecDeque<String>,
    line: fn(&Event) -> String,
    _room: OwnedSemaphorePermit,
}

fn export(
    State(page): State<Arc<Page>>,
    RawQuery(query): RawQuery,
    (media_type, ending): (&'static str, &'static str),
    head: &str,
    line: fn(&Event) -> String,
) -> Result<Response, Problem> {
    let room = Arc::clone(&page.exports).try_acquire_owned().map_err(|_| {
        let detail = "Too many files of events are being sent already; try again when one of them has ended.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-exports", detail)
    })?;
    let wish = Wish::read(query.as_deref().unwrap_or_default());
    let mut asked =
        wish.asked(page.app.tokens.clock().now()).map_err(|detail| Problem::bad_request("query", detail))?;
    asked.events.limit = MAX_EVENTS;
    let export = Export {
        page,
        asked: Some(asked),
        left: MAX_EXPORTED,
        waiting: VecDeque::from([head.to_owned()]),
        line,
        _room: room,
    };
    let parts = unfold(export, |mut export| async move { export.next().await.map(|part| (part, export)) });
    let headers = [
        (CONTENT_TYPE, media_type.to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"countersign-events.{ending}\"")),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

impl Export {
    /// The next part. An error breaks the answer off, so that a part is not taken for the whole.
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        while self.waiting.is_empty() {
            let asked = self.asked.take()?;
            let found = match self.find(&asked).await {
                Ok(found) => found,
                Err(why) => return Some(Err(io::Error::other(why))),
            };
            let part: String = found.events.iter().take(self.left).map(self.line).collect();
            self.left = self.left.saturating_sub(found.events.len());
            self.asked = found.next.filter(|_| self.left > 0).map(|place| asked.going_on(place));
            if !part.is_empty() {
                self.waiting.push_back(part);
            }
        }
        self.waiting.pop_front().map(|part| Ok(Bytes::from(part)))
    }

    /// The next events, unless the store takes too long or the server stops; `Err` says why there are none.
    async fn find(&self, asked: &Asked) -> Result<Found, String> {
        let app = &self.page.app;
        tokio::select! {
            () = app.events.ended() => Err("The server stops.".to_owned()),
            found = timeout(PATIENCE, find(app, asked)) => match found {
                Ok(found) => found.map_err(|problem| problem.detail().to_owned()),
                Err(_) => Err("The store has not answered.".to_owned()),
            },
        }
    }
}

fn row(event: &Event) -> String {
    let document = serde_json::to_value(EventDocument::from(event)).unwrap_or_default();
    let fields = COLUMNS.map(|column| {
        let value = column.split('.').try_fold(&document, |value, name| value.get(name));
        field(&match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
    });
    fields.join(",") + "\r\n"
}

/// A field. Strangers choose what is in some of them, and a spreadsheet would compute what begins like a formula.
fn field(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains(['"', ',', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields_are_escaped() {
        for (text, written) in [
            ("", ""),
            ("curl/8.5", "curl/8.5"),
            ("a, \"b\"", "\"a, \"\"b\"\"\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
        ] {
            assert_eq!(field(text), written);
        }
    }
}
