//! Takes the steps of each check, and has the outcome judged.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Audience, Entropy};
use data_encoding::BASE32_NOPAD;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::check::{Bring, CHOSEN, Step, With, YES};
use crate::cookies::live_cookies;
use crate::scene::{Scene, Visit};
use crate::worker::{Outcome, Worker, said};
use crate::{CHECKS, Check, CheckError, Finding, Issuer, Report, Tracker};

/// How long a tracker may take for an answer. Two questions to a silent issuer at ten seconds each are well within it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How many random bytes make a token. Written down, it is about as long as a real one.
const TOKEN_BYTES: usize = 60;

/// The tracker to be checked.
#[derive(Clone, Debug)]
pub struct Subject {
    tracker: Tracker,
    base: Url,
    audience: Audience,
    timeout: Duration,
}

impl Subject {
    /// The tracker at this base URL, which states `audience` as its own; if that is `None`, the same URL.
    ///
    /// # Errors
    ///
    /// [`CheckError::Url`] and [`CheckError::Audience`] if they are not base URLs of trackers.
    pub fn new(tracker: Tracker, url: &str, audience: Option<&str>) -> Result<Self, CheckError> {
        let own = Audience::parse(url).map_err(CheckError::Url)?;
        let base = Url::parse(own.as_str())
            .map_err(|_| CheckError::Url(countersign_core::AudienceError::NotAUrl))?;
        let audience = match audience {
            Some(text) => Audience::parse(text).map_err(CheckError::Audience)?,
            None => own,
        };
        Ok(Self { tracker, base, audience, timeout: DEFAULT_TIMEOUT })
    }

    /// How long the tracker may take for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Checks one tracker, which must be configured with the issuer's address.
pub struct Checker {
    issuer: Issuer,
    worker: Worker,
    subject: Subject,
    /// What tokens are made of.
    entropy: Arc<dyn Entropy>,
}

impl Checker {
    /// # Errors
    ///
    /// [`CheckError::Tls`] if the TLS library does not work on this machine.
    pub fn new(issuer: Issuer, subject: Subject, entropy: Arc<dyn Entropy>) -> Result<Self, CheckError> {
        let worker = Worker::new(subject.timeout)?;
        Ok(Self { issuer, worker, subject, entropy })
    }

    /// Makes sure that the tracker is there and asks this issuer.
    ///
    /// # Errors
    ///
    /// [`CheckError::NoTracker`] and [`CheckError::NotAsked`], after either of which it is worth trying again later.
    pub async fn reach(&self) -> Result<(), CheckError> {
        let visit = self.step(Step::login(&[YES]), None).await?;
        if !visit.heard.questions.is_empty() {
            return Ok(());
        }
        let url = self.subject.base.to_string();
        let outcome = visit.outcome().map_err(|reason| CheckError::NoTracker { url: url.clone(), reason })?;
        let answered = match outcome {
            // That it never asks is what the checks are there to say.
            Outcome::LetIn => return Ok(()),
            _ if visit.heard.garbled > 0 => "sent something that is not plain HTTP".to_owned(),
            Outcome::Refused => {
                let said = visit.answer.as_ref().map(|answer| said(self.subject.tracker, answer));
                format!("refused a token{}", said.unwrap_or_default().replace(&visit.token, "TOKEN"))
            }
            Outcome::Other(what) => format!("met a token with {what}"),
        };
        Err(CheckError::NotAsked { url, answered, auth_server: self.issuer.auth_server() })
    }

    /// Makes the checks of these names, or all of them if there are none. `found` is told of each as it comes.
    ///
    /// # Errors
    ///
    /// [`CheckError::NoSuchCheck`], and [`CheckError::Entropy`] if no tokens can be made up.
    pub async fn run(&self, only: &[String], mut found: impl FnMut(&Finding)) -> Result<Report, CheckError> {
        let is_known = |name: &str| CHECKS.iter().any(|check| check.name == name);
        if let Some(name) = only.iter().find(|name| !is_known(name)).cloned() {
            let names = CHECKS.iter().map(|check| check.name).collect::<Vec<_>>().join(", ");
            return Err(CheckError::NoSuchCheck { name, names });
        }
        let mut findings = Vec::new();
        for check in CHECKS {
            if only.is_empty() || only.iter().any(|name| name == check.name) {
                let finding = self.check(check).await?;
                found(&finding);
                findings.push(finding);
            }
        }
        Ok(Report {
            tracker: self.subject.base.to_string(),
            kind: self.subject.tracker.name(),
            audience: self.subject.audience.to_string(),
            findings,
        })
    }

    async fn check(&self, check: &Check) -> Result<Finding, CheckError> {
        let Subject { tracker, base, audience, .. } = &self.subject;
        let mut visits: Vec<Visit> = Vec::new();
        for step in check.steps {
            let visit = self.step(*step, visits.last()).await?;
            visits.push(visit);
        }
        let scene = Scene { tracker: *tracker, base, audience, visits };
        Ok(Finding::new(check, (check.judge)(&scene)))
    }

    async fn step(&self, step: Step, before: Option<&Visit>) -> Result<Visit, CheckError> {
        let token = match step.bring {
            Bring::Token | Bring::Look => self.made_up_token()?,
            Bring::SameToken => before.map(|visit| visit.token.clone()).unwrap_or_default(),
            Bring::Text(text) => text.to_owned(),
            Bring::Nothing => String::new(),
        };
        let Subject { tracker, base, .. } = &self.subject;
        self.issuer.begin(&token, step.issuer);
        let headers = headers(step.with, before);
        let answer = self.worker.visit((*tracker, base), step.bring, &token, headers).await;
        let heard = self.issuer.end();
        Ok(Visit { step, token, tracker: *tracker, answer, heard })
    }

    /// A token that no issuer made.
    fn made_up_token(&self) -> Result<String, CheckError> {
        let mut bytes = [0; TOKEN_BYTES];
        self.entropy.fill(&mut bytes)?;
        Ok(format!("cs1{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }
}

fn headers(with: With, before: Option<&Visit>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let cookies = before
        .and_then(|visit| visit.answer.as_ref().ok())
        .map(|answer| live_cookies(&answer.headers))
        .unwrap_or_default();
    let cookies = |chosen: Option<&str>| {
        let pairs =
            cookies.iter().map(|cookie| format!("{}={}", cookie.name, chosen.unwrap_or(&cookie.value)));
        HeaderValue::try_from(pairs.collect::<Vec<_>>().join("; ")).ok()
    };
    match with {
        With::Nothing => None,
        With::Header(name, value) => {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value))
        }
        With::CookiesOfBefore => cookies(None).and_then(|value| headers.insert(COOKIE, value)),
        With::ChosenCookies => cookies(Some(CHOSEN)).and_then(|value| headers.insert(COOKIE, value)),
    };
    headers
}
