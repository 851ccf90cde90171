//! Gets the keys of an issuer: from a file, from a URL, or from where the issuer's discovery document says that they are.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use countersign_http_client::{Connections, HttpClient, HttpError, Trust, is_https_or_loopback, read_whole};
use countersign_tls::small_file;
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use crate::AGENT;

use super::keys::KeySet;
use super::rule::KeySource;

/// How long getting the keys may take as a whole, the discovery document included.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest document that is read, in bytes. Keys take some 400 bytes each.
pub const MAX_JWKS_BYTES: usize = 256 * 1024;

/// The longest bearer that is sent, in bytes.
const MAX_BEARER_BYTES: usize = 16 * 1024;

/// Held by each thread that reads a file of an issuer. A file system that is away can keep a thread for any time, and no other
/// thread is to join it there.
pub(super) type Reading = Arc<()>;

/// Gets the keys.
///
/// # Errors
///
/// Why there are none, in words that have nothing of a document, a bearer or a URL in them: a URL may hold a secret.
pub(super) async fn fetch(source: &KeySource, reading: &Reading) -> Result<KeySet, String> {
    tokio::time::timeout(JWKS_TIMEOUT, fetch_at_leisure(source, reading))
        .await
        .unwrap_or_else(|_| Err(format!("its keys did not come within {} seconds", JWKS_TIMEOUT.as_secs())))
}

async fn fetch_at_leisure(source: &KeySource, reading: &Reading) -> Result<KeySet, String> {
    if let Some(path) = &source.jwks_file {
        let text = file(path, "jwks_file", MAX_JWKS_BYTES, reading).await?;
        return KeySet::read(&text).map_err(|reason| format!("its jwks_file {reason}"));
    }
    // The authorities are read each time: a cluster's change while the server runs.
    let authorities = match &source.ca_file {
        Some(path) => Some(file(path, "ca_file", MAX_JWKS_BYTES, reading).await?),
        None => None,
    };
    let held = Arc::clone(reading);
    let trust = tokio::task::spawn_blocking(move || {
        let trust = Trust::only_or_system(authorities.as_ref().map(|text| text.as_slice()));
        drop(held);
        trust
    });
    let trust = trust.await.map_err(|_| "reading its ca_file broke off".to_owned())?;
    let trust = trust.map_err(|error| format!("its ca_file cannot be used: {error}"))?;
    let client = HttpClient::new(trust, None, Connections::Fresh).map_err(|error| format!("TLS: {error}"))?;
    let (url, what) = match &source.jwks_url {
        Some(url) => (url.url().clone(), "its jwks_url"),
        None => (discover(&client, source.issuer.as_str()).await?, "the jwks_uri of its discovery document"),
    };
    let bearer = match &source.bearer_file {
        Some(path) => Some(bearer(path, reading).await?),
        None => None,
    };
    let text = get(&client, &url, bearer).await.map_err(|reason| format!("{what} {reason}"))?;
    KeySet::read(&text).map_err(|reason| format!("what {what} has {reason}"))
}

/// What the issuer says of itself (`OpenID` Connect Discovery 1.0, section 4).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Where the issuer says that its keys are.
async fn discover(client: &HttpClient, issuer: &str) -> Result<Url, String> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let url: Url = url.parse().map_err(|_| "its discovery document has no URL".to_owned())?;
    let about = |reason: String| format!("its discovery document {reason}");
    let text = get(client, &url, None).await.map_err(about)?;
    let found: Discovery = serde_json::from_slice(&text)
        .map_err(|_| about("is not a JSON object with `issuer` and `jwks_uri`".to_owned()))?;
    if found.issuer != issuer {
        return Err(about("names another issuer".to_owned()));
    }
    let keys =
        Url::parse(&found.jwks_uri).map_err(|_| about("has a `jwks_uri` that is no URL".to_owned()))?;
    // Who is on the way to a plain URL could put keys there.
    let is_safe = is_https_or_loopback(&keys) && (keys.scheme() == "https" || url.scheme() == "http");
    if is_safe { Ok(keys) } else { Err(about("has a `jwks_uri` that is not https".to_owned())) }
}

async fn get(client: &HttpClient, url: &Url, bearer: Option<HeaderValue>) -> Result<Vec<u8>, String> {
    let mut url = url.clone();
    url.set_fragment(None);
    let request = Request::get(url.as_str())
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(USER_AGENT, AGENT)
        .body(Bytes::new());
    let mut request = request.map_err(|_| "cannot be asked for".to_owned())?;
    if let Some(bearer) = bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let unanswered = |error: HttpError| format!("cannot be fetched: {error}");
    let answer = client.send(request).await.map_err(unanswered)?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => {
            return Err(format!("redirects ({}), which is not followed", status.as_u16()));
        }
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(format!(
                "is answered {}: it takes a bearer (bearer_file), or another one",
                status.as_u16()
            ));
        }
        status => return Err(format!("is answered {}", status.as_u16())),
    }
    read_whole(answer.into_body(), MAX_JWKS_BYTES).await.map_err(unanswered)
}

async fn bearer(path: &Path, reading: &Reading) -> Result<HeaderValue, String> {
    let text = file(path, "bearer_file", MAX_BEARER_BYTES, reading).await?;
    let secret = text.trim_ascii();
    let fits = !secret.is_empty() && secret.iter().all(u8::is_ascii_graphic);
    let header = [b"Bearer ", secret].concat();
    let header = HeaderValue::from_maybe_shared(Bytes::from(header)).ok().filter(|_| fits);
    let mut header =
        header.ok_or_else(|| "its bearer_file is not one line of visible ASCII characters".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

/// Reads a file of so many bytes at most.
async fn file(
    path: &Path,
    what: &'static str,
    longest: usize,
    reading: &Reading,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let (path, held) = (path.to_owned(), Arc::clone(reading));
    let read = tokio::task::spawn_blocking(move || {
        let text = small_file::read(&path, u64::try_from(longest).unwrap_or(u64::MAX));
        drop(held);
        text
    });
    let read = read.await.map_err(|_| format!("reading its {what} broke off"))?;
    read.map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => format!("its {what} is longer than {longest} bytes"),
        _ => format!("its {what} cannot be read: {error}"),
    })
}
