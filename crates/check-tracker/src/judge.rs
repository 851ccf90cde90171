//! The functions that judge the checks. Each is named after its check.

mod guess;
pub(crate) mod session;

use countersign_core::Audience;
use countersign_login::LoginOutcome;
use http::Method;

use crate::check::Judgement;
use crate::observation::{Observation, StepResult};
use crate::step::{Credential, Part, Reply, RequestExtra};
use crate::worker::detected;

/// The shortest key, in characters, that counts as unpredictable.
const MIN_KEY: usize = 16;

/// The most questions for one login.
const MAX_QUESTIONS: usize = 3;

pub(crate) fn detection(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    let found = detected(observation.tracker, result.answered()?)?;
    nobody_asked(result)?;
    Ok(found.to_owned())
}

pub(crate) fn login(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    let cookies = result.session()?;
    if result.issuer_log.questions.is_empty() {
        return Err("it let the worker in without asking the issuer".to_owned());
    }
    if cookies.is_empty() {
        return Err("it let the worker in and set no cookie".to_owned());
    }
    Ok(format!("it let the worker in, and set {}", session::names(&cookies)))
}

pub(crate) fn asks_with_post(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    match result.issuer_log.questions.iter().find(|question| question.method != Method::POST) {
        Some(question) => Err(format!("it asked with {}", question.method)),
        None => result.question().map(|_| "it asked with POST".to_owned()),
    }
}

pub(crate) fn asks_configured_url(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    match result.issuer_log.questions.iter().find(|question| !question.is_at_handshake_of(&result.token)) {
        None => result.question().map(|_| "it asked where it was told to".to_owned()),
        Some(question) => {
            Err(format!("it asked at {}", question.uri.to_string().replace(&result.token, "TOKEN")))
        }
    }
}

pub(crate) fn issuer_is_configured(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        let RequestExtra::Claim(claim) = result.step.with else { continue };
        let believed = if result.seems_let_in() { ", believed it, and let the worker in" } else { "" };
        if result.issuer_log.misled > 0 {
            return Err(format!("it asked an issuer that {claim} named{believed}"));
        }
        if !believed.is_empty() && result.issuer_log.questions.is_empty() {
            return Err(format!("because of {claim} it let the worker in without asking the issuer"));
        }
        result.answered()?;
    }
    Ok("no request could have it ask another issuer".to_owned())
}

pub(crate) fn verifies_certificate(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    if !result.issuer_log.questions.is_empty() {
        let believed = if result.seems_let_in() { " and let the worker in" } else { "" };
        return Err(format!("it asked an issuer with a certificate that nobody can trust{believed}"));
    }
    result.answered()?;
    if result.seems_let_in() {
        return Err("it let the worker in without asking the issuer".to_owned());
    }
    if result.issuer_log.callers == 0 {
        return Err("it did not come to the issuer at all".to_owned());
    }
    Ok("it hung up on an issuer with a certificate that nobody can trust".to_owned())
}

pub(crate) fn asks_once(observation: &Observation<'_>) -> Judgement {
    match observation.first()?.posts().count() {
        0 => Err("the issuer was not asked with POST".to_owned()),
        1 => Ok("it asked one question".to_owned()),
        more => Err(format!("it asked {more} questions, though the first was answered with yes")),
    }
}

pub(crate) fn asks_every_time(observation: &Observation<'_>) -> Judgement {
    let (first, again) = (observation.first()?, observation.result(1)?);
    first.session()?;
    again.answered()?;
    if again.seems_let_in() {
        return Err("it accepted a token that the issuer says is used up".to_owned());
    }
    Ok("it refused a token the second time".to_owned())
}

pub(crate) fn token_not_elsewhere(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        let holds = |bytes: &[u8]| contains(bytes, result.token.as_bytes());
        result.question()?;
        for question in &result.issuer_log.questions {
            if question.uri.query().is_some_and(|query| holds(query.as_bytes())) {
                return Err("the token was in the query of the question's URL".to_owned());
            }
            if let Some((name, _)) = question.headers.iter().find(|(_, value)| holds(value.as_bytes())) {
                return Err(format!("the token was in the question's header {name}"));
            }
            if holds(&question.body) {
                return Err("the token was in the question's body".to_owned());
            }
        }
        let answer = result.answered()?;
        if let Some((name, _)) = answer.headers.iter().find(|(_, value)| holds(value.as_bytes())) {
            return Err(format!("the token was in the header {name} of the tracker's answer"));
        }
    }
    Ok("the token was in the path of the question, and nowhere else".to_owned())
}

pub(crate) fn only_200(observation: &Observation<'_>) -> Judgement {
    observation.all_answered()?;
    none_let_in(observation)?;
    Ok(format!("it let nobody in after {} answers that are not 200", observation.visits.len()))
}

pub(crate) fn no_redirects(observation: &Observation<'_>) -> Judgement {
    observation.all_answered()?;
    let followed = |result: &&StepResult| {
        result.issuer_log.questions.iter().any(|question| !question.is_at_handshake_of(&result.token))
    };
    let followed: Vec<String> = observation.visits.iter().filter(followed).map(reply).collect();
    if !followed.is_empty() {
        return Err(format!("it followed a redirect after {}", followed.join(", ")));
    }
    none_let_in(observation)?;
    Ok("it followed no redirect".to_owned())
}

pub(crate) fn token_syntax(observation: &Observation<'_>) -> Judgement {
    let texts = |wrong: fn(&StepResult) -> bool| -> Vec<String> {
        let wrong = observation.visits.iter().filter(|result| wrong(result));
        wrong.map(|result| format!("{:?}", result.token)).collect()
    };
    let asked = texts(|result| !result.issuer_log.questions.is_empty() || result.issuer_log.garbled > 0);
    if !asked.is_empty() {
        return Err(format!("it asked the issuer about {}", asked.join(", ")));
    }
    let let_in = texts(StepResult::seems_let_in);
    if !let_in.is_empty() {
        return Err(format!("it let the worker in with {}", let_in.join(", ")));
    }
    Ok(format!("it asked nothing about {} texts that are no tokens", observation.visits.len()))
}

pub(crate) fn looking_is_free(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        result.answered()?;
        let request = match (result.step.credential, result.step.with) {
            (_, RequestExtra::Header(name, value)) => format!("a request with {name}: {value}"),
            (Credential::Look(method), _) => observation.tracker.kind().look_in_words(method),
            _ => "a request".to_owned(),
        };
        nobody_asked(result).map_err(|problem| format!("{problem} because of {request}"))?;
        if result.seems_let_in() {
            return Err(format!("it let the worker in because of {request}"));
        }
    }
    Ok("it asked nothing when the worker only looked".to_owned())
}

pub(crate) fn audience(observation: &Observation<'_>) -> Judgement {
    match observation.first()?.question()?.audience()? {
        Some(stated) if stated == *observation.audience => Ok(format!("it states {stated}")),
        Some(stated) => Err(format!(
            "it states the audience {stated}, and not {}; if that is its configured base URL, say so with --audience",
            observation.audience
        )),
        None => Err("it states no audience".to_owned()),
    }
}

pub(crate) fn audience_is_configured(observation: &Observation<'_>) -> Judgement {
    let stated = |result: &StepResult| result.question()?.audience();
    let plain = stated(observation.first()?)?;
    for result in observation.visits.iter().skip(1) {
        let claim = match result.step.with {
            RequestExtra::Header(name, value) => format!("the header {name}: {value}"),
            RequestExtra::Claim(claim) => claim.to_string(),
            _ => continue,
        };
        // To turn such a request away is fine, too.
        if result.issuer_log.questions.is_empty() {
            result.answered()?;
            continue;
        }
        let forged = stated(result)?;
        if forged != plain {
            let shown = |audience: Option<Audience>| audience.map_or("none".to_owned(), |a| a.to_string());
            return Err(format!("because of {claim} it states the audience {}", shown(forged)));
        }
    }
    Ok("it states the same whatever the request says".to_owned())
}

pub(crate) fn idempotency_key(observation: &Observation<'_>) -> Judgement {
    match observation.first()?.question()?.key() {
        None => Err("it sends no Idempotency-Key".to_owned()),
        Some(key) if key.len() < MIN_KEY => {
            Err(format!("its Idempotency-Key has {} characters, which can be guessed", key.len()))
        }
        Some(key) => Ok(format!("it sends an Idempotency-Key of {} characters", key.len())),
    }
}

pub(crate) fn key_per_login(observation: &Observation<'_>) -> Judgement {
    let mut seen: Vec<&[u8]> = Vec::new();
    for result in &observation.visits {
        let Some(key) = result.question()?.key() else { continue };
        if contains(key, result.token.as_bytes()) {
            return Err("its Idempotency-Key has the token in it".to_owned());
        }
        if seen.contains(&key) {
            return Err("it sent one Idempotency-Key in two logins".to_owned());
        }
        seen.push(key);
    }
    Ok(format!("{} logins had {} different keys", observation.visits.len(), seen.len()))
}

pub(crate) fn key_on_retry(observation: &Observation<'_>) -> Judgement {
    let mut retries = 0;
    for result in &observation.visits {
        let first = result.question()?;
        for question in result.posts().skip(1) {
            retries += 1;
            if first.key().is_none() || question.key() != first.key() {
                return Err("it asked again with another Idempotency-Key, or none, which an issuer refuses"
                    .to_owned());
            }
            if question.audience()? != first.audience()? {
                return Err("it stated another audience when it asked again".to_owned());
            }
        }
    }
    Ok(if retries == 0 {
        "it did not ask again".to_owned()
    } else {
        "it asked again with the same key".to_owned()
    })
}

pub(crate) fn lost_answer(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    result.answered()?;
    if result.posts().count() < 2 {
        return Err("it did not ask again when the answer was lost".to_owned());
    }
    result.session().map_err(|problem| format!("it asked again when the answer was lost, but {problem}"))?;
    Ok("it asked again when the answer was lost".to_owned())
}

pub(crate) fn refusal_is_final(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        result.question()?;
        let questions = result.posts().count();
        if questions > 1 {
            return Err(format!("it asked {questions} times, though the answer was {}", reply(result)));
        }
    }
    Ok("it took every refusal for an answer".to_owned())
}

pub(crate) fn stops_asking(observation: &Observation<'_>) -> Judgement {
    let most = observation.visits.iter().map(|result| result.posts().count()).max().unwrap_or_default();
    match most {
        0 => Err("the issuer was not asked with POST".to_owned()),
        1..=MAX_QUESTIONS => Ok(format!("it gave up after question {most}")),
        _ => Err(format!("it asked {most} times for one login")),
    }
}

/// For all checks after which the worker must know that it met the plugin and was not let in.
pub(crate) fn refused(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        let after = |what: &str| Err(format!("after {} {what}", reply(result)));
        match result.outcome() {
            Ok(LoginOutcome::Refused) => {}
            Ok(LoginOutcome::LetIn) => return after("it let the worker in"),
            Ok(LoginOutcome::Other(what)) => return after(&format!("it answered with {what}")),
            Err(trouble) => return after(&trouble),
        }
    }
    Ok(format!("it {}", observation.tracker.kind().refuses_by()))
}

pub(crate) fn issuer_slow(observation: &Observation<'_>) -> Judgement {
    for result in &observation.visits {
        let after = |what: &str| Err(format!("after {} {what}", reply(result)));
        match result.outcome() {
            Err(trouble) => return after(&trouble),
            // With the whole head there is the status, which is all that counts.
            Ok(_) if matches!(result.step.issuer, [Reply::Drip(Part::Body)]) => {}
            Ok(LoginOutcome::Refused) => {}
            Ok(LoginOutcome::LetIn) => return after("it let the worker in"),
            Ok(LoginOutcome::Other(what)) => return after(&format!("it answered with {what}")),
        }
    }
    Ok("it gave up on answers that drip".to_owned())
}

pub(crate) fn short_read(observation: &Observation<'_>) -> Judgement {
    let result = observation.first()?;
    result.question()?;
    if result.issuer_log.read_all {
        let megabytes = crate::issuer::LONG_BODY / (1024 * 1024);
        return Err(format!("it read all {megabytes} MiB of an answer"));
    }
    result.answered()?;
    Ok("it did not read an answer without end".to_owned())
}

impl Observation<'_> {
    fn first(&self) -> Result<&StepResult, String> {
        self.result(0)
    }

    fn result(&self, index: usize) -> Result<&StepResult, String> {
        self.visits.get(index).ok_or_else(|| "nothing happened".to_owned())
    }

    fn all_answered(&self) -> Result<(), String> {
        self.visits.iter().try_for_each(|result| result.answered().map(drop))
    }
}

fn nobody_asked(result: &StepResult) -> Result<(), String> {
    match result.issuer_log.questions.first() {
        None => Ok(()),
        Some(question) => Err(format!("it asked the issuer with {}", question.method)),
    }
}

fn none_let_in(observation: &Observation<'_>) -> Result<(), String> {
    let let_in: Vec<String> =
        observation.visits.iter().filter(|result| result.seems_let_in()).map(reply).collect();
    if let_in.is_empty() { Ok(()) } else { Err(format!("it let the worker in after {}", let_in.join(", "))) }
}

/// What the issuer did first in this step, in words.
fn reply(result: &StepResult) -> String {
    match result.step.issuer.first() {
        Some(Reply::Status(status) | Reply::Redirect(status)) => status.to_string(),
        Some(Reply::Cut) => "a lost connection".to_owned(),
        Some(Reply::Silent) => "a silence".to_owned(),
        Some(Reply::Drip(Part::StatusLine)) => "a status line that drips".to_owned(),
        Some(Reply::Drip(Part::Headers)) => "headers that drip".to_owned(),
        Some(Reply::Drip(Part::Body)) => "a body that drips".to_owned(),
        Some(Reply::Continue) => "100 Continue without end".to_owned(),
        Some(Reply::Raw(text)) => format!("an answer that is not HTTP, {text:?}"),
        Some(Reply::LongBody) | None => "an answer".to_owned(),
    }
}

impl StepResult {
    /// When something happened in this step, in words.
    fn after(&self) -> String {
        match self.step.credential {
            Credential::Nothing => "for a worker that brought nothing".to_owned(),
            Credential::Text(text) => format!("for {text:?}, which is no token"),
            _ => format!("after {} of the issuer", reply(self)),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}
