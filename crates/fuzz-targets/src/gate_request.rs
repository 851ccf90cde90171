//! A request to a tracker that the gate stands before, as its reverse proxy asks about it.
//!
//! An input is the request's first line and its headers:
//!
//! ```text
//! POST /issue1
//! Cookie: {session}
//! ```
//!
//! `{session}` stands for the cookie of a session, whose rules allow GET and POST below `/issue*`. The proxy is nginx or Envoy, as
//! their samples have them: nginx adds headers and replaces what the client sends by those names; Envoy repeats the request.

mod readers;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::routing::post;
use countersign_core::{Clock, ManualClock, OsEntropy};
use countersign_gate::{Config, Gate, RequestPath, UnclearPath};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// Reads a path; what is fuzzed is [`RequestPath::parse`].
pub type ReadPath = fn(&str) -> Result<RequestPath, UnclearPath>;

/// Answers whether the request is let through, and with which user's name; what is fuzzed is the gate of [`ask`].
pub type Ask = fn(&World, &Asked) -> (StatusCode, Option<String>);

const USER: &str = "launchpad";

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, RequestPath::parse, ask);
}

/// A path that is accepted is the same to all who read it; and the gate names its user for a request of a session that a rule
/// allows, which carries nothing that could pass for the gate's word, and for no other.
pub fn check(input: &[u8], read: ReadPath, ask: Ask) {
    let Some(asked) = Asked::of(input) else { return };
    let read = str::from_utf8(&asked.target).ok().and_then(|target| read(target).ok());
    if let Some(path) = &read {
        readers::check(&asked.target, path.segments());
    }
    for world in worlds() {
        let (status, user) = ask(world, &asked);
        let is_named = user.as_deref() == Some(USER);
        assert!(is_named || user.as_deref().is_none_or(str::is_empty), "another user: {user:?}");
        assert!(user.is_none() || status == world.yes(), "{status} names {user:?}");
        if status != world.yes() {
            continue;
        }
        assert!(!asked.claims_to_be_somebody(), "a client that sends the user header is let through");
        assert!(!asked.has_user_header_removed(), "a client that has the user header removed is let through");
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
            assert!(!asked.asks_for_another_method(), "a request that asks for another method is allowed");
        } else {
            assert!(world.anonymous, "nobody is let through");
            assert!(!asked.brings_gate_cookie(), "a bad cookie passes for none");
        }
    }
}

/// What a client sends.
#[derive(Debug)]
pub struct Asked {
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
            let (value, is_session) = with_session(value.trim_ascii());
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value)) {
                brings_session |= is_session && name == "cookie";
                headers.append(name, value);
            }
        }
        Some(Self { method, target, headers, brings_session })
    }

    /// Whether a server could take one of the headers for the user's name.
    fn claims_to_be_somebody(&self) -> bool {
        self.headers.keys().any(|name| plain(name.as_str().as_bytes()) == "x_remote_user")
    }

    /// Whether a proxy would remove the header with the user's name, in any spelling (RFC 9110 section 7.6.1).
    fn has_user_header_removed(&self) -> bool {
        let lines = self.headers.get_all("connection").iter();
        let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        options.any(|option| plain(option.trim_ascii()) == "x_remote_user")
    }

    /// Whether a framework could take the request for one of another method: Rails, Laravel and Symfony know such headers and such
    /// a parameter. PHP makes `_` of some characters in a parameter's name.
    fn asks_for_another_method(&self) -> bool {
        let headers = ["x_http_method_override", "x_http_method", "x_method_override"];
        let mut names = self.headers.keys().map(|name| plain(name.as_str().as_bytes()));
        if names.any(|name| headers.contains(&&*name)) {
            return true;
        }
        let query = self.target.iter().position(|byte| *byte == b'?').map_or(0, |at| at + 1);
        let query = self.target.get(query..).filter(|_| query > 0).unwrap_or_default();
        let mut pairs = query.split(|byte| matches!(byte, b'&' | b';'));
        pairs.any(|pair| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            let name: Vec<u8> = name.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            let name: Vec<u8> = percent_encoding::percent_decode(&name).collect();
            matches!(&*name, [b'_' | b'.' | b'[' | b' ', rest @ ..] if rest == b"method")
        })
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

/// A name in lower case, with `_` for everything that is no letter and no digit.
fn plain(name: &[u8]) -> String {
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' };
    name.iter().map(plain).map(char::from).collect()
}

/// The value with the session's cookie where it belongs, byte by byte; and whether it has one.
fn with_session(value: &[u8]) -> (Vec<u8>, bool) {
    const PLACE: &[u8] = b"{session}";
    let (mut rest, mut filled, mut has_one) = (value, Vec::new(), false);
    while let Some(at) = rest.windows(PLACE.len()).position(|part| part == PLACE) {
        let (before, after) = rest.split_at(at);
        filled.extend_from_slice(before);
        filled.extend_from_slice(first_world().cookie.as_bytes());
        rest = after.get(PLACE.len()..).unwrap_or_default();
        has_one = true;
    }
    filled.extend_from_slice(rest);
    (filled, has_one)
}

/// A gate with one session.
#[derive(Debug)]
pub struct World {
    router: Router,
    cookie: String,
    directory: tempfile::TempDir,
    anonymous: bool,
    /// As the gate's configuration has it.
    proxy: &'static str,
}

static FIRST_WORLD: OnceLock<World> = OnceLock::new();

fn first_world() -> &'static World {
    FIRST_WORLD.get_or_init(|| crate::block_on_all(World::new("nginx", None)))
}

/// A gate that wants a session, and gates that let strangers pass, for two proxies. All are on one data directory, and so know the
/// same session.
fn worlds() -> [&'static World; 3] {
    static OTHERS: OnceLock<[World; 2]> = OnceLock::new();
    let first = first_world();
    let beside = |proxy| crate::block_on_all(World::new(proxy, Some(first)));
    let [nginx, envoy] = OTHERS.get_or_init(|| ["nginx", "envoy"].map(beside));
    [first, nginx, envoy]
}

impl World {
    /// A gate beside another one, whose session it has, lets strangers pass.
    async fn new(proxy: &'static str, beside: Option<&World>) -> Self {
        let issuer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", issuer.local_addr().expect("an address"));
        let handshake = post(|| async { StatusCode::OK });
        let issuing = Router::new().route("/token/{token}/+bugtracker-handshake", handshake);
        let issuing = tokio::spawn(async move { axum::serve(issuer, issuing).await });
        let directory = tempfile::TempDir::new().expect("a directory");
        let place = beside.map_or(directory.path(), |beside| beside.directory.path());
        let text = format!(
            "base_url = \"https://bugs.example.org/\"\ndata_dir = \"{}\"\nproxy = \"{proxy}\"\nanonymous = {}\n\
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
        Self { router, cookie, directory, anonymous: beside.is_some(), proxy }
    }

    /// The status that lets a request through.
    pub fn yes(&self) -> StatusCode {
        if self.proxy == "envoy" { StatusCode::OK } else { StatusCode::NO_CONTENT }
    }

    /// The question about a request, as the proxy puts it; `None` for a request that the proxy itself refuses.
    fn question(&self, asked: &Asked) -> Option<Request<Body>> {
        let mut request = Request::get("/auth").body(Body::empty()).ok()?;
        if self.proxy == "envoy" {
            // It passes no fragment on, and its path is the target of the question.
            let is_target = asked.target.starts_with(b"/") && !asked.target.contains(&b'#');
            *request.uri_mut() =
                [b"/auth", &*asked.target].concat().try_into().ok().filter(|_: &Uri| is_target)?;
            *request.method_mut() = Method::from_bytes(&asked.method).ok()?;
        }
        let headers = request.headers_mut();
        *headers = asked.headers.clone();
        if self.proxy == "nginx" {
            for (name, value) in [("x-original-uri", &asked.target), ("x-original-method", &asked.method)] {
                // nginx does not forward invalid header values either.
                headers.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?);
            }
        }
        Some(request)
    }
}

/// Asks the gate as its proxy does, and returns the status and the user's name.
pub fn ask(world: &World, asked: &Asked) -> (StatusCode, Option<String>) {
    let Some(question) = world.question(asked) else { return (StatusCode::BAD_REQUEST, None) };
    let answer = crate::block_on_all(world.router.clone().oneshot(question)).expect("an answer");
    let user = answer.headers().get("x-remote-user");
    (answer.status(), user.map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned()))
}
