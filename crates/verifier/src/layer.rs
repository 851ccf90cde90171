//! The login path and the session cookie, as a `tower` layer around a tracker.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::session::Sessions;
use crate::{LoginLayerBuilder, Verifier, VerifyError};

/// RFC 9110 section 11.6.1 wants a challenge with every 401. There is no credential to offer but a token.
const CHALLENGE: HeaderValue = HeaderValue::from_static("LoginToken realm=\"launchpad-auth\"");

/// The headers by which a request says that it loads a page in advance.
const PREFETCH_HEADERS: [&str; 4] = ["sec-purpose", "purpose", "x-purpose", "x-moz"];

/// Gives a tracker a place where an issuer logs in, and tells the tracker who is logged in.
///
/// | request | answer |
/// |---|---|
/// | `GET {base path}/launchpad-auth/{token}` | 200 and a session cookie if the issuer says yes, 401 otherwise |
/// | `GET {base path}/launchpad-auth/check` | 401: by this Launchpad detects a tracker that it can log in to |
/// | the same, to load a page in advance (`Sec-Purpose: prefetch`) | 401; it uses no token up |
/// | any other method there | 405; it uses no token up |
/// | any other path | the tracker's own, with a [`Login`](crate::Login) request extension if the cookie is good |
///
/// An issuer that cannot be asked is a 401 too, with another text, so that the detection works while it is away.
///
/// Each answer is a line in the log (of `tracing`) with the reason. A token is never in it; but it is in the path, so keep
/// paths out of the logs of proxies in front. Each request makes the tracker ask the issuer: put a limit on requests around
/// this layer if strangers can reach it.
#[derive(Clone, Debug)]
pub struct LoginLayer {
    door: Arc<LayerState>,
}

/// A tracker behind a [`LoginLayer`].
#[derive(Clone, Debug)]
pub struct LoginService<S> {
    door: Arc<LayerState>,
    inner: S,
}

/// Everything that the layer decides with.
#[derive(Debug)]
pub(crate) struct LayerState {
    pub(crate) verifier: Verifier,
    pub(crate) sessions: Sessions,
    /// The path below which tokens arrive, without a slash at its end.
    pub(crate) login_path: String,
}

/// What a request to the login path is.
#[derive(Clone, Copy)]
enum RequestKind {
    Login,
    /// A browser or a mail reader loads a page before anybody asked for it.
    Prefetch,
    OtherMethod,
}

impl RequestKind {
    fn of<B>(request: &Request<B>) -> Self {
        if request.method() != Method::GET {
            Self::OtherMethod
        } else if is_prefetch(request.headers()) {
            Self::Prefetch
        } else {
            Self::Login
        }
    }
}

/// Whether a request only prefetches a page. The user has not asked for the page yet, so it must not consume a token.
pub fn is_prefetch(headers: &HeaderMap) -> bool {
    let says = |name: &&str| {
        let value = headers.get(*name).map(HeaderValue::as_bytes).unwrap_or_default();
        let value = value.to_ascii_lowercase();
        [&b"prefetch"[..], b"preview"].iter().any(|word| value.windows(word.len()).any(|part| part == *word))
    };
    PREFETCH_HEADERS.iter().any(says)
}

impl LoginLayer {
    /// Starts with the verifier, whose audience is the tracker's base URL: the cookie's `Path` is its path, and the
    /// cookie is `Secure` if it is `https`. Without an audience the path is `/`, and the cookie is not `Secure`.
    pub fn builder(verifier: Verifier) -> LoginLayerBuilder {
        LoginLayerBuilder::new(verifier)
    }

    pub(crate) fn new(door: LayerState) -> Self {
        Self { door: Arc::new(door) }
    }
}

impl<S> Layer<S> for LoginLayer {
    type Service = LoginService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LoginService { door: Arc::clone(&self.door), inner }
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for LoginService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    S::Future: Send + 'static,
    ResponseBody: From<String>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        if let Some(token) = self.door.token_in(request.uri().path()).map(str::to_owned) {
            let (door, visit) = (Arc::clone(&self.door), RequestKind::of(&request));
            return Box::pin(async move { Ok(door.answer(visit, &token).await.map(ResponseBody::from)) });
        }
        if let Some(login) = self.door.sessions.login(request.headers()) {
            request.extensions_mut().insert(login);
        }
        Box::pin(self.inner.call(request))
    }
}

impl LayerState {
    /// The text in the token's place, if the path is the login path. It is not decoded, because no token needs that.
    fn token_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        match path.strip_prefix(&self.login_path)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }

    async fn answer(&self, visit: RequestKind, token: &str) -> Response<String> {
        match visit {
            RequestKind::Login => {}
            RequestKind::Prefetch => {
                let sentence = "This request only loads a page in advance, so it did not use the token up.";
                return text(StatusCode::UNAUTHORIZED, sentence, (WWW_AUTHENTICATE, CHALLENGE));
            }
            // HEAD too: looking must not use a token up.
            RequestKind::OtherMethod => {
                let allow = (ALLOW, HeaderValue::from_static("GET"));
                return text(StatusCode::METHOD_NOT_ALLOWED, "Only GET requests are accepted here.", allow);
            }
        }
        match self.log_in(token).await {
            Ok(cookie) => {
                let welcome = format!("Logged in as {}.", self.sessions.user);
                text(StatusCode::OK, &welcome, (SET_COOKIE, cookie))
            }
            Err(sentence) => text(StatusCode::UNAUTHORIZED, sentence, (WWW_AUTHENTICATE, CHALLENGE)),
        }
    }

    /// Returns the session's cookie, or a sentence for the caller. Settings are none of a caller's business: those are
    /// in the log only.
    async fn log_in(&self, token: &str) -> Result<HeaderValue, &'static str> {
        if token == "check" {
            return Err("This tracker logs in whoever brings a login token in place of the word check.");
        }
        let verified = match self.verifier.verify(token).await {
            Ok(verified) => verified,
            Err(error) => {
                log(&error);
                return Err(error.sentence_for_caller());
            }
        };
        let cookie = self.sessions.open(verified.issuer).ok().and_then(|cookie| cookie.try_into().ok());
        let Some(cookie) = cookie else {
            tracing::error!("a token was good, but the machine gave no random bytes for a session");
            return Err("The token was good, but no session could be opened. Try again with a new one.");
        };
        tracing::info!(user = self.sessions.user, "logged in by token");
        Ok(cookie)
    }
}

fn log(error: &VerifyError) {
    match error {
        VerifyError::MalformedToken => tracing::debug!(%error, "refused a login by token"),
        VerifyError::Refused { .. } => tracing::warn!(%error, "refused a login by token"),
        VerifyError::Unreachable { .. }
        | VerifyError::UnexpectedAnswer { .. }
        | VerifyError::NoRandomness => {
            tracing::error!(%error, "refused a login by token");
        }
    }
}

fn text(status: StatusCode, sentence: &str, header: (HeaderName, HeaderValue)) -> Response<String> {
    let mut response = Response::new(format!("{sentence}\n"));
    *response.status_mut() = status;
    response.headers_mut().extend([
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        header,
    ]);
    response
}
