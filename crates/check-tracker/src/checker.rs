//! Runs the steps of each check and judges the outcome.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Audience, Clock, Entropy};
use countersign_login::{HttpSettings, Login, LoginError, LoginOutcome, Parameter, Session, Zeroizing};
use data_encoding::BASE32_NOPAD;
use http::header::{COOKIE, FORWARDED};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use url::Url;

use crate::api::ApiRun;
use crate::check::CheckKind;
use crate::cookies::live_cookies;
use crate::issuer::Decoys;
use crate::observation::{Observation, StepResult};
use crate::step::{
    CHOSEN, Credential, ForgedOrigin, ISSUER_NAMES, IssuerScheme, RequestExtra, Step, TRACKER_NAMES, YES,
};
use crate::worker::{Extras, Worker, said};
use crate::{API_CHECKS, CHECKS, Check, CheckError, Finding, Issuer, Report, Tracker};

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
    clock: Arc<dyn Clock>,
    /// What tokens are made of.
    entropy: Arc<dyn Entropy>,
    /// A bug to try the plugin API with.
    bug: Option<String>,
}

impl Checker {
    /// # Errors
    ///
    /// [`CheckError::Tls`] if the TLS library does not work on this machine.
    pub fn new(
        issuer: Issuer,
        subject: Subject,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, CheckError> {
        let worker = Worker::new(subject.timeout)?;
        Ok(Self { issuer, worker, subject, clock, entropy, bug: None })
    }

    /// Makes the checks of the plugin API, too, with this bug of the tracker. It gets comments, and a link for a moment.
    #[must_use]
    pub fn with_bug(mut self, bug: &str) -> Self {
        self.bug = Some(bug.to_owned());
        self
    }

    /// Makes sure that the tracker is there and asks this issuer.
    ///
    /// # Errors
    ///
    /// [`CheckError::NoTracker`] and [`CheckError::NotAsked`], after either of which it is worth trying again later.
    pub async fn reach(&self) -> Result<(), CheckError> {
        let visit = self.step(Step::login(&[YES]), None).await?;
        // With a certificate of its own the issuer must not be asked; to have come to it is enough.
        let is_known = match self.issuer.over() {
            IssuerScheme::Http => !visit.issuer_log.questions.is_empty(),
            IssuerScheme::SelfSigned => visit.issuer_log.callers > 0,
        };
        if is_known {
            return Ok(());
        }
        let url = self.subject.base.to_string();
        let outcome = visit.outcome().map_err(|reason| CheckError::NoTracker { url: url.clone(), reason })?;
        let answered = match outcome {
            // That it never asks is what the checks are there to say.
            LoginOutcome::LetIn => return Ok(()),
            _ if visit.issuer_log.garbled > 0 => "sent something that is not plain HTTP".to_owned(),
            LoginOutcome::Refused => {
                let said = visit.answer.as_ref().map(|answer| said(self.subject.tracker, answer));
                format!("refused a token{}", said.unwrap_or_default().replace(&visit.token, "TOKEN"))
            }
            LoginOutcome::Other(what) => format!("met a token with {what}"),
        };
        Err(CheckError::NotAsked { url, answered, auth_server: self.issuer.auth_server() })
    }

    /// Makes the checks with these names, or without names all that suit this issuer. Calls `found` for each result as it comes.
    ///
    /// # Errors
    ///
    /// [`CheckError::NoSuchCheck`], and [`CheckError::Entropy`] if no tokens can be made up.
    pub async fn run(&self, only: &[String], mut found: impl FnMut(&Finding)) -> Result<Report, CheckError> {
        let checks: Vec<&Check> =
            CHECKS.iter().chain(API_CHECKS).filter(|check| self.can_make(check)).collect();
        let is_known = |name: &str| checks.iter().any(|check| check.name == name);
        if let Some(name) = only.iter().find(|name| !is_known(name)).cloned() {
            let names = checks.iter().map(|check| check.name).collect::<Vec<_>>().join(", ");
            return Err(CheckError::NoSuchCheck { name, names });
        }
        let mut findings = Vec::new();
        let mut round = self.bug.as_deref().map(|bug| ApiRun::new(self, bug)).transpose()?;
        for check in checks {
            if only.is_empty() || only.iter().any(|name| name == check.name) {
                let finding = self.check(check, round.as_mut()).await?;
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

    /// Whether this issuer, and what is known of the tracker, are enough for it.
    fn can_make(&self, check: &Check) -> bool {
        match check.how {
            CheckKind::Watch { over, .. } => over == self.issuer.over(),
            CheckKind::Api(_) => self.bug.is_some(),
        }
    }

    async fn check(&self, check: &Check, round: Option<&mut ApiRun<'_>>) -> Result<Finding, CheckError> {
        let judgement = match (&check.how, round) {
            (CheckKind::Watch { steps, judge, .. }, _) => judge(&self.observation(steps).await?),
            (CheckKind::Api(used), Some(round)) => round.judge(*used).await,
            (CheckKind::Api(_), None) => Err("there is no bug to try it with".to_owned()),
        };
        Ok(Finding::new(check, judgement))
    }

    async fn observation(&self, steps: &[Step]) -> Result<Observation<'_>, CheckError> {
        let Subject { tracker, base, audience, .. } = &self.subject;
        let mut visits: Vec<StepResult> = Vec::new();
        for step in steps {
            let visit = self.step(*step, visits.last()).await?;
            visits.push(visit);
        }
        Ok(Observation { tracker: *tracker, base, audience, visits })
    }

    /// Logs in as a worker does that means it, with a token that the issuer says yes to.
    pub(crate) async fn log_in(&self, login: &Login<'_>) -> Result<Session, String> {
        let token = self.made_up_token().map_err(|error| error.to_string())?;
        let brought = token.clone();
        let session = login
            .run(self.clock.now(), async |_| {
                self.issuer.begin(&token, &[YES]);
                Ok::<_, Infallible>(Zeroizing::new(brought))
            })
            .await;
        self.issuer.end();
        session.map_err(|error| error.to_string())
    }

    /// The login that the worker of the plugin API makes.
    pub(crate) fn login(&self) -> Result<Login<'static>, LoginError> {
        let Subject { tracker, base, timeout, .. } = &self.subject;
        let settings = HttpSettings { timeout: *timeout, allow_http: true, ..HttpSettings::default() };
        Ok(Login::new(*tracker, base.as_str())?.http(settings))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn tracker(&self) -> Tracker {
        self.subject.tracker
    }

    async fn step(&self, step: Step, before: Option<&StepResult>) -> Result<StepResult, CheckError> {
        let token = match step.credential {
            Credential::Token | Credential::Look(_) => self.made_up_token()?,
            Credential::SameToken => before.map(|visit| visit.token.clone()).unwrap_or_default(),
            Credential::Text(text) => text.to_owned(),
            Credential::Nothing => String::new(),
        };
        let Subject { tracker, base, .. } = &self.subject;
        self.issuer.begin(&token, step.issuer);
        let began = self.clock.now();
        let decoys = self.issuer.decoys();
        let extras = Extras { headers: headers(step.with, before, decoys), query: query(step.with, decoys) };
        let answer = self.worker.visit((*tracker, base), step.credential, &token, extras).await;
        let issuer_log = self.issuer.end();
        Ok(StepResult { step, token, tracker: *tracker, began, answer, issuer_log })
    }

    /// A token that no issuer made.
    fn made_up_token(&self) -> Result<String, CheckError> {
        let mut bytes = [0; TOKEN_BYTES];
        self.entropy.fill(&mut bytes)?;
        Ok(format!("cs1{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }
}

fn headers(with: RequestExtra, before: Option<&StepResult>, decoys: Decoys) -> HeaderMap {
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
        RequestExtra::Nothing => None,
        RequestExtra::Header(name, value) => {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value))
        }
        RequestExtra::Claim(claim) => {
            headers.extend(claim_header(claim, decoys));
            None
        }
        RequestExtra::CookiesOfBefore => cookies(None).and_then(|value| headers.insert(COOKIE, value)),
        RequestExtra::ChosenCookies => cookies(Some(CHOSEN)).and_then(|value| headers.insert(COOKIE, value)),
    };
    headers
}

fn claim_header(claim: ForgedOrigin, decoys: Decoys) -> Option<(HeaderName, HeaderValue)> {
    let Decoys { host, port } = decoys;
    let (name, value) = match claim {
        ForgedOrigin::Host(name) => (HeaderName::from_static(name), host.to_string()),
        ForgedOrigin::Port(name) => (HeaderName::from_static(name), port.port().to_string()),
        ForgedOrigin::Url(name) => (HeaderName::from_static(name), format!("http://{host}/")),
        ForgedOrigin::Forwarded => (FORWARDED, format!("host=\"{host}\";proto=http")),
        ForgedOrigin::Cookies => {
            let pairs = named_claims(host).map(|(name, url)| format!("{name}={url}"));
            (COOKIE, pairs.collect::<Vec<_>>().join("; "))
        }
        ForgedOrigin::Query => return None,
    };
    Some((name, HeaderValue::try_from(value).ok()?))
}

/// Further query parameters of the request.
fn query(with: RequestExtra, decoys: Decoys) -> Vec<Parameter> {
    match with {
        RequestExtra::Claim(ForgedOrigin::Query) => named_claims(decoys.host).collect(),
        _ => Vec::new(),
    }
}

/// The URLs of an issuer and of a tracker at that address, by all names that they may go by.
fn named_claims(host: SocketAddr) -> impl Iterator<Item = Parameter> {
    let handshake = format!("http://{host}/token/%s/+bugtracker-handshake");
    let issuer = ISSUER_NAMES.iter().map(move |name| (*name, handshake.clone()));
    issuer.chain(TRACKER_NAMES.iter().map(move |name| (*name, format!("http://{host}/"))))
}
