//! The tracker's question to the issuer, over a bare socket: so that it can be asked wrongly.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stub::Fault;

/// How long the tracker waits for the issuer: long on a busy machine, too.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than a head, and less than what an issuer without end sends.
const ENOUGH: usize = 1024;

/// What a tracker is told about the issuer and about itself.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The configured URL, with `%s` for the token.
    pub(crate) auth_server: String,
    /// The configured base URL.
    pub(crate) base: String,
    pub(crate) fault: Fault,
}

/// One question.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) token: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) key: &'a str,
}

impl Setup {
    /// Asks once. Returns the status, and where the answer leads.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> io::Result<(u16, Option<String>)> {
        let url = self.auth_server.replace("%s", ask.token);
        let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let path = match self.fault {
            Fault::TokenInQuery => format!("/{path}?token={}", ask.token),
            Fault::OldSpelling => format!("/{}", path.replacen("token/", "tokens/", 1)),
            _ => format!("/{path}"),
        };
        self.send(authority, &path, ask).await
    }

    /// Asks where a redirect led to.
    pub(crate) async fn follow(&self, path: &str, ask: &Ask<'_>) -> io::Result<(u16, Option<String>)> {
        let url = self.auth_server.strip_prefix("http://").unwrap();
        self.send(url.split_once('/').unwrap().0, path, ask).await
    }

    async fn send(&self, authority: &str, path: &str, ask: &Ask<'_>) -> io::Result<(u16, Option<String>)> {
        let request = self.request(authority, path, ask);
        let exchange = async {
            let mut stream = TcpStream::connect(authority).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let limit = if self.fault == Fault::ReadsAll { u64::MAX } else { ENOUGH as u64 };
            // A connection that breaks after the head has told enough.
            let read = (&mut stream).take(limit).read_to_end(&mut answer).await;
            let head = String::from_utf8_lossy(answer.get(..ENOUGH).unwrap_or(&answer)).into_owned();
            match status(&head) {
                Some(status) => Ok((status, location(&head))),
                None => Err(read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
            }
        };
        if matches!(self.fault, Fault::NoTimeout | Fault::ReadsAll) {
            return exchange.await;
        }
        tokio::time::timeout(PATIENCE, exchange).await?
    }

    fn request(&self, authority: &str, path: &str, ask: &Ask<'_>) -> String {
        let Ask { method, token, audience, key } = ask;
        let audience = percent_encoding::utf8_percent_encode(audience, percent_encoding::NON_ALPHANUMERIC);
        let body = match self.fault {
            Fault::NoAudience => String::new(),
            Fault::AudienceTwice => format!("audience={audience}&audience={audience}"),
            Fault::TokenInBody => format!("audience={audience}&token={token}"),
            _ => format!("audience={audience}"),
        };
        let kind = if self.fault == Fault::AudienceAsText {
            "text/plain"
        } else {
            "application/x-www-form-urlencoded"
        };
        let key =
            if self.fault == Fault::NoKey { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
        let referer = match self.fault {
            Fault::TokenInHeader => format!("Referer: {}/launchpad-auth/{token}\r\n", self.base),
            _ => String::new(),
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n{key}{referer}\r\n{body}",
            body.len()
        )
    }
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn location(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
