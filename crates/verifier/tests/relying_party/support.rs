//! An issuer that behaves as each test wants, connection by connection.

use std::sync::{Arc, Mutex};

use countersign_verifier::{Verifier, VerifierBuilder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// What the stub does with one connection, after it has read the request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends this and closes.
    Send(String),
    /// Closes without a word.
    Cut,
    /// Says nothing, and keeps the connection.
    Hang,
    /// Sends this, and then spaces for ever.
    Endless(String),
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Method and path.
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_default();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }
}

/// A server on a free port that answers the first connection with the first reply, and so on. A connection for which no
/// reply is left is answered 599.
pub(crate) struct Stub {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Recorded>>>,
    pub(crate) heard: Arc<Notify>,
}

impl Stub {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_with(replies, None).await
    }

    pub(crate) async fn start_with(
        replies: impl IntoIterator<Item = Reply>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            port: listener.local_addr().unwrap().port(),
            requests: Arc::default(),
            heard: Arc::default(),
        };
        let (requests, heard) = (Arc::clone(&stub.requests), Arc::clone(&stub.heard));
        let mut replies = replies.into_iter().collect::<Vec<_>>().into_iter();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let reply = replies.next().unwrap_or_else(|| Reply::Send(text("599 Unscripted", "")));
                let (requests, heard, tls) = (Arc::clone(&requests), Arc::clone(&heard), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return converse(tcp, reply, &requests, &heard).await };
                    // A client that does not trust the certificate hangs up here.
                    if let Ok(stream) = tls.accept(tcp).await {
                        converse(stream, reply, &requests, &heard).await;
                    }
                });
            }
        });
        stub
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A verifier that asks this stub, as the tracker `https://bugs.example.org/trac`.
    pub(crate) fn verifier(&self) -> Verifier {
        self.builder().audience("https://bugs.example.org/trac/").build().unwrap()
    }

    pub(crate) fn builder(&self) -> VerifierBuilder {
        Verifier::builder(self.url())
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap().clone()
    }
}

async fn converse<S>(mut stream: S, reply: Reply, requests: &Mutex<Vec<Recorded>>, heard: &Notify)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(request) = read_request(&mut stream).await else { return };
    requests.lock().unwrap().push(request);
    heard.notify_one();
    // The client may hang up at any point: it is free to.
    match reply {
        Reply::Send(response) => {
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Reply::Cut => {}
        Reply::Hang => {
            let _ = stream.read_u8().await;
        }
        Reply::Endless(start) => {
            let _ = stream.write_all(start.as_bytes()).await;
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
        }
    }
}

/// Reads one request; `None` if it does not arrive whole.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Recorded> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<_> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut recorded = Recorded { line, headers, body: String::new() };
    let mut body = vec![0; recorded.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    recorded.body = String::from_utf8(body).unwrap();
    Some(recorded)
}

/// A plain-text answer.
pub(crate) fn text(status: &str, headers: &str) -> String {
    let body = "Something happened.";
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A JSON answer.
pub(crate) fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}
