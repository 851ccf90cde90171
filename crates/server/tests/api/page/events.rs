//! The list of events on the page: filters, pages of the list, and exports.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::StatusCode;
use countersign_core::{Event, EventQuery, EventStore, StoreError};
use countersign_server::limits::{MAX_EXPORTS, MAX_VIEWERS};
use http_body_util::BodyExt;
use jiff::Timestamp;

use super::{get, page, server};
use crate::fixture::{Fixture, Options, handshake_path, post};

#[tokio::test(start_paused = true)]
async fn events_are_filtered_and_paged() {
    let server = server();
    let token = server.token();
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(1));
        server.handshake(&token).await;
    }
    server.handshake("cs1nonsense").await;
    let usual = page(&server, "/").await;
    assert_eq!(usual.matches("<strong>replay</strong>").count(), 2);
    assert!(usual.contains("<strong>refused: unknown</strong>"));
    assert!(!usual.contains("<strong>consumed</strong>"), "what is routine hides nothing else: {usual}");
    assert!(usual.contains("Filter: every kind but issued and consumed"), "{usual}");
    let consumed = page(&server, "/?kind=consumed").await;
    assert_eq!(consumed.matches("</time></a> <strong>consumed</strong>").count(), 1);
    let replays = page(&server, "/?kind=replay&limit=1").await;
    assert_eq!(replays.matches("</time></a> <strong>").count(), 1);
    assert!(replays.contains("value=\"replay\" checked"), "{replays}");
    let (_, rest) = replays.split_once("<a href=\"?kind=replay&#38;limit=1&#38;after=").unwrap();
    let older = format!("/?kind=replay&limit=1&after={}", rest.split_once('#').unwrap().0);
    let older = page(&server, &older).await;
    assert_eq!(older.matches("<strong>replay</strong>").count(), 1);
    assert!(older.contains("<a href=\"?kind=replay&#38;limit=1#events-title\">Newest</a>"), "{older}");
    for (wrong, says) in
        [("kind=other", "no such kind"), ("id=cs1secret", "16 hexadecimal"), ("since=x", "in UTC")]
    {
        let answer = server.private(get(&format!("/?{wrong}"))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(
            answer.text.contains(says) && answer.text.contains("All is well")
                || answer.text.contains("replays")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rare_event_is_found_among_many_redemptions() {
    let server = server();
    let rare = server.token();
    server.handshake(&rare).await;
    server.clock.advance(Duration::from_millis(1));
    server.handshake(&rare).await;
    for _ in 0..400 {
        server.clock.advance(Duration::from_millis(3));
        server.handshake(&server.token()).await;
    }
    let id = server.look(&rare).await["id"].as_str().unwrap().to_owned();
    let usual = page(&server, "/").await;
    assert_eq!(usual.matches("</time></a> <strong>").count(), 1, "{usual}");
    let event = usual.split_once("<dt>event</dt> <dd>").unwrap().1.split_once('<').unwrap().0.to_owned();
    for (query, kinds) in [
        (format!("id={id}"), vec!["replay", "consumed"]),
        (format!("id={event}"), vec!["replay"]),
        ("kind=replay&peer=192.0.2.7".to_owned(), vec!["replay"]),
        ("kind=replay&peer=192.0.2.8".to_owned(), vec![]),
        ("kind=consumed&until=2026-01-31T12:00:00.003Z".to_owned(), vec!["consumed"]),
        ("text=nothing".to_owned(), vec![]),
    ] {
        let found = page(&server, &format!("/?{query}")).await;
        let shown: Vec<_> =
            found.split("</time></a> <strong>").skip(1).map(|rest| rest.split_once('<').unwrap().0).collect();
        assert_eq!(shown, kinds, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn export_contains_what_the_filter_selects() {
    let server = server();
    let used = server.token();
    for agent in ["=cmd|' /C calc'!A0, \"x\"", "curl/8"] {
        server.handshake(&used).await;
        let request = post(&handshake_path(&used)).header("user-agent", agent).body(Body::empty()).unwrap();
        server.public(request).await;
    }
    for _ in 0..1_200 {
        server.handshake(&server.token()).await;
    }
    page(&server, "/").await;
    let export = async |path: &str| {
        let answer = server.private(get(path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let name = path.split('?').next().unwrap().rsplit('.').next().unwrap();
        let disposition = format!("attachment; filename=\"countersign-events.{name}\"");
        assert_eq!(answer.header("content-disposition"), disposition);
        answer.text
    };
    let lines = export("/page/events.jsonl?kind=consumed,replay").await;
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 1_201 + 3, "more than a page of the list");
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len(), "nothing twice");

    let table = export("/page/events.csv?text=calc").await;
    let rows: Vec<_> = table.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].starts_with("at,kind,reason,count,id,token,peer,"), "{table}");
    assert!(
        rows[1].contains(",replay,,1,") && rows[1].contains("\"'=cmd|' /C calc'!A0, \"\"x\"\"\""),
        "{table}"
    );
    assert_eq!(server.private(get("/page/events.csv?peer=me")).await.status, StatusCode::BAD_REQUEST);
}

/// A disk of events that hangs: each query waits for ever.
#[derive(Debug)]
struct HungEvents;

#[async_trait]
impl EventStore for HungEvents {
    async fn append(&self, _: &[Event]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn events(&self, _: &EventQuery) -> Result<Vec<Event>, StoreError> {
        std::future::pending().await
    }
    async fn purge_events(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn close_events(&self) {}
}

#[tokio::test(start_paused = true)]
async fn hung_exports_are_aborted_and_free_their_place() {
    let server = Fixture::with(Options { events: Some(Arc::new(HungEvents)), ..Options::default() });
    let open = async |path: &str| server.private_response(get(path)).await;
    let mut exports = Vec::new();
    for _ in 0..MAX_EXPORTS {
        let export = open("/page/events.csv").await;
        assert_eq!(export.status(), StatusCode::OK);
        exports.push(export.into_body());
    }
    assert_eq!(open("/page/events.jsonl").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    // The page has places of its own.
    for _ in 0..MAX_VIEWERS {
        assert_eq!(open("/page/live").await.status(), StatusCode::OK);
    }
    for export in exports {
        let broken = tokio::time::timeout(Duration::from_mins(1), export.collect()).await;
        assert!(broken.expect("it breaks off").is_err(), "nobody takes a part for the whole");
    }
    assert_eq!(open("/page/events.jsonl").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn stopping_aborts_a_running_export() {
    let server = Fixture::with(Options { events: Some(Arc::new(HungEvents)), ..Options::default() });
    let export = server.private_response(get("/page/events.csv")).await.into_body();
    let began = tokio::time::Instant::now();
    let (broken, ()) = tokio::join!(export.collect(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.app.events.end_following();
    });
    assert!(broken.is_err());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn token_used_as_filter_is_not_quoted() {
    let server = server();
    let token = server.token();
    for query in [
        format!("id={token}"),
        format!("text={token}"),
        format!("peer={token}&range=6h"),
        format!("{token}=1"),
    ] {
        for path in ["/", "/page/events.csv"] {
            let answer = server.private(get(&format!("{path}?{query}"))).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}?{query}");
            assert!(!answer.text.contains(&token[..28]), "{answer:?}");
        }
    }
    let answer = server.private(get(&format!("/?text={token}&peer=192.0.2.7"))).await;
    assert!(answer.text.contains("text has a token in it"), "{answer:?}");
    assert!(answer.text.contains("value=\"192.0.2.7\""), "the other fields stay: {answer:?}");
}
