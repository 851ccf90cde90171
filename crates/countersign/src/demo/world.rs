//! The parties of the demonstration: a token server, a tracker, and the address of a hostile one.

use std::error::Error;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router, routing::get};
use countersign_core::{Clock, LoginTokenSet, OsEntropy, Policy, Status, SystemClock};
use countersign_login::Session;
use countersign_server::routes::Routes;
use countersign_server::{App, KeyFile, Names, Peer};
use countersign_store::backend::IfMissing;
use countersign_store::place::StorePlace;
use countersign_verifier::{Login, LoginLayer, Verifier};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower::ServiceExt;
use url::Url;

use super::transcript::{Transcript, short};

type Set<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// More than any message here has.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What a demonstration needs.
pub(super) struct DemoWorld {
    pub(super) transcript: Arc<Transcript>,
    /// The tracker's base URL.
    pub(super) tracker: String,
    /// The base URL of a tracker that passes tokens on.
    pub(super) hostile: String,
    app: Arc<App>,
    handshakes: Router,
    pages: Router,
    _directory: TempDir,
}

impl DemoWorld {
    /// Starts everybody on free ports.
    pub(super) async fn set() -> Set<Self> {
        let (issuer, tracker) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (issuer_url, tracker_url) = (url_of(&issuer)?, url_of(&tracker)?);
        let directory = TempDir::new()?;
        let app = Arc::new(token_server(&directory, &issuer_url).await?);
        let transcript = Arc::new(Transcript::default());
        let public = Routes::public(Arc::clone(&app));
        let handshakes = Router::new()
            .fallback(async move |request: Request| public.answer(request).await)
            .layer(from_fn_with_state(Arc::clone(&transcript), listen_in));
        let verifier = Verifier::builder(&issuer_url).audience(&tracker_url).build()?;
        let pages = tracker_pages(LoginLayer::builder(verifier).build()?);
        for (listener, router) in [(issuer, handshakes.clone()), (tracker, pages.clone())] {
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        Ok(Self {
            transcript,
            tracker: tracker_url,
            hostile: "http://hostile.example/".to_owned(),
            app,
            handshakes,
            pages,
            _directory: directory,
        })
    }

    pub(super) fn says(&self, from: &str, to: &str, what: &str) {
        self.transcript.says(from, to, what);
    }

    pub(super) fn tokens(&self) -> &LoginTokenSet {
        &self.app.tokens
    }

    /// The page that the tracker shows to users who are logged in.
    pub(super) async fn private_page(&self, session: &Session) -> Set<String> {
        let request =
            Request::get("/private").header("cookie", session.cookie_header()).body(Body::empty())?;
        let response = self.pages.clone().oneshot(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("the tracker's private page answers {}", response.status()).into());
        }
        Ok(String::from_utf8_lossy(&to_bytes(response.into_body(), MAX_BODY_BYTES).await?).into_owned())
    }

    /// Opens a token's handshake URL as a browser does.
    pub(super) async fn get_handshake(&self, token: &str) -> Set<()> {
        let path = format!("/token/{token}/+bugtracker-handshake");
        self.handshakes.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
        Ok(())
    }

    /// How a token stands, in a word.
    pub(super) async fn status(&self, token: &str) -> Set<&'static str> {
        Ok(match self.tokens().get(token).await?.status {
            Status::Live => "live",
            Status::Consumed(_) | Status::Revoked { .. } | Status::Expired | Status::Fenced => "gone",
        })
    }

    /// Closes the store; the rest ends with the process.
    pub(super) async fn end(self) {
        self.tokens().store().close().await;
    }
}

async fn token_server(directory: &TempDir, public_url: &str) -> Set<App> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let place = StorePlace::new("sqlite:", directory.path())?;
    let store = place.backend().open(IfMissing::Make, Arc::clone(&clock), Arc::new(OsEntropy)).await?;
    let key_file = KeyFile::new(directory.path().join("key-ring.toml"));
    let (keys, _) = key_file.load_or_create(clock.now(), &OsEntropy)?;
    let tokens = LoginTokenSet::new(keys, store, clock, Arc::new(OsEntropy), Policy::default());
    Ok(App::new(tokens, key_file, Names::new("Launchpad".to_owned(), &Url::parse(public_url)?)))
}

/// A tracker with a page that only those see who are logged in.
fn tracker_pages(login: LoginLayer) -> Router {
    Router::new().route("/private", get(private_bugs)).layer(login)
}

async fn private_bugs(login: Option<Extension<Login>>) -> Result<String, StatusCode> {
    let Extension(login) = login.ok_or(StatusCode::FORBIDDEN)?;
    Ok(format!("200 Bug 2, which only {} may see.", login.user))
}

/// Writes down what the token server is asked, and what it answers.
async fn listen_in(State(transcript): State<Arc<Transcript>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(Peer(Some([127, 0, 0, 1].into())));
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let who = if head.method == "POST" { "tracker" } else { "somebody" };
    let stated = form_urlencoded::parse(&body).find(|(name, _)| name == "audience");
    let stated = stated.map(|(_, audience)| format!(" audience={audience}")).unwrap_or_default();
    transcript.says(who, "countersign", &format!("{} {}{stated}", head.method, shortened(head.uri.path())));
    let (head, body) = next.run(Request::from_parts(head, Body::from(body))).await.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    transcript.says("countersign", who, &said(head.status, &body));
    Response::from_parts(head, Body::from(body))
}

/// A path with its token shortened.
fn shortened(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.len() > 40 { short(part) } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("/")
}

/// A status and what matters of the body: a text itself, the detail of a problem, or whom a good token comes from.
fn said(status: StatusCode, body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let member = |name| document.as_ref().and_then(|document| document.get(name)?.as_str());
    let sentence = match (member("detail"), member("issuer")) {
        (Some(detail), _) => detail.to_owned(),
        (None, Some(issuer)) => format!("this token is {issuer}'s"),
        (None, None) => String::from_utf8_lossy(body).into_owned(),
    };
    format!("{} {sentence}", status.as_u16())
}

fn url_of(listener: &TcpListener) -> Set<String> {
    Ok(format!("http://{}/", listener.local_addr()?))
}
