//! A line to PostgreSQL that breaks when a test wants it to.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where a connection is cut when a transaction is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the server has it: it is not carried out.
    Request,
    /// When the server's answer is there, and before anybody else sees it: it is carried out and committed.
    Answer,
    /// As soon as it was passed on: it is carried out or not, sooner or later.
    Midway,
}

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    state: Arc<ProxyState>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct ProxyState {
    next: Mutex<Option<Cut>>,
    /// Every so-and-so-many transactions one is cut; 0: none.
    one_in: AtomicU64,
    transactions: AtomicU64,
    cuts: AtomicU64,
}

impl Proxy {
    /// A proxy before the server of this URL.
    pub async fn start(url: &str) -> Self {
        let (front, path) = url.rsplit_once('/').expect("a URL has a path");
        let (user, server) = front.rsplit_once('@').expect("a URL for tests has a user");
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(ProxyState::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // A server that is away closes the line, as it would without a proxy.
                    if let Ok(server) = TcpStream::connect(&server).await {
                        let _ = pass(client, server, &state).await;
                    }
                });
            }
        });
        Self { url: format!("{user}@{address}/{path}"), state, task }
    }

    /// The URL of the database through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Cuts the connection of the next transaction, once.
    pub fn cut_next(&self, cut: Cut) {
        *self.state.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    /// From now on cuts one of so many, in each of the three ways by turns; 0 for none.
    pub fn cut_one_in(&self, transactions: u64) {
        self.state.one_in.store(transactions, Ordering::Relaxed);
    }

    /// How many connections it has cut.
    pub fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProxyState {
    fn decide(&self) -> Option<Cut> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let transactions = self.transactions.fetch_add(1, Ordering::Relaxed) + 1;
        let one_in = self.one_in.load(Ordering::Relaxed);
        let cut = next.or_else(|| {
            let is_due = one_in > 0 && transactions.is_multiple_of(one_in);
            is_due.then(|| match (transactions / one_in) % 3 {
                0 => Cut::Request,
                1 => Cut::Answer,
                _ => Cut::Midway,
            })
        });
        self.cuts.fetch_add(u64::from(cut.is_some()), Ordering::Relaxed);
        cut
    }
}

/// Passes bytes in both directions until one side ends or the line is cut.
async fn pass(client: TcpStream, server: TcpStream, state: &ProxyState) -> io::Result<()> {
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::select! {
        ended = requests(client_reads, server_writes, state, &stop) => ended,
        ended = answers(server_reads, client_writes, stopped) => ended,
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &ProxyState,
    stop: &tokio::sync::watch::Sender<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    // Whether the buffer begins where a message begins: a client waits for its answer before it sends the next.
    let mut length = 0;
    loop {
        let count = from.read(buffer.get_mut(length..).unwrap_or_default()).await?;
        if count == 0 {
            return Ok(());
        }
        length += count;
        let text = buffer.get(..length).unwrap_or_default();
        let is_transaction = match look(text) {
            ClientBytes::Part => continue,
            ClientBytes::Transaction => true,
            ClientBytes::Other => false,
        };
        match if is_transaction { state.decide() } else { None } {
            None => to.write_all(text).await?,
            Some(Cut::Request) => return Ok(()),
            Some(Cut::Midway) => {
                to.write_all(text).await?;
                return to.flush().await;
            }
            Some(Cut::Answer) => {
                // Later bytes are read and held back; `answers` ends once all of them are there.
                stop.send_replace(true);
                to.write_all(text).await?;
                std::future::pending::<()>().await;
            }
        }
        length = 0;
    }
}

/// What a client has sent so far.
enum ClientBytes {
    /// The end of a message is missing.
    Part,
    /// Requests that end with a commit, or a prepared statement that is a transaction by itself.
    Transaction,
    Other,
}

fn look(mut text: &[u8]) -> ClientBytes {
    let is_prepared = text.first() == Some(&b'B');
    // Only the first message of a connection has no letter before its length.
    while let [kind, a, b, c, d, rest @ ..] = text
        && kind.is_ascii_alphabetic()
    {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let Some(body) = length.checked_sub(4).and_then(|length| rest.get(..length)) else {
            return ClientBytes::Part;
        };
        text = rest.get(body.len()..).unwrap_or_default();
        let ends = (*kind == b'Q' && body.ends_with(b"COMMIT\0")) || (is_prepared && *kind == b'S');
        if text.is_empty() && ends {
            return ClientBytes::Transaction;
        }
    }
    match text {
        [kind, ..] if kind.is_ascii_alphabetic() => ClientBytes::Part,
        _ => ClientBytes::Other,
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        let text = buffer.get(..count).unwrap_or_default();
        // `ReadyForQuery` outside of a transaction: committed.
        let is_whole = text.ends_with(&[b'Z', 0, 0, 0, 5, b'I']);
        if count == 0 || (*stopped.borrow() && is_whole) {
            return Ok(());
        }
        if !*stopped.borrow() {
            to.write_all(text).await?;
        }
    }
}
