//! A tracker made of one function: it is handed each request's text, and what it returns is sent as it is.

use std::sync::{Arc, Mutex};

use countersign_login::{HttpSettings, Login, LoginError, Session, Tracker, Zeroizing};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "cs1averysecrettoken234567";
pub(crate) const NOW: &str = "2026-11-23T22:00:00Z";

pub(crate) struct Stub {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    pub(crate) async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::listen(None, answer).await
    }

    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(tls), answer).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, seen, answer) = (tls.clone(), Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &seen, &*answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &seen, &*answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/project", self.port)
    }

    /// All requests so far, each as it came over the wire.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn has_seen_the_token(&self) -> bool {
        self.requests().iter().any(|request| request.contains(TOKEN))
    }

    pub(crate) fn login(&self, tracker: Tracker) -> Login<'static> {
        Login::new(tracker, &self.url()).unwrap()
    }
}

/// Answers one request and hangs up; without having said so, it does that when the next request comes. An empty answer is
/// none at all.
async fn serve<S>(mut stream: S, seen: &Mutex<Vec<String>>, answer: &(dyn Fn(&str) -> String + Send + Sync))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8(request).unwrap();
    let text = answer(&request);
    seen.lock().unwrap().push(request);
    let _ = stream.write_all(text.as_bytes()).await;
    if !text.is_empty() && !text.contains("Connection: close") {
        let _ = stream.read_u8().await;
    }
    let _ = stream.shutdown().await;
}

/// An answer in full. `status` is such as `200 OK`.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Logs in with [`TOKEN`]. Asserts that neither the result nor the error's `Debug` shows the token.
pub(crate) async fn run(login: &Login<'_>) -> Result<Session, LoginError> {
    let result = login
        .run(NOW.parse().unwrap(), async |_| Ok::<_, std::io::Error>(Zeroizing::new(TOKEN.to_owned())))
        .await;
    if let Err(error) = &result {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(TOKEN), "{shown}");
        assert!(!shown.contains("  "), "{shown}");
    }
    result
}

/// What the login failed with, in words.
pub(crate) async fn failure(login: &Login<'_>) -> String {
    run(login).await.unwrap_err().to_string()
}

pub(crate) fn impatient() -> HttpSettings<'static> {
    HttpSettings { timeout: std::time::Duration::from_millis(200), ..HttpSettings::default() }
}
