//! Reads the bodies of private requests, and rejects malformed ones.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use utoipa::ToSchema;

use crate::coding::{Coding, DecodeError, UnknownCoding};
use crate::problem::Problem;

/// The longest body that is read, in bytes. `system.multicall` with a thousand tokens fits.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// How much of a body that is too long is taken in and thrown away, so that a client which sends before it reads gets
/// to see the answer rather than a broken connection.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than [`MAX_BODY_BYTES`].
    TooLong,
    /// It did not arrive whole, or is not what its `Content-Encoding` says.
    Broken,
    /// It is compressed in a way that is not known.
    Coding(UnknownCoding),
}

impl BodyError {
    pub(crate) fn into_problem(self) -> Problem {
        match self {
            Self::TooLong => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-long",
                format!("The body is longer than {MAX_BODY_BYTES} bytes."),
            ),
            Self::Broken => Problem::bad_request("body", "The body did not arrive whole."),
            Self::Coding(_) => {
                Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding", UnknownCoding::TEXT)
            }
        }
    }
}

/// Reads a body that came with these headers. Never holds more than [`MAX_BODY_BYTES`] and one frame of it, and as much
/// of what it was before it was compressed.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Bytes, BodyError> {
    let mut read = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length += data.len();
        if length <= MAX_BODY_BYTES {
            read.extend_from_slice(&data);
        } else {
            read = Vec::new();
        }
        if length > MAX_DISCARDED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES {
        return Err(BodyError::TooLong);
    }
    match Coding::of(headers).map_err(BodyError::Coding)?.decode(&read, MAX_BODY_BYTES) {
        Ok(Cow::Borrowed(_)) => Ok(read.into()),
        Ok(Cow::Owned(body)) => Ok(body.into()),
        Err(DecodeError::TooLong) => Err(BodyError::TooLong),
        Err(DecodeError::Broken) => Err(BodyError::Broken),
    }
}

/// Reads a JSON object into `T`; an empty body is an empty object.
pub(crate) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = read(headers, body).await.map_err(BodyError::into_problem)?;
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return parse(b"{}");
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.trim_start().to_ascii_lowercase().starts_with("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "Send JSON, and say so: Content-Type: application/json",
        ));
    }
    parse(bytes)
}

/// Parses a JSON object; what is wrong is said with the path of the member that it is wrong in.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let problem = |what: &dyn fmt::Display| {
        Problem::bad_request("body", format!("The body is not as described in /openapi.json: {what}."))
    };
    // An array of the members' values would be taken for the object, and of two members of one name, one.
    if !bytes.starts_with(b"{") {
        return Err(problem(&"it is not a JSON object"));
    }
    serde_json::from_slice::<Unambiguous>(bytes).map_err(|error| problem(&error))?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|value| json.end().map(|()| value).map_err(|error| error.to_string()));
    parsed.map_err(|error| problem(&error))
}

/// Reads a member that may be left out, but may not be `null`.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// An empty object, for an operation without parameters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Reads a whole number, which JSON Schema also takes `60.0` for.
pub(crate) fn whole_number<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    /// Every whole number up to here is a double of its own.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let exact = number.as_f64().filter(|double| double.fract() == 0.0 && (0.0..=MAX_EXACT).contains(double));
    let whole = number.as_u64().or_else(|| format!("{:.0}", exact?.abs()).parse().ok());
    let fits = whole.and_then(|whole| T::try_from(whole).ok());
    fits.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number that fits here")))
}

/// JSON without an object that has two members of one name.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("an object has two members of the same name"));
            }
            members.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn repeated_member_is_refused() {
        for (text, fits) in [
            (r#"{"a":1,"b":{"a":[{"a":null}]}}"#, true),
            ("{}", true),
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"a":1,"\u0061":2}"#, false),
            (r#"{"b":{"a":1,"a":2}}"#, false),
            (r#"{"b":[[{"a":1,"b":2,"a":3}]]}"#, false),
            ("[]", false),
            ("[1]", false),
            ("null", false),
            (r#""a""#, false),
            ("{", false),
            ("{}{}", false),
        ] {
            let parsed = parse::<Map<String, Value>>(text.as_bytes());
            assert_eq!(parsed.is_ok(), fits, "{text}: {parsed:?}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse::<Map<String, Value>>(deep.as_bytes()).is_err());
    }

    #[test]
    fn whole_numbers_are_read_in_every_spelling() {
        #[derive(Debug, Deserialize)]
        struct Wanted {
            #[serde(default, deserialize_with = "whole_number")]
            number: Option<u32>,
        }
        for (text, number) in [
            ("{}", Some(None)),
            (r#"{"number":null}"#, Some(None)),
            (r#"{"number":60}"#, Some(Some(60))),
            (r#"{"number":60.0}"#, Some(Some(60))),
            (r#"{"number":6e1}"#, Some(Some(60))),
            (r#"{"number":-0.0}"#, Some(Some(0))),
            (r#"{"number":4294967295.0}"#, Some(Some(u32::MAX))),
            (r#"{"number":4294967296}"#, None),
            (r#"{"number":1e300}"#, None),
            (r#"{"number":60.5}"#, None),
            (r#"{"number":-1}"#, None),
            (r#"{"number":"60"}"#, None),
            (r#"{"number":true}"#, None),
        ] {
            let parsed = parse::<Wanted>(text.as_bytes()).ok().map(|wanted| wanted.number);
            assert_eq!(parsed, number, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(text in r#"[{}\[\]",:a0-9\\nul. ]{0,40}"#, bytes in any::<Vec<u8>>()) {
            let _ = parse::<Map<String, Value>>(text.as_bytes());
            let _ = parse::<Map<String, Value>>(&bytes);
        }

        #[test]
        fn objects_with_unique_members_are_accepted(
            members in prop::collection::btree_map(any::<String>(), any::<f64>(), 0..8)
        ) {
            let text = serde_json::to_vec(&members).unwrap();
            prop_assert!(parse::<Map<String, Value>>(&text).is_ok());
        }
    }
}
