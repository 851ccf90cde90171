//! A server on real sockets, in this process.

use std::sync::Arc;
use std::time::Duration;

use countersign_client::{Credentials, PrivateApi};
use countersign_core::{Audience, NewToken, Status, SystemClock, TokenStore};
use countersign_server::{App, Bearer, Callers, ListenerConfig, Server, StartError, TlsFiles};
use countersign_store::memory::MemoryStore;
use countersign_testkit::app;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

pub(crate) struct Running {
    pub(crate) app: Arc<App>,
    pub(crate) public: String,
    pub(crate) private: String,
    pub(crate) reload: Arc<Notify>,
    pub(crate) directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub(crate) fn door(tls: Option<TlsFiles>) -> ListenerConfig {
    ListenerConfig { address: "127.0.0.1:0".parse().unwrap(), tls }
}

impl Running {
    pub(crate) async fn plain() -> Self {
        Self::start(TempDir::new().unwrap(), door(None), door(None), None).await.unwrap()
    }

    /// With a store that a test brings.
    pub(crate) async fn on(store: Arc<dyn TokenStore>) -> Self {
        let directory = TempDir::new().unwrap();
        Self::start_on(store, directory, door(None), door(None), (None, None)).await.unwrap()
    }

    pub(crate) async fn start(
        directory: TempDir,
        public: ListenerConfig,
        private: ListenerConfig,
        bearer: Option<&str>,
    ) -> Result<Self, StartError> {
        let store = Arc::new(MemoryStore::new(&SystemClock));
        Self::start_on(store, directory, public, private, (bearer, None)).await
    }

    /// With callers that have names, on this private listener.
    pub(crate) async fn with_callers(
        directory: TempDir,
        private: ListenerConfig,
        callers: Callers,
    ) -> Result<Self, StartError> {
        let store = Arc::new(MemoryStore::new(&SystemClock));
        Self::start_on(store, directory, door(None), private, (None, Some(callers))).await
    }

    async fn start_on(
        store: Arc<dyn TokenStore>,
        directory: TempDir,
        public: ListenerConfig,
        private: ListenerConfig,
        (bearer, callers): (Option<&str>, Option<Callers>),
    ) -> Result<Self, StartError> {
        let server = Server::bind(public, private, bearer.is_some() || callers.is_some()).await?;
        let (public, private) = (server.public_url().unwrap(), server.private_url().unwrap());
        let app = app(Arc::new(SystemClock)).key_file(directory.path().join("key-ring.toml")).store(store);
        let app = Arc::new(App {
            bearer: bearer.map(|secret| Bearer::new(secret.to_owned().into()).unwrap()),
            callers,
            ..app.build()
        });
        let (stop, stopped) = oneshot::channel();
        let reload = Arc::new(Notify::new());
        let task = tokio::spawn(server.run(Arc::clone(&app), Arc::clone(&reload), async {
            let _ = stopped.await;
        }));
        Ok(Self { app, public, private, reload, directory, stop: Some(stop), task })
    }

    pub(crate) fn api(&self, credentials: Credentials) -> PrivateApi {
        PrivateApi::new(&self.private, credentials).unwrap()
    }

    /// A raw connection to the public listener.
    pub(crate) async fn connect(&self) -> TcpStream {
        connect(&self.public).await
    }

    /// A token; bound to a tracker if one is named.
    pub(crate) fn token(&self, audience: Option<&str>) -> String {
        let audience = audience.map(|url| Audience::parse(url).unwrap());
        self.app.tokens.issue(NewToken { audience, ..NewToken::default() }).unwrap().text.into_exposed()
    }

    /// Whether a token can still be redeemed.
    pub(crate) async fn is_live(&self, token: &str) -> bool {
        self.app.tokens.get(token).await.unwrap().status == Status::Live
    }

    /// How many handshakes were counted with this outcome.
    pub(crate) async fn counted(&self, outcome: &str) -> u64 {
        let metrics = b"GET /metrics HTTP/1.0\r\n\r\n";
        let metrics = talk(&mut connect(&self.private).await, metrics, "# EOF").await;
        let line = format!("countersign_handshakes_total{{outcome=\"{outcome}\"}} ");
        metrics.split_once(&line).unwrap().1.lines().next().unwrap().parse().unwrap()
    }

    /// Asks the server to stop; the returned task ends when it has.
    pub(crate) fn stop(&mut self) -> &mut JoinHandle<()> {
        self.stop.take().unwrap().send(()).unwrap();
        &mut self.task
    }
}

/// A raw connection to the listener of this URL.
pub(crate) async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.rsplit('/').next().unwrap()).await.unwrap()
}

/// The plainest handshake there is.
pub(crate) fn handshake(token: &str) -> String {
    format!("POST /token/{token}/+bugtracker-handshake HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
}

/// Sends bytes and reads until the other side closes, or until `enough` stands in what it sent.
pub(crate) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    enough: &str,
) -> String {
    // The other side may stop listening before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    let listening = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => heard.extend_from_slice(&buffer[..length]),
            }
            if String::from_utf8_lossy(&heard).contains(enough) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), listening).await.unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}
