//! The functions that judge the checks. Each is named after its check.

mod guess;
pub(crate) mod session;

use countersign_core::Audience;
use http::Method;

use crate::check::{Bring, Judgement, Part, Reply, With};
use crate::scene::{Scene, Visit};
use crate::worker::{Outcome, detected, sent_to_look};

/// The shortest key, in characters, that counts as unpredictable.
const MIN_KEY: usize = 16;

/// The most questions for one login.
const MAX_QUESTIONS: usize = 3;

pub(crate) fn detection(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    let found = detected(scene.tracker, visit.answered()?)?;
    nobody_asked(visit)?;
    Ok(found)
}

pub(crate) fn login(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    let cookies = visit.session()?;
    if visit.heard.questions.is_empty() {
        return Err("it let the worker in without asking the issuer".to_owned());
    }
    if cookies.is_empty() {
        return Err("it let the worker in and set no cookie".to_owned());
    }
    Ok(format!("it let the worker in, and set {}", session::names(&cookies)))
}

pub(crate) fn asks_with_post(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    match visit.heard.questions.iter().find(|question| question.method != Method::POST) {
        Some(question) => Err(format!("it asked with {}", question.method)),
        None => visit.question().map(|_| "it asked with POST".to_owned()),
    }
}

pub(crate) fn asks_configured_url(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    match visit.heard.questions.iter().find(|question| !question.is_at_handshake_of(&visit.token)) {
        None => visit.question().map(|_| "it asked where it was told to".to_owned()),
        Some(question) => {
            Err(format!("it asked at {}", question.uri.to_string().replace(&visit.token, "TOKEN")))
        }
    }
}

pub(crate) fn issuer_is_configured(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        let With::Claim(claim) = visit.step.with else { continue };
        let believed = if visit.seems_let_in() { ", believed it, and let the worker in" } else { "" };
        if visit.heard.misled > 0 {
            return Err(format!("it asked an issuer that {claim} named{believed}"));
        }
        if !believed.is_empty() && visit.heard.questions.is_empty() {
            return Err(format!("because of {claim} it let the worker in without asking the issuer"));
        }
        visit.answered()?;
    }
    Ok("no request could have it ask another issuer".to_owned())
}

pub(crate) fn verifies_certificate(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    if !visit.heard.questions.is_empty() {
        let believed = if visit.seems_let_in() { " and let the worker in" } else { "" };
        return Err(format!("it asked an issuer with a certificate that nobody can trust{believed}"));
    }
    visit.answered()?;
    if visit.seems_let_in() {
        return Err("it let the worker in without asking the issuer".to_owned());
    }
    if visit.heard.callers == 0 {
        return Err("it did not come to the issuer at all".to_owned());
    }
    Ok("it hung up on an issuer with a certificate that nobody can trust".to_owned())
}

pub(crate) fn asks_once(scene: &Scene<'_>) -> Judgement {
    match scene.first()?.posts().count() {
        0 => Err("the issuer was not asked with POST".to_owned()),
        1 => Ok("it asked one question".to_owned()),
        more => Err(format!("it asked {more} questions, though the first was answered with yes")),
    }
}

pub(crate) fn asks_every_time(scene: &Scene<'_>) -> Judgement {
    let (first, again) = (scene.first()?, scene.visit(1)?);
    first.session()?;
    again.answered()?;
    if again.seems_let_in() {
        return Err("it accepted a token that the issuer says is used up".to_owned());
    }
    Ok("it refused a token the second time".to_owned())
}

pub(crate) fn token_not_elsewhere(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        let holds = |bytes: &[u8]| contains(bytes, visit.token.as_bytes());
        visit.question()?;
        for question in &visit.heard.questions {
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
        let answer = visit.answered()?;
        if let Some((name, _)) = answer.headers.iter().find(|(_, value)| holds(value.as_bytes())) {
            return Err(format!("the token was in the header {name} of the tracker's answer"));
        }
    }
    Ok("the token was in the path of the question, and nowhere else".to_owned())
}

pub(crate) fn only_200(scene: &Scene<'_>) -> Judgement {
    scene.all_answered()?;
    none_let_in(scene)?;
    Ok(format!("it let nobody in after {} answers that are not 200", scene.visits.len()))
}

pub(crate) fn no_redirects(scene: &Scene<'_>) -> Judgement {
    scene.all_answered()?;
    let followed = |visit: &&Visit| {
        visit.heard.questions.iter().any(|question| !question.is_at_handshake_of(&visit.token))
    };
    let followed: Vec<String> = scene.visits.iter().filter(followed).map(reply).collect();
    if !followed.is_empty() {
        return Err(format!("it followed a redirect after {}", followed.join(", ")));
    }
    none_let_in(scene)?;
    Ok("it followed no redirect".to_owned())
}

pub(crate) fn token_syntax(scene: &Scene<'_>) -> Judgement {
    let texts = |wrong: fn(&Visit) -> bool| -> Vec<String> {
        let wrong = scene.visits.iter().filter(|visit| wrong(visit));
        wrong.map(|visit| format!("{:?}", visit.token)).collect()
    };
    let asked = texts(|visit| !visit.heard.questions.is_empty() || visit.heard.garbled > 0);
    if !asked.is_empty() {
        return Err(format!("it asked the issuer about {}", asked.join(", ")));
    }
    let let_in = texts(Visit::seems_let_in);
    if !let_in.is_empty() {
        return Err(format!("it let the worker in with {}", let_in.join(", ")));
    }
    Ok(format!("it asked nothing about {} texts that are no tokens", scene.visits.len()))
}

pub(crate) fn looking_is_free(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        visit.answered()?;
        let request = match (visit.step.bring, visit.step.with) {
            (_, With::Header(name, value)) => format!("a request with {name}: {value}"),
            (Bring::Look(method), _) => sent_to_look(scene.tracker, method),
            _ => "a request".to_owned(),
        };
        nobody_asked(visit).map_err(|problem| format!("{problem} because of {request}"))?;
        if visit.seems_let_in() {
            return Err(format!("it let the worker in because of {request}"));
        }
    }
    Ok("it asked nothing when the worker only looked".to_owned())
}

pub(crate) fn audience(scene: &Scene<'_>) -> Judgement {
    match scene.first()?.question()?.audience()? {
        Some(stated) if stated == *scene.audience => Ok(format!("it states {stated}")),
        Some(stated) => Err(format!(
            "it states the audience {stated}, and not {}; if that is its configured base URL, say so with --audience",
            scene.audience
        )),
        None => Err("it states no audience".to_owned()),
    }
}

pub(crate) fn audience_is_configured(scene: &Scene<'_>) -> Judgement {
    let stated = |visit: &Visit| visit.question()?.audience();
    let plain = stated(scene.first()?)?;
    for visit in scene.visits.iter().skip(1) {
        let claim = match visit.step.with {
            With::Header(name, value) => format!("the header {name}: {value}"),
            With::Claim(claim) => claim.to_string(),
            _ => continue,
        };
        // To turn such a request away is fine, too.
        if visit.heard.questions.is_empty() {
            visit.answered()?;
            continue;
        }
        let forged = stated(visit)?;
        if forged != plain {
            let shown = |audience: Option<Audience>| audience.map_or("none".to_owned(), |a| a.to_string());
            return Err(format!("because of {claim} it states the audience {}", shown(forged)));
        }
    }
    Ok("it states the same whatever the request says".to_owned())
}

pub(crate) fn idempotency_key(scene: &Scene<'_>) -> Judgement {
    match scene.first()?.question()?.key() {
        None => Err("it sends no Idempotency-Key".to_owned()),
        Some(key) if key.len() < MIN_KEY => {
            Err(format!("its Idempotency-Key has {} characters, which can be guessed", key.len()))
        }
        Some(key) => Ok(format!("it sends an Idempotency-Key of {} characters", key.len())),
    }
}

pub(crate) fn key_per_login(scene: &Scene<'_>) -> Judgement {
    let mut seen: Vec<&[u8]> = Vec::new();
    for visit in &scene.visits {
        let Some(key) = visit.question()?.key() else { continue };
        if contains(key, visit.token.as_bytes()) {
            return Err("its Idempotency-Key has the token in it".to_owned());
        }
        if seen.contains(&key) {
            return Err("it sent one Idempotency-Key in two logins".to_owned());
        }
        seen.push(key);
    }
    Ok(format!("{} logins had {} different keys", scene.visits.len(), seen.len()))
}

pub(crate) fn key_on_retry(scene: &Scene<'_>) -> Judgement {
    let mut retries = 0;
    for visit in &scene.visits {
        let first = visit.question()?;
        for question in visit.posts().skip(1) {
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

pub(crate) fn lost_answer(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    visit.answered()?;
    if visit.posts().count() < 2 {
        return Err("it did not ask again when the answer was lost".to_owned());
    }
    visit.session().map_err(|problem| format!("it asked again when the answer was lost, but {problem}"))?;
    Ok("it asked again when the answer was lost".to_owned())
}

pub(crate) fn refusal_is_final(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        visit.question()?;
        let questions = visit.posts().count();
        if questions > 1 {
            return Err(format!("it asked {questions} times, though the answer was {}", reply(visit)));
        }
    }
    Ok("it took every refusal for an answer".to_owned())
}

pub(crate) fn stops_asking(scene: &Scene<'_>) -> Judgement {
    let most = scene.visits.iter().map(|visit| visit.posts().count()).max().unwrap_or_default();
    match most {
        0 => Err("the issuer was not asked with POST".to_owned()),
        1..=MAX_QUESTIONS => Ok(format!("it gave up after question {most}")),
        _ => Err(format!("it asked {most} times for one login")),
    }
}

/// For all checks after which the worker must know that it met the plugin and was not let in.
pub(crate) fn refused(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        let after = |what: &str| Err(format!("after {} {what}", reply(visit)));
        match visit.outcome() {
            Ok(Outcome::Refused) => {}
            Ok(Outcome::LetIn) => return after("it let the worker in"),
            Ok(Outcome::Other(what)) => return after(&format!("it answered with {what}")),
            Err(trouble) => return after(&trouble),
        }
    }
    Ok(match scene.tracker {
        crate::Tracker::Trac => "it answered 401".to_owned(),
        crate::Tracker::Bugzilla => "it answered with a fault".to_owned(),
    })
}

pub(crate) fn issuer_slow(scene: &Scene<'_>) -> Judgement {
    for visit in &scene.visits {
        let after = |what: &str| Err(format!("after {} {what}", reply(visit)));
        match visit.outcome() {
            Err(trouble) => return after(&trouble),
            // With the whole head there is the status, which is all that counts.
            Ok(_) if matches!(visit.step.issuer, [Reply::Drip(Part::Body)]) => {}
            Ok(Outcome::Refused) => {}
            Ok(Outcome::LetIn) => return after("it let the worker in"),
            Ok(Outcome::Other(what)) => return after(&format!("it answered with {what}")),
        }
    }
    Ok("it gave up on answers that drip".to_owned())
}

pub(crate) fn short_read(scene: &Scene<'_>) -> Judgement {
    let visit = scene.first()?;
    visit.question()?;
    if visit.heard.read_all {
        let megabytes = crate::issuer::LONG_BODY / (1024 * 1024);
        return Err(format!("it read all {megabytes} MiB of an answer"));
    }
    visit.answered()?;
    Ok("it did not read an answer without end".to_owned())
}

impl Scene<'_> {
    fn first(&self) -> Result<&Visit, String> {
        self.visit(0)
    }

    fn visit(&self, index: usize) -> Result<&Visit, String> {
        self.visits.get(index).ok_or_else(|| "nothing happened".to_owned())
    }

    fn all_answered(&self) -> Result<(), String> {
        self.visits.iter().try_for_each(|visit| visit.answered().map(drop))
    }
}

fn nobody_asked(visit: &Visit) -> Result<(), String> {
    match visit.heard.questions.first() {
        None => Ok(()),
        Some(question) => Err(format!("it asked the issuer with {}", question.method)),
    }
}

fn none_let_in(scene: &Scene<'_>) -> Result<(), String> {
    let let_in: Vec<String> = scene.visits.iter().filter(|visit| visit.seems_let_in()).map(reply).collect();
    if let_in.is_empty() { Ok(()) } else { Err(format!("it let the worker in after {}", let_in.join(", "))) }
}

/// What the issuer did first in this step, in words.
fn reply(visit: &Visit) -> String {
    match visit.step.issuer.first() {
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

impl Visit {
    /// When something happened in this step, in words.
    fn after(&self) -> String {
        match self.step.bring {
            Bring::Nothing => "for a worker that brought nothing".to_owned(),
            Bring::Text(text) => format!("for {text:?}, which is no token"),
            _ => format!("after {} of the issuer", reply(self)),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}
