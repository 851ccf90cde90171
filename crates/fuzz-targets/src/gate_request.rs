//! A request to a tracker that the gate stands before, as its reverse proxy asks about it.
//!
//! An input is the request's first line and its headers:
//!
//! ```text
//! POST /issue1
//! Cookie: {session}
//! ```
//!
//! `{session}` stands for the cookie of a session, whose rules allow GET and POST below `/issue*`. The proxy adds what the
//! sample for nginx has it add; what the client sends by those names it replaces.

mod readers;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::routing::post;
use countersign_core::{Clock, ManualClock, OsEntropy};
use countersign_gate::{Config, Gate, RequestPath, UnclearPath};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// Reads a path; what is fuzzed is [`RequestPath::parse`].
pub type ReadPath = fn(&str) -> Result<RequestPath, UnclearPath>;

const USER: &str = "launchpad";

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, RequestPath::parse);
}

/// A path that is accepted is the same to all who read it; and the gate names its user for a request of a session that a rule
/// allows, which carries nothing that could pass for the gate's word, and for no other.
pub fn check(input: &[u8], read: ReadPath) {
    let Some(asked) = Asked::of(input) else { return };
    let read = str::from_utf8(&asked.target).ok().and_then(|target| read(target).ok());
    if let Some(path) = &read {
        readers::check(&asked.target, path.segments());
    }
    for anonymous in [false, true] {
        let (status, user) = world(anonymous).ask(&asked);
        let is_named = user.as_deref() == Some(USER);
        assert!(is_named || user.as_deref().is_none_or(str::is_empty), "another user: {user:?}");
        assert!(user.is_none() || status == StatusCode::NO_CONTENT, "{status} names {user:?}");
        if status != StatusCode::NO_CONTENT {
            continue;
        }
        assert!(!asked.claims_to_be_somebody(), "a client that sends the user header is let through");
        if is_named {
            let path = read.as_ref().expect("a path with two readings is allowed");
            let [segment] = path.segments() else { panic!("{path:?} is allowed") };
            assert!(segment.starts_with("issue"), "{segment:?} is allowed");
            assert!(matches!(&*asked.method, b"GET" | b"HEAD" | b"POST"), "the method is allowed");
            assert!(asked.brings_session, "no session is shown");
            assert!(
                asked.method != b"POST" || !asked.says_another_site(),
                "another site may change something"
            );
        } else {
            assert!(anonymous, "nobody is let through");
            assert!(!asked.brings_gate_cookie(), "a bad cookie passes for none");
        }
    }
}

/// What a client sends.
struct Asked {
    method: Vec<u8>,
    target: Vec<u8>,
    headers: HeaderMap,
    brings_session: bool,
}

impl Asked {
    fn of(input: &[u8]) -> Option<Self> {
        let mut lines = input.split(|byte| *byte == b'\n');
        let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
        let (method, target) = (first.next()?.to_vec(), first.next()?.to_vec());
        let mut headers = HeaderMap::new();
        let mut brings_session = false;
        for line in lines {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
            let value = String::from_utf8_lossy(value.trim_ascii());
            let is_session = value.contains("{session}");
            let value = value.replace("{session}", &world(false).cookie);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_str(&value)) {
                brings_session |= is_session && name == "cookie";
                headers.append(name, value);
            }
        }
        Some(Self { method, target, headers, brings_session })
    }

    /// Whether a server could take one of the headers for the user's name.
    fn claims_to_be_somebody(&self) -> bool {
        let plain = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        self.headers.keys().any(|name| plain(name.as_str()) == "x_remote_user")
    }

    fn says_another_site(&self) -> bool {
        let says = |name: &str, good: &[&[u8]]| {
            self.headers.get_all(name).iter().any(|value| !good.contains(&value.as_bytes()))
        };
        says("origin", &[b"https://bugs.example.org"]) || says("sec-fetch-site", &[b"same-origin", b"none"])
    }

    fn brings_gate_cookie(&self) -> bool {
        let pairs =
            self.headers.get_all("cookie").iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        pairs.into_iter().any(|line| {
            line.split(';').any(|pair| {
                pair.split_once('=').is_some_and(|(name, _)| name.trim() == "__Host-countersign_gate")
            })
        })
    }
}

/// A gate with one session.
struct World {
    router: Router,
    cookie: String,
    directory: tempfile::TempDir,
}

/// Both gates are on one data directory, and so know the same session.
fn world(anonymous: bool) -> &'static World {
    static WORLDS: [OnceLock<World>; 2] = [OnceLock::new(), OnceLock::new()];
    let [strict, open] = &WORLDS;
    let strict = strict.get_or_init(|| crate::block_on_all(World::new(None)));
    if anonymous { open.get_or_init(|| crate::block_on_all(World::new(Some(strict)))) } else { strict }
}

impl World {
    /// A gate beside another one, whose session it has, lets strangers pass.
    async fn new(beside: Option<&World>) -> Self {
        let issuer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", issuer.local_addr().expect("an address"));
        let handshake = post(|| async { StatusCode::OK });
        let issuing = Router::new().route("/token/{token}/+bugtracker-handshake", handshake);
        let issuing = tokio::spawn(async move { axum::serve(issuer, issuing).await });
        let directory = tempfile::TempDir::new().expect("a directory");
        let place = beside.map_or(directory.path(), |beside| beside.directory.path());
        let text = format!(
            "base_url = \"https://bugs.example.org/\"\ndata_dir = \"{}\"\nproxy = \"nginx\"\nanonymous = {}\n\
             [[issuer]]\nname = \"{USER}\"\nurl = \"{url}\"\nuser = \"{USER}\"\n\
             allow = [{{ methods = [\"GET\", \"POST\"], paths = [\"/issue*\"] }}]\n",
            place.display(),
            beside.is_some(),
        );
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(crate::noon()));
        let config = Config::parse(&text).expect("a configuration");
        let gate = Gate::open(config, clock, Arc::new(OsEntropy)).expect("a gate");
        let router = gate.router(None);
        let cookie = if let Some(beside) = beside {
            beside.cookie.clone()
        } else {
            let login = Request::get("/launchpad-auth/good").body(Body::empty()).expect("a request");
            let answer = router.clone().oneshot(login).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK, "no login");
            let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie");
            cookie.split(';').next().unwrap_or_default().to_owned()
        };
        issuing.abort();
        Self { router, cookie, directory }
    }

    /// Asks as nginx does, and returns the status and the user's name.
    fn ask(&self, asked: &Asked) -> (StatusCode, Option<String>) {
        let mut request = Request::get("/auth").body(Body::empty()).expect("a request");
        let headers = request.headers_mut();
        *headers = asked.headers.clone();
        for (name, value) in [("x-original-uri", &asked.target), ("x-original-method", &asked.method)] {
            // nginx does not forward invalid header values either.
            let Ok(value) = HeaderValue::from_bytes(value) else { return (StatusCode::BAD_REQUEST, None) };
            headers.insert(HeaderName::from_static(name), value);
        }
        let answer = crate::block_on_all(self.router.clone().oneshot(request)).expect("an answer");
        let user = answer.headers().get("x-remote-user");
        (answer.status(), user.map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned()))
    }
}
