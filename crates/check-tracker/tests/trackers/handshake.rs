//! The tracker's question to the issuer, over a bare socket: so that it can be asked wrongly.

use std::io;
use std::time::Duration;

use axum::http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stub::{Fault, Place};

/// How long the tracker waits for the issuer: long on a busy machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

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
    /// How long to wait for the issuer.
    pub(crate) patience: Duration,
}

/// One question.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) token: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) key: &'a str,
}

impl Setup {
    /// What a tracker that believes the request takes for its configuration.
    pub(crate) fn misled(&self, head: &Parts) -> Self {
        let mut setup = self.clone();
        match self.fault {
            Fault::IssuerFrom(place) => {
                // Every request names a host. One that is not the tracker's own is believed to be the issuer's.
                let url = place.url(head, self.issuer_host()).filter(|url| !self.base.starts_with(url));
                if let Some(url) = url {
                    setup.auth_server = if url.contains("%s") {
                        url
                    } else {
                        format!("{url}/token/%s/+bugtracker-handshake")
                    };
                }
            }
            Fault::IssuerHostFrom(name) => {
                let (_, port) = self.issuer().rsplit_once(':').unwrap();
                if let Some(host) = Place::Host(name).text(head).filter(|host| !self.base.contains(host)) {
                    let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
                    setup.auth_server = format!("http://{name}:{port}/token/%s/+bugtracker-handshake");
                }
            }
            Fault::AudienceFrom(place) => {
                if let Some(url) = place.url(head, self.base.strip_prefix("http://").unwrap()) {
                    setup.base = format!("{url}/trac");
                }
            }
            Fault::OtherAudience => "https://bugs.example.org/".clone_into(&mut setup.base),
            _ => {}
        }
        setup
    }

    /// Host and port of the configured issuer.
    fn issuer(&self) -> &str {
        self.auth_server.strip_prefix("http://").unwrap().split_once('/').unwrap().0
    }

    fn issuer_host(&self) -> &str {
        self.issuer().rsplit_once(':').unwrap().0
    }

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
        let mut answer = Vec::new();
        let exchange = self.exchange(authority, &request, &mut answer);
        let read = if matches!(self.fault, Fault::NoTimeout | Fault::ReadsAll | Fault::LimitsEachWait) {
            exchange.await
        } else {
            tokio::time::timeout(self.patience, exchange).await.unwrap_or_else(|late| Err(late.into()))
        };
        let text = String::from_utf8_lossy(answer.get(..ENOUGH).unwrap_or(&answer)).into_owned();
        let head = head_of(&text).or_else(|| (self.fault == Fault::BelievesPartOfAHead).then_some(&*text));
        let Some(status) = head.and_then(|head| self.status(head)) else {
            return Err(read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        };
        if self.fault == Fault::ReadsTheBodyForAYes {
            let yes = text.contains("Handshake token validated.") || status == 200;
            return Ok((if yes { 200 } else { status }, None));
        }
        Ok((status, location(&text)))
    }

    fn status(&self, head: &str) -> Option<u16> {
        let three = match self.fault {
            Fault::TakesAnyTextFor200 if head.lines().next()?.contains("200") => "200",
            _ => head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?,
        };
        three.parse().ok().filter(|status| *status < 1000)
    }

    async fn exchange(&self, authority: &str, request: &str, answer: &mut Vec<u8>) -> io::Result<()> {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = [0; ENOUGH];
        loop {
            let read = stream.read(&mut buffer);
            let length = match self.fault {
                Fault::LimitsEachWait => tokio::time::timeout(self.patience, read).await??,
                _ => read.await?,
            };
            if length == 0 {
                return Ok(());
            }
            answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
            // A status that is an answer is all that counts.
            let text = String::from_utf8_lossy(answer.get(..ENOUGH).unwrap_or(answer)).into_owned();
            let reads_on = matches!(self.fault, Fault::ReadsAll | Fault::ReadsTheBodyForAYes);
            let head_is_there = head_of(&text).is_some();
            if head_is_there && !reads_on {
                return Ok(());
            }
        }
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

impl Place {
    fn text(self, head: &Parts) -> Option<String> {
        let header = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
        match self {
            Self::Host(name) | Self::Port(name) | Self::Url(name) => header(name),
            Self::Forwarded => {
                let value = header("forwarded")?;
                let (_, host) = value.split_once("host=\"")?;
                Some(host.split_once('"')?.0.to_owned())
            }
            Self::Cookie(name) => {
                let cookies = header("cookie")?;
                cookies
                    .split("; ")
                    .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
            }
            Self::Query(name) => {
                let mut pairs = form_urlencoded::parse(head.uri.query()?.as_bytes());
                pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
            }
        }
    }

    /// The URL that this place names; `host` is for one that names a port alone.
    fn url(self, head: &Parts, host: &str) -> Option<String> {
        let text = self.text(head)?;
        let host = host.split(['/', ':']).next().unwrap();
        Some(match self {
            Self::Host(_) | Self::Forwarded => format!("http://{text}"),
            Self::Port(_) => format!("http://{host}:{text}"),
            Self::Url(_) | Self::Cookie(_) | Self::Query(_) => text.trim_end_matches('/').to_owned(),
        })
    }
}

/// The first whole head of an answer that is not 1xx.
fn head_of(text: &str) -> Option<&str> {
    let (head, rest) = text.split_once("\r\n\r\n")?;
    if head.starts_with("HTTP/1.1 1") { head_of(rest) } else { Some(head) }
}

fn location(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
