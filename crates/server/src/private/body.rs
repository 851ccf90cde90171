//! Reading the bodies of private requests, whatever comes.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

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
    /// It did not arrive whole.
    Broken,
}

/// Reads a body. Never holds more than [`MAX_BODY_BYTES`] and one frame of it.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, BodyError> {
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
    if length > MAX_BODY_BYTES { Err(BodyError::TooLong) } else { Ok(read.into()) }
}

/// Reads a JSON object into `T`; an empty body is an empty object.
pub(crate) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = read(body).await.map_err(|error| match error {
        BodyError::TooLong => Problem::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-long",
            format!("The body is longer than {MAX_BODY_BYTES} bytes."),
        ),
        BodyError::Broken => Problem::bad_request("body", "The body did not arrive whole."),
    })?;
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return parse(b"{}");
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.trim_start().to_ascii_lowercase().starts_with("application/json") {
        return Err(Problem::new(
            axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "Send JSON, and say so: Content-Type: application/json",
        ));
    }
    parse(bytes)
}

/// Parses JSON; what is wrong is said with the path of the member that it is wrong in.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|value| json.end().map(|()| value).map_err(|error| error.to_string()));
    parsed.map_err(|error| {
        Problem::bad_request("body", format!("The body is not as described in /openapi.json: {error}."))
    })
}
