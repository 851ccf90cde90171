//! One connection's work: the requests of a round, and whether their answers are right.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::connection::Connection;
use crate::error::{PreflightError, ResponseError, excerpt};
use crate::rpc::{self, Tokens};
use crate::target::{Endpoint, Handshakes};
use crate::workload::{Step, Workload};

/// What a good token is answered.
const VALIDATED: &[u8] = b"Handshake token validated.";

/// What a used token is answered.
const SPENT: &[u8] = b"Token has already been used or is invalid.";

/// How much of a token's text is changed to forge one.
const FORGED_CHARS: usize = 8;

/// For how long the same used token is replayed, so that it has not expired too.
const REPLAY_PERIOD: Duration = Duration::from_secs(30);

/// The requests to a server, as far as they are always the same.
pub(crate) struct RequestTemplates {
    pub(crate) private: Rc<Endpoint>,
    pub(crate) public: Rc<Endpoint>,
    pub(crate) handshakes: Handshakes,
    pub(crate) calls: CallTemplates,
    redeem_tail: Vec<u8>,
    health: Vec<u8>,
}

impl RequestTemplates {
    pub(crate) fn new(
        private: Rc<Endpoint>,
        public: Rc<Endpoint>,
        handshakes: Handshakes,
        calls: CallTemplates,
        audience: Option<&str>,
    ) -> Self {
        let form = audience.map(|audience| {
            form_urlencoded::Serializer::new(String::new()).append_pair("audience", audience).finish()
        });
        let host = &public.host;
        let redeem_tail = match form {
            None => format!("{} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n", handshakes.after),
            Some(form) => format!(
                "{} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{form}",
                handshakes.after,
                form.len()
            ),
        };
        let health = format!("GET {}/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n", public.base);
        Self {
            private,
            public,
            handshakes,
            calls,
            redeem_tail: redeem_tail.into_bytes(),
            health: health.into_bytes(),
        }
    }
}

/// The calls of the private API.
pub(crate) struct CallTemplates {
    head: String,
    issue: Vec<u8>,
    metrics: Vec<u8>,
}

impl CallTemplates {
    pub(crate) fn new(private: &Endpoint, bearer: Option<&str>, audience: Option<&str>) -> Self {
        let authorization =
            bearer.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {}/bugs HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml\r\n{authorization}",
            private.base, private.host
        );
        let issue = with_body(&head, &rpc::new_token(audience));
        let (base, host) = (&private.base, &private.host);
        let metrics = format!(
            "GET {base}/metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}\r\n"
        );
        Self { head, issue, metrics: metrics.into_bytes() }
    }
}

fn with_body(head: &str, body: &str) -> Vec<u8> {
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Takes a token.
pub(crate) async fn issue(
    private: &mut Connection,
    calls: &CallTemplates,
    tokens: &mut Tokens,
) -> Result<String, ResponseError> {
    let answer = private.ask(&calls.issue).await?;
    let body = private.body(&answer);
    if answer.status == 200 { tokens.read(body) } else { Err(unexpected(answer.status, body)) }
}

/// Asks where a token's handshake is.
pub(crate) async fn handshake_url(
    private: &mut Connection,
    calls: &CallTemplates,
    token: &str,
) -> Result<String, ResponseError> {
    let answer = private.ask(&with_body(&calls.head, &rpc::get_token(token))).await?;
    let body = private.body(&answer);
    if answer.status == 200 { rpc::handshake_url(body) } else { Err(unexpected(answer.status, body)) }
}

/// The processor time that the server has taken so far, if it says so.
pub(crate) async fn cpu_time(site: &RequestTemplates) -> Option<Duration> {
    let mut link = Connection::to(&site.private);
    let answer = link.ask(&site.calls.metrics).await.ok()?;
    let metrics = str::from_utf8(link.body(&answer)).ok()?;
    let seconds = metrics.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "))?;
    Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()
}

fn unexpected(status: u16, body: &[u8]) -> ResponseError {
    ResponseError::Status(status, excerpt(&String::from_utf8_lossy(body)))
}

/// One of the connections.
pub(crate) struct Worker {
    site: Rc<RequestTemplates>,
    workload: Workload,
    private: Connection,
    public: Connection,
    request: Vec<u8>,
    tokens: Tokens,
    /// The token that is replayed, or that forged ones are made of.
    token: String,
    renewed: Duration,
    forged: u64,
}

impl Worker {
    pub(crate) fn new(site: &Rc<RequestTemplates>, workload: Workload) -> Self {
        Self {
            site: Rc::clone(site),
            workload,
            private: Connection::to(&site.private),
            public: Connection::to(&site.public),
            request: Vec::new(),
            tokens: Tokens::default(),
            token: String::new(),
            renewed: Duration::ZERO,
            forged: 0,
        }
    }

    /// Connects, and takes the token that the workload needs.
    pub(crate) async fn prepare(&mut self) -> Result<(), PreflightError> {
        let (private, public) = match self.workload {
            Workload::Handshake | Workload::Replay | Workload::Forged => (true, true),
            Workload::Issue => (true, false),
            Workload::Health => (false, true),
        };
        if private {
            self.private.connect().await.map_err(|wrong| self.failed(Step::Issue, wrong))?;
        }
        if public {
            self.public.connect().await.map_err(|wrong| self.failed(self.public_step(), wrong))?;
        }
        self.take_token().await.map_err(|(step, wrong)| self.failed(step, wrong))
    }

    /// Before a round: takes another token to replay when the last one could soon have expired.
    pub(crate) async fn refresh(&mut self, now: Duration) -> Result<(), (Step, ResponseError)> {
        if self.workload == Workload::Replay && now.saturating_sub(self.renewed) >= REPLAY_PERIOD {
            self.renewed = now;
            self.take_token().await?;
        }
        Ok(())
    }

    /// Makes one round. Returns when its first part was over, if it has two.
    pub(crate) async fn round(
        &mut self,
        stopwatch: &dyn Stopwatch,
    ) -> Result<Option<Duration>, (Step, ResponseError)> {
        match self.workload {
            Workload::Handshake => {
                self.token = self.issue().await?;
                let issued = stopwatch.elapsed();
                self.redeem(Step::Redeem).await?;
                return Ok(Some(issued));
            }
            Workload::Issue => {
                self.issue().await?;
            }
            Workload::Replay => self.redeem(Step::Replay).await?,
            Workload::Forged => {
                self.forged += 1;
                self.redeem(Step::Forged).await?;
            }
            Workload::Health => self.health().await.map_err(|wrong| (Step::Health, wrong))?,
        }
        Ok(None)
    }

    async fn take_token(&mut self) -> Result<(), (Step, ResponseError)> {
        if matches!(self.workload, Workload::Replay | Workload::Forged) {
            self.token = self.issue().await?;
        }
        if self.workload == Workload::Replay {
            self.redeem(Step::Redeem).await?;
        }
        Ok(())
    }

    async fn issue(&mut self) -> Result<String, (Step, ResponseError)> {
        issue(&mut self.private, &self.site.calls, &mut self.tokens)
            .await
            .map_err(|wrong| (Step::Issue, wrong))
    }

    async fn redeem(&mut self, step: Step) -> Result<(), (Step, ResponseError)> {
        self.request.clear();
        self.request.extend_from_slice(b"POST ");
        self.request.extend_from_slice(self.site.handshakes.before.as_bytes());
        let from = self.request.len();
        self.request.extend_from_slice(self.token.as_bytes());
        if step == Step::Forged {
            forge(self.request.get_mut(from..).unwrap_or_default(), self.forged);
        }
        self.request.extend_from_slice(&self.site.redeem_tail);
        let answer = self.public.ask(&self.request).await.map_err(|wrong| (step, wrong))?;
        let body = self.public.body(&answer);
        let right = match (step, answer.status) {
            (Step::Replay, 401 | 410) => body.trim_ascii_end() == SPENT,
            (Step::Forged, 404) => true,
            (Step::Redeem, 200) => body.trim_ascii_end() == VALIDATED,
            (_, status) => return Err((step, unexpected(status, body))),
        };
        if right { Ok(()) } else { Err((step, ResponseError::Body("it is not the text of the protocol"))) }
    }

    async fn health(&mut self) -> Result<(), ResponseError> {
        let answer = self.public.ask(&self.site.health).await?;
        if answer.status == 200 { Ok(()) } else { Err(unexpected(answer.status, self.public.body(&answer))) }
    }

    fn public_step(&self) -> Step {
        match self.workload {
            Workload::Handshake | Workload::Issue => Step::Redeem,
            Workload::Replay => Step::Replay,
            Workload::Forged => Step::Forged,
            Workload::Health => Step::Health,
        }
    }

    fn failed(&self, step: Step, wrong: ResponseError) -> PreflightError {
        let link = if matches!(step, Step::Issue) { &self.private } else { &self.public };
        PreflightError { step, server: link.url().to_owned(), wrong }
    }
}

/// Changes letters in the middle of a token, so that it looks as it did and was never issued: another for every `nth`.
fn forge(token: &mut [u8], nth: u64) {
    let middle = token.len() / 2;
    let mut nth = nth;
    for (place, byte) in token.iter_mut().skip(middle).take(FORGED_CHARS).enumerate() {
        // The first letter always becomes another one; the others count.
        let by = if place == 0 { 1 } else { u8::try_from(nth % 16).unwrap_or(0) };
        if place > 0 {
            nth /= 16;
        }
        if byte.is_ascii_alphabetic() {
            let first = if byte.is_ascii_uppercase() { b'A' } else { b'a' };
            *byte = first + (*byte - first + by) % 26;
        } else {
            // Base32 has the digits from 2 to 7; a letter does for every alphabet.
            *byte = b'a' + by;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn forged_tokens_differ_from_the_real_one_and_from_each_other() {
        for real in ["cs1abcdefghijklmnopqrstuvwxyz234567", "ABCzzz999ABCzzz999Zz", "7", "z9"] {
            let forged = |nth| {
                let mut token = real.as_bytes().to_vec();
                forge(&mut token, nth);
                assert_ne!(token, real.as_bytes());
                assert!(token.iter().all(u8::is_ascii_alphanumeric));
                assert_eq!(token.len(), real.len());
                token
            };
            let all: BTreeSet<_> = (0..1000).map(forged).collect();
            assert!(all.len() == 1000 || real.len() < 10, "{}", all.len());
        }
    }
}
