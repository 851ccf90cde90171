//! What the checks of the session look at: the cookies of a login.

use std::collections::BTreeSet;

use crate::check::{CHOSEN, Judgement, With};
use crate::cookies::{Cookie, live_cookies};
use crate::scene::{Scene, Visit};

use super::guess::{self, Login};

pub(crate) fn new_session(scene: &Scene<'_>) -> Judgement {
    let mut seen: Vec<BTreeSet<(String, String)>> = Vec::new();
    for visit in &scene.visits {
        let cookies = session_cookies(visit)?;
        let session = cookies.into_iter().map(|cookie| (cookie.name, cookie.value)).collect();
        if seen.contains(&session) {
            return Err("two logins had the same session cookie".to_owned());
        }
        seen.push(session);
    }
    Ok(format!("{} logins had {} different sessions", scene.visits.len(), seen.len()))
}

pub(crate) fn no_fixation(scene: &Scene<'_>) -> Judgement {
    session_cookies(scene.first()?)?;
    let cookies = session_cookies(scene.visit(1)?)?;
    match cookies.iter().find(|cookie| cookie.value.contains(CHOSEN)) {
        None => Ok("it did not adopt the cookie that the worker chose".to_owned()),
        Some(cookie) => {
            Err(format!("it adopted the value that the worker chose for the cookie {}", cookie.name))
        }
    }
}

pub(crate) fn session_unguessable(scene: &Scene<'_>) -> Judgement {
    let mut logins: Vec<(&Visit, Vec<Cookie>)> = Vec::new();
    for visit in &scene.visits {
        logins.push((visit, session_cookies(visit)?));
    }
    let value = |cookies: &[Cookie], name: &str| {
        cookies.iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value.clone())
    };
    let names: BTreeSet<String> =
        logins.iter().flat_map(|(_, cookies)| cookies).map(|cookie| cookie.name.clone()).collect();
    let mut changing = Vec::new();
    for name in names {
        let values: Vec<(&Visit, String)> =
            logins.iter().filter_map(|(visit, cookies)| Some((*visit, value(cookies, &name)?))).collect();
        // Such as the number of the user, beside the session itself.
        if values.iter().all(|(_, value)| values.first().is_some_and(|(_, first)| first == value)) {
            continue;
        }
        let known: Vec<Login<'_>> = values
            .iter()
            .map(|(visit, value)| Login { token: &visit.token, began: visit.began, value })
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

pub(crate) fn no_session_on_refusal(scene: &Scene<'_>) -> Judgement {
    let names: Vec<String> = session_cookies(scene.first()?)?.into_iter().map(|cookie| cookie.name).collect();
    // Who is let in has not been refused. That this was wrong is for other checks to say.
    for visit in scene.visits.iter().skip(1).filter(|visit| !visit.seems_let_in()) {
        let cookies = live_cookies(&visit.answered()?.headers);
        if let Some(cookie) = cookies.iter().find(|cookie| names.contains(&cookie.name)) {
            return Err(format!("it set the cookie {} of a session {}", cookie.name, visit.after()));
        }
    }
    Ok("it set the cookies of a session only after a yes".to_owned())
}

pub(crate) fn cookie_http_only(scene: &Scene<'_>) -> Judgement {
    all_cookies(scene, |cookie| cookie.http_only, "HttpOnly")
}

pub(crate) fn cookie_secure(scene: &Scene<'_>) -> Judgement {
    let is_https = scene.base.scheme() == "https" || scene.audience.as_str().starts_with("https:");
    if !is_https {
        return Ok("not looked at, because this is no https tracker".to_owned());
    }
    all_cookies(scene, |cookie| cookie.secure, "Secure")
}

pub(crate) fn cookie_scope(scene: &Scene<'_>) -> Judgement {
    let base = scene.base.path();
    let host = scene.base.host_str().unwrap_or_default();
    for Cookie { name, path, domain, .. } in session_cookies(scene.first()?)? {
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

fn session_cookies(visit: &Visit) -> Result<Vec<Cookie>, String> {
    let cookies = visit.session()?;
    if cookies.is_empty() {
        return Err(match visit.step.with {
            With::Nothing => "it let the worker in and set no cookie".to_owned(),
            _ => "it set no new cookie for a worker that sent one along".to_owned(),
        });
    }
    Ok(cookies)
}

fn all_cookies(scene: &Scene<'_>, good: fn(&Cookie) -> bool, what: &str) -> Judgement {
    let cookies = session_cookies(scene.first()?)?;
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
