//! One connection to one listener, and the requests over it.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::ResponseError;
use crate::http::{HttpResponse, MAX_ANSWER_BYTES, parse};
use crate::target::Endpoint;

/// How long a server may take for an answer, connecting included.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// As much as is read at once, which is more than any right answer has.
const READ_BYTES: usize = 4096;

/// A connection that is kept alive as long as the server keeps it, and opened again when needed.
pub(crate) struct Connection {
    endpoint: Rc<Endpoint>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn to(endpoint: &Rc<Endpoint>) -> Self {
        Self { endpoint: Rc::clone(endpoint), stream: None, buffer: Vec::with_capacity(READ_BYTES) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// Opens the connection ahead of the first request.
    pub(crate) async fn connect(&mut self) -> Result<(), ResponseError> {
        let stream = tokio::time::timeout(ANSWER_TIMEOUT, open(&self.endpoint)).await;
        self.stream = Some(stream.unwrap_or(Err(ResponseError::NoAnswer))?);
        Ok(())
    }

    /// Sends a request and waits for its whole answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<HttpResponse, ResponseError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await;
        let answer = asked.unwrap_or(Err(ResponseError::NoAnswer));
        if !answer.as_ref().is_ok_and(|answer| answer.reusable) {
            self.stream = None;
        }
        answer
    }

    /// The body of the answer that was given last.
    pub(crate) fn body<'a>(&'a self, answer: &'a HttpResponse) -> &'a [u8] {
        answer.body.of(&self.buffer)
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<HttpResponse, ResponseError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(open(&self.endpoint).await?),
        };
        stream.write_all(request).await.map_err(|error| ResponseError::Broken(error.kind()))?;
        self.buffer.clear();
        loop {
            self.buffer.reserve(READ_BYTES);
            let read = stream.read_buf(&mut self.buffer).await;
            let end = read.map_err(|error| ResponseError::Broken(error.kind()))? == 0;
            if let Some(answer) = parse(&self.buffer, end)? {
                return Ok(answer);
            }
            if self.buffer.len() > MAX_ANSWER_BYTES {
                return Err(ResponseError::NotHttp("the answer is longer than 64 KiB"));
            }
        }
    }
}

async fn open(endpoint: &Endpoint) -> Result<TcpStream, ResponseError> {
    let stream =
        TcpStream::connect(endpoint.address).await.map_err(|error| ResponseError::Connect(error.kind()))?;
    // Requests are short and must not wait for a full packet.
    stream.set_nodelay(true).map_err(|error| ResponseError::Connect(error.kind()))?;
    Ok(stream)
}
