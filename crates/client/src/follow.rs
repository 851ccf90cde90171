//! Events as they happen: a stream of server-sent events (WHATWG HTML, section 9.2), as far as this server sends them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use countersign_http_client::reason;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

use crate::ClientError;

/// For how long a stream may be silent. The server says something every 15 seconds.
const SILENCE: Duration = Duration::from_mins(1);

/// The longest line that is read. An event takes about 1 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// What a follower hears.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    /// Something happened; the same document as in the list.
    Event(Value),
    /// So many events came faster than they were read, and are not told.
    Missed(u64),
}

/// Events as they happen.
pub struct EventStream {
    server: String,
    body: Incoming,
    read: Vec<u8>,
    /// What the lines since the last blank one have said.
    name: String,
    data: String,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("server", &self.server).finish_non_exhaustive()
    }
}

impl EventStream {
    pub(crate) fn new(response: Response<Incoming>, server: String) -> Self {
        Self {
            server,
            body: response.into_body(),
            read: Vec::new(),
            name: String::new(),
            data: String::new(),
        }
    }

    /// Waits for what happens next; `None` when the server has ended the stream, as it does when it stops.
    pub async fn next(&mut self) -> Result<Option<StreamItem>, ClientError> {
        loop {
            while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if let Some(news) = self.take(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])) {
                    return Ok(Some(news));
                }
            }
            if self.read.len() > MAX_LINE_BYTES {
                return Err(self.broken(&"it sent a line without an end"));
            }
            match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(self.broken(&"it has been silent for a minute")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(self.broken(&format!("the events broke off ({})", reason(&error))));
                }
                Ok(Some(Ok(frame))) => {
                    self.read.extend_from_slice(&frame.into_data().unwrap_or_else(|_| Bytes::new()));
                }
            }
        }
    }

    fn take(&mut self, line: &str) -> Option<StreamItem> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (line, field) {
            ("", _) => {
                let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                if name == "missed" {
                    return data.parse().ok().map(StreamItem::Missed);
                }
                return serde_json::from_str(&data).ok().map(StreamItem::Event);
            }
            (_, "event") => value.clone_into(&mut self.name),
            (_, "data") => self.data.push_str(value),
            // Names and comments.
            _ => {}
        }
        None
    }

    fn broken(&self, reason: &dyn fmt::Display) -> ClientError {
        ClientError::NoAnswer { server: self.server.clone(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{Credentials, EventsRequest, PrivateApi};

    /// A stream that begins with `text`, and the server's side of its connection.
    async fn stream_of(text: &str) -> (EventStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x}\r\n{text}\r\n",
                text.len()
            );
            connection.write_all(answer.as_bytes()).await.unwrap();
            connection
        };
        let api = PrivateApi::new(&url, Credentials::default()).unwrap();
        let request = EventsRequest::default();
        let (stream, connection) = tokio::join!(api.follow_events(&request), serve);
        (stream.unwrap(), connection)
    }

    const ONE_EVENT: &str =
        ": following\n\nevent: replay\ndata: {\"kind\":\"replay\"}\n\nevent: missed\ndata: 7\n\n";

    #[tokio::test]
    async fn events_and_losses_are_told_until_the_server_ends() {
        let (mut stream, mut server) = stream_of(ONE_EVENT).await;
        let event = StreamItem::Event(serde_json::json!({ "kind": "replay" }));
        assert_eq!(stream.next().await.unwrap(), Some(event));
        assert_eq!(stream.next().await.unwrap(), Some(StreamItem::Missed(7)));
        server.write_all(b"0\r\n\r\n").await.unwrap();
        assert_eq!(stream.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn broken_connection_is_no_end_of_the_events() {
        let (mut stream, server) = stream_of(ONE_EVENT).await;
        drop(server);
        stream.next().await.unwrap();
        stream.next().await.unwrap();
        let error = stream.next().await.unwrap_err().to_string();
        assert!(error.contains("the events broke off ("), "{error}");
    }

    #[tokio::test]
    async fn silent_server_is_given_up_after_a_minute() {
        let (mut stream, _server) = stream_of(ONE_EVENT).await;
        stream.next().await.unwrap();
        stream.next().await.unwrap();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let error = stream.next().await.unwrap_err().to_string();
        assert!(error.contains("it has been silent for a minute"), "{error}");
        assert!(began.elapsed() >= SILENCE);
    }

    #[tokio::test]
    async fn endless_line_is_not_kept() {
        let (mut stream, _server) = stream_of(&"x".repeat(MAX_LINE_BYTES + 1)).await;
        let error = stream.next().await.unwrap_err().to_string();
        assert!(error.contains("it sent a line without an end"), "{error}");
    }
}
