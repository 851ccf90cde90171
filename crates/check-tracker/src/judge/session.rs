//! What the checks of the session look at: the cookies of a login.

use std::collections::BTreeSet;

use crate::check::Judgement;
use crate::cookies::{Cookie, live_cookies};
use crate::observation::{Observation, StepResult};
use crate::step::{CHOSEN, RequestExtra};

use super::guess::{self, Login};

pub(crate) fn new_session(observation: &Observation<'_>) -> Judgement {
    let mut seen: Vec<BTreeSet<(String, String)>> = Vec::new();
    for result in &observation.visits {
        let cookies = session_cookies(result)?;
        let session = cookies.into_iter().map(|cookie| (cookie.name, cookie.value)).collect();
        if seen.contains(&session) {
            return Err("two logins had the same session cookie".to_owned());
        }
        seen.push(session);
    }
    Ok(format!("{} logins had {} different sessions", observation.visits.len(), seen.len()))
}

pub(crate) fn no_fixation(observation: &Observation<'_>) -> Judgement {
    session_cookies(observation.first()?)?;
    let cookies = session_cookies(observation.result(1)?)?;
    match cookies.iter().find(|cookie| cookie.value.contains(CHOSEN)) {
        None => Ok("it did not adopt the cookie that the worker chose".to_owned()),
        Some(cookie) => {
            Err(format!("it adopted the value that the worker chose for the cookie {}", cookie.name))
        }
    }
}

pub(crate) fn session_unguessable(observation: &Observation<'_>) -> Judgement {
    let mut logins: Vec<(&StepResult, Vec<Cookie>)> = Vec::new();
    for result in &observation.visits {
        logins.push((result, session_cookies(result)?));
    }
    let value = |cookies: &[Cookie], name: &str| {
        cookies.iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value.clone())
    };
    let names: BTreeSet<String> =
        logins.iter().flat_map(|(_, cookies)| cookies).map(|cookie| cookie.name.clone()).collect();
    let mut changing = Vec::new();
    for name in names {
        let values: Vec<(&StepResult, String)> =
            logins.iter().filter_map(|(result, cookies)| Some((*result, value(cookies, &name)?))).collect();
        // Such as the number of the user, beside the session itself.
        if values.iter().all(|(_, value)| values.first().is_some_and(|(_, first)| first == value)) {
            continue;
        }
        let known: Vec<Login<'_>> = values
            .iter()
            .map(|(result, value)| Login { token: &result.token, began: result.began, value })
            .collect();
        if let Some(how) = guess::how(&known) {
            return Err(format!("the cookie {name} can be guessed: {how}"));
        }
        changing.push(name);
    }
    if changing.is_empty() {
        return Err("all logins had the same cookies".to_owned());
    }
    // The last two visits brought the same token.
    let [.., (_, before), (_, last)] = logins.as_slice() else { return Err("nothing happened".to_owned()) };
    if changing.iter().all(|name| value(before, name) == value(last, name)) {
        return Err(
            "the session follows from the token alone: the same token had the same session twice".to_owned()
        );
    }
    Ok(format!("{} logins had sessions that nothing known leads to", logins.len()))
}

pub(crate) fn no_session_on_refusal(observation: &Observation<'_>) -> Judgement {
    let names: Vec<String> =
        session_cookies(observation.first()?)?.into_iter().map(|cookie| cookie.name).collect();
    // Only refused logins count here; other checks report a login that should have been refused.
    for result in observation.visits.iter().skip(1).filter(|result| !result.seems_let_in()) {
        let cookies = live_cookies(&result.answered()?.headers);
        if let Some(cookie) = cookies.iter().find(|cookie| names.contains(&cookie.name)) {
            return Err(format!("it set the cookie {} of a session {}", cookie.name, result.after()));
        }
    }
    Ok("it set the cookies of a session only after a yes".to_owned())
}

pub(crate) fn cookie_http_only(observation: &Observation<'_>) -> Judgement {
    all_cookies(observation, |cookie| cookie.http_only, "HttpOnly")
}

pub(crate) fn cookie_secure(observation: &Observation<'_>) -> Judgement {
    let is_https =
        observation.base.scheme() == "https" || observation.audience.as_str().starts_with("https:");
    if !is_https {
        return Ok("not looked at, because this is no https tracker".to_owned());
    }
    all_cookies(observation, |cookie| cookie.secure, "Secure")
}

pub(crate) fn cookie_scope(observation: &Observation<'_>) -> Judgement {
    let base = observation.base.path();
    let host = observation.base.host_str().unwrap_or_default();
    for Cookie { name, path, domain, .. } in session_cookies(observation.first()?)? {
        if let Some(domain) = domain.filter(|domain| domain != host) {
            return Err(format!("the cookie {name} is for all of {domain}"));
        }
        let Some(path) = path else {
            return Err(format!("the cookie {name} has no path, and so is good for launchpad-auth alone"));
        };
        let (own, given) = (base.trim_end_matches('/'), path.trim_end_matches('/'));
        if own != given {
            let wrong = if is_below(own, given) { "wider than" } else { "not" };
            return Err(format!(
                "the cookie {name} has the path {path}, which is {wrong} the tracker's, {base}"
            ));
        }
    }
    Ok("the cookie is for the tracker's own path and host".to_owned())
}

fn session_cookies(result: &StepResult) -> Result<Vec<Cookie>, String> {
    let cookies = result.session()?;
    if cookies.is_empty() {
        return Err(match result.step.with {
            RequestExtra::Nothing => "it let the worker in and set no cookie".to_owned(),
            _ => "it set no new cookie for a worker that sent one along".to_owned(),
        });
    }
    Ok(cookies)
}

fn all_cookies(observation: &Observation<'_>, good: fn(&Cookie) -> bool, what: &str) -> Judgement {
    let cookies = session_cookies(observation.first()?)?;
    match cookies.iter().find(|cookie| !good(cookie)) {
        None => Ok(format!("{what}: {}", names(&cookies))),
        Some(cookie) => Err(format!("the cookie {} is not {what}", cookie.name)),
    }
}

pub(super) fn names(cookies: &[Cookie]) -> String {
    cookies.iter().map(|cookie| cookie.name.as_str()).collect::<Vec<_>>().join(" and ")
}

/// Whether `path` is `wide` or below it; without slashes at their ends.
fn is_below(path: &str, wide: &str) -> bool {
    path.strip_prefix(wide).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
