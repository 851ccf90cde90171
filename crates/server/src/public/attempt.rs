//! Reads the facts of a handshake from an HTTP request.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use countersign_core::handshake::{Attempt, StatedAudience, UnreadableAudience};
use countersign_core::{Audience, RetryKeyHash};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use tokio::time::timeout_at;

use crate::accept::quality;
use crate::coding::{Coding, DecodeError, UnknownCoding};
use crate::deadline::Deadline;

/// The longest body that is understood, in bytes: a form with one URL in it is far shorter.
pub const MAX_BODY_BYTES: usize = 8 * 1024;

/// The longest body that is taken in, and thrown away, in bytes. A request is answered when it has arrived whole; and a
/// client that sends before it reads gets to see the answer, not a broken connection.
pub const MAX_DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// Why a message is not a handshake, for any token. Nothing is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// Its body ends too early, or has an invalid chunk (RFC 9112 section 8).
    BrokenOff,
    /// It has not arrived by the request's deadline.
    TooSlow,
    /// Its body is longer than [`MAX_DISCARDED_BYTES`].
    TooLong,
    /// It is compressed in a way that is not known.
    Coding(UnknownCoding),
}

/// Reads a request to its end. Nothing in it is an error: what cannot be understood is said to be so, and matters only if
/// the token asks for it.
pub(super) async fn read(request: Request, Deadline(deadline): Deadline) -> Result<Attempt, Incomplete> {
    let is_post = request.method() == Method::POST;
    let retry_key = request
        .headers()
        .get("idempotency-key")
        .map(|value| value.as_bytes().trim_ascii())
        .filter(|key| !key.is_empty())
        .map(RetryKeyHash::of);
    let mut audience = StatedAudience::None;
    // What is no POST consumes nothing, so that its end need not be waited for.
    if is_post {
        let (head, body) = request.into_parts();
        let body = timeout_at(deadline, read_body(body)).await.unwrap_or(Err(Incomplete::TooSlow))?;
        let coding = Coding::of(&head.headers).map_err(Incomplete::Coding)?;
        let body = match body.as_deref().map(|body| coding.decode(body, MAX_BODY_BYTES)) {
            Some(Ok(body)) => Some(body),
            None | Some(Err(DecodeError::TooLong)) => None,
            Some(Err(DecodeError::Broken)) => return Err(Incomplete::BrokenOff),
        };
        audience = stated_audience(&head.headers, body.as_deref());
    }
    Ok(Attempt { is_post, audience, retry_key })
}

/// What a body says; `None` is one that is too long to be understood.
fn stated_audience(headers: &HeaderMap, body: Option<&[u8]>) -> StatedAudience {
    let media_type = media_type(headers);
    let form = match media_type.as_deref() {
        Some("application/x-www-form-urlencoded") => true,
        Some("application/json") => false,
        Some("multipart/form-data") => return StatedAudience::Unreadable(UnreadableAudience::Multipart),
        // Old plugins send an empty body, or one that says nothing.
        _ => return StatedAudience::None,
    };
    let Some(body) = body else {
        return StatedAudience::Unreadable(UnreadableAudience::TooLong);
    };
    let stated = if form { audience_in_form(body) } else { audience_in_json(body) };
    match stated {
        Ok(None) => StatedAudience::None,
        Ok(Some(text)) => match Audience::parse(&text) {
            Ok(audience) => StatedAudience::Tracker(audience),
            Err(error) => StatedAudience::Unreadable(error.into()),
        },
        Err(unreadable) => StatedAudience::Unreadable(unreadable),
    }
}

/// Reads a body to its end; `None` if it is longer than [`MAX_BODY_BYTES`]. Never holds more than that and one frame.
async fn read_body(mut body: Body) -> Result<Option<Vec<u8>>, Incomplete> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > MAX_DISCARDED_BYTES {
        return Err(Incomplete::TooLong);
    }
    let (mut read, mut length) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Incomplete::BrokenOff)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > MAX_DISCARDED_BYTES {
            return Err(Incomplete::TooLong);
        }
        if length <= MAX_BODY_BYTES {
            read.extend_from_slice(&data);
        } else {
            read = Vec::new();
        }
    }
    Ok((length <= MAX_BODY_BYTES).then_some(read))
}

fn audience_in_form(body: &[u8]) -> Result<Option<Cow<'_, str>>, UnreadableAudience> {
    let mut stated =
        form_urlencoded::parse(body).filter_map(|(name, value)| (name == "audience").then_some(value));
    match (stated.next(), stated.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(UnreadableAudience::Twice),
    }
}

fn audience_in_json(body: &[u8]) -> Result<Option<Cow<'_, str>>, UnreadableAudience> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let Stated(stated) = serde_json::from_slice(body).map_err(|_| UnreadableAudience::NotJson)?;
    match stated.as_slice() {
        [] => Ok(None),
        [serde_json::Value::String(text)] => Ok(Some(Cow::Owned(text.clone()))),
        [_] => Err(UnreadableAudience::NotText),
        _ => Err(UnreadableAudience::Twice),
    }
}

/// The first members of an object that are called `audience`: a second one is not the same as one.
struct Stated(Vec<serde_json::Value>);

impl<'de> Deserialize<'de> for Stated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Stated;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Stated, A::Error> {
                let mut stated = Vec::new();
                while let Some(name) = members.next_key::<Cow<'_, str>>()? {
                    if name == "audience" && stated.len() < 2 {
                        stated.push(members.next_value()?);
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Stated(stated))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The media type of the body, in lower case, without parameters (RFC 9110 section 8.3.1).
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// Whether the caller asks for JSON by name, and does not like plain text better (RFC 9110 section 12.5.1).
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    // Most clients ask for nothing by name.
    if !headers.contains_key(ACCEPT) {
        return false;
    }
    let json = quality(headers, &["application/json", "application/problem+json"]);
    json > 0.0 && json >= quality(headers, &["text/plain"])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (ACCEPT, value.parse().unwrap())).collect()
    }

    #[test]
    fn json_is_sent_on_request_only() {
        for (values, json) in [
            (vec![], false),
            (vec!["*/*"], false),
            (vec!["text/html, */*"], false),
            (vec!["application/json"], true),
            (vec!["Application/JSON;charset=utf-8"], true),
            (vec!["application/problem+json"], true),
            (vec!["application/json;q=0"], false),
            (vec!["application/json;q=0.5, text/plain"], false),
            (vec!["application/json, text/plain;q=0.9"], true),
            (vec!["text/plain;q=0.9", "application/json"], true),
            (vec!["application/json, text/plain"], true),
        ] {
            assert_eq!(wants_json(&accept(&values)), json, "{values:?}");
        }
    }

    fn post(content_type: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = axum::http::Request::post("/");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        request.body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn audience_is_read_from_a_form_or_from_json() {
        let tracker = StatedAudience::Tracker(Audience::parse("https://a.example/").unwrap());
        let form = "application/x-www-form-urlencoded";
        let json = "application/json";
        let unreadable = StatedAudience::Unreadable;
        let not_a_url = unreadable(countersign_core::AudienceError::NotAUrl.into());
        for (content_type, body, expected) in [
            (None, "", StatedAudience::None),
            (None, "audience=https://a.example/", StatedAudience::None),
            (Some("text/plain"), "audience=https://a.example/", StatedAudience::None),
            (Some(form), "", StatedAudience::None),
            (Some("multipart/form-data; boundary=x"), "--x", unreadable(UnreadableAudience::Multipart)),
            (Some(form), "other=1", StatedAudience::None),
            (Some(form), "audience=https%3A%2F%2Fa.example%2F", tracker.clone()),
            (
                Some("Application/X-WWW-Form-URLEncoded; charset=UTF-8"),
                "audience=https://a.example",
                tracker.clone(),
            ),
            (Some(form), "audience=", not_a_url.clone()),
            (Some(form), "audience=a.example", not_a_url.clone()),
            (
                Some(form),
                "audience=https://a.example&audience=https://b.example",
                unreadable(UnreadableAudience::Twice),
            ),
            (Some(json), "", StatedAudience::None),
            (Some(json), "{}", StatedAudience::None),
            (Some(json), r#"{"audience":null}"#, unreadable(UnreadableAudience::NotText)),
            (Some(json), r#"{"audience":""}"#, not_a_url.clone()),
            (
                Some(json),
                r#"{"audience":"https://b.example/","x":1,"audience":"https://a.example/"}"#,
                unreadable(UnreadableAudience::Twice),
            ),
            (
                Some(json),
                r#"{"audience":"https://a.example/","\u0061udience":null,"audience":1}"#,
                unreadable(UnreadableAudience::Twice),
            ),
            (Some(json), r#"{"x":1,"x":2,"audience":"https://a.example/"}"#, tracker.clone()),
            (Some(json), r#"{"audience":"https://a.example/"} {}"#, unreadable(UnreadableAudience::NotJson)),
            (Some(json), r#"{"audience":"https://a.example/","x":[1]}"#, tracker.clone()),
            (Some(json), r#"{"audience":["https://a.example/"]}"#, unreadable(UnreadableAudience::NotText)),
            (Some(json), r#"["https://a.example/"]"#, unreadable(UnreadableAudience::NotJson)),
            (Some(json), "{", unreadable(UnreadableAudience::NotJson)),
        ] {
            let attempt = read(post(content_type, body), Deadline::from_now()).await.unwrap();
            assert_eq!(attempt.audience, expected, "{content_type:?} {body}");
        }
        let long = format!("audience=https://a.example/&x={}", "y".repeat(MAX_BODY_BYTES));
        assert_eq!(
            read(post(Some(form), long), Deadline::from_now()).await.unwrap().audience,
            unreadable(UnreadableAudience::TooLong)
        );
    }

    #[tokio::test]
    async fn blank_idempotency_key_is_ignored() {
        for (key, expected) in [("", None), ("  ", None), ("k", Some(RetryKeyHash::of(b"k")))] {
            let mut request = post(None, "");
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
            assert_eq!(read(request, Deadline::from_now()).await.unwrap().retry_key, expected, "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_panic(body in any::<Vec<u8>>()) {
            let _ = audience_in_form(&body);
            let _ = audience_in_json(&body);
        }

        #[test]
        fn json_body_equals_form_body(values in prop::collection::vec("[a-z]{0,3}", 0..4), other in "[a-z]{1,9}") {
            let names = values.iter().enumerate().map(|(index, _)| if index == 3 { &*other } else { "audience" });
            let members: Vec<_> = names.clone().zip(&values).map(|(n, v)| format!("\"{n}\":\"{v}\"")).collect();
            let json = format!("{{{}}}", members.join(","));
            let form: Vec<_> = names.zip(&values).map(|(n, v)| format!("{n}={v}")).collect();
            let form = form.join("&");
            prop_assert_eq!(audience_in_json(json.as_bytes()), audience_in_form(form.as_bytes()));
        }
    }
}
