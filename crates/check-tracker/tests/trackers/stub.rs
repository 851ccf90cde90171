//! A tracker that does everything right, but for one fault.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use countersign_core::{Clock, SystemClock};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use md5::Md5;
use percent_encoding::percent_decode_str;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::handshake::{Ask, PATIENCE, Setup};

/// What is wrong with a tracker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Nothing,
    // At launchpad-auth/check
    CheckIsMissing,
    CheckIsOk,
    CheckAsksIssuer,
    CheckWantsPassword,
    // In the question
    AsksWithGet,
    TriesHeadFirst,
    AsksTwice,
    NeverAsks,
    RemembersTokens,
    OldSpelling,
    TokenInQuery,
    TokenInHeader,
    TokenInBody,
    AnyToken,
    TokenOfAnyAlphabet,
    TokenWithLineEnd,
    HeadIsLogin,
    PostIsLogin,
    PrefetchIsLogin,
    /// Takes the issuer's address from this place in the request.
    IssuerFrom(Place),
    /// Takes nothing but the host's name from there, and the port from its configuration.
    IssuerHostFrom(&'static str),
    NoAudience,
    OtherAudience,
    AudienceTwice,
    AudienceAsText,
    /// Takes its own address from this place in the request.
    AudienceFrom(Place),
    NoKey,
    ShortKey,
    OneKey,
    KeyOfToken,
    TokenIsKey,
    OtherKeyOnRetry,
    OtherAudienceOnRetry,
    // Of time
    LimitsEachWait,
    BelievesPartOfAHead,
    // After the answer
    ReadsTheBodyForAYes,
    TakesAnyTextFor200,
    AlsoAccepts(u16),
    FollowsRedirects,
    NoRetry,
    RetriesRefusals,
    RetriesForever,
    NoTimeout,
    ReadsAll,
    RefusesWith(u16),
    DownIs(u16),
    // In the session
    SessionWithRefusal,
    SessionWithCheck,
    SessionFrom(Source),
    NoCookie,
    SameSession,
    KeepsSession,
    AdoptsSession,
    TokenInCookie,
    NotHttpOnly,
    NotSecure,
    WidePath,
    NarrowPath,
    OtherPath,
    NoPath,
    WideDomain,
}

/// A place in a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Host(&'static str),
    Port(&'static str),
    Url(&'static str),
    Forwarded,
    Cookie(&'static str),
    Query(&'static str),
}

/// Sessions that are made of something that others know or can guess.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    TokenStart,
    TokenEnd,
    Md5OfToken,
    Sha1OfToken,
    Base64OfSha256OfToken,
    SecretDigestOfToken,
    Counter,
    Md5OfCounter,
    PaddedCounter,
    Md5OfUser,
    Time,
    Sha256OfTime,
    TwoDigits,
    FewBits,
}

pub(crate) struct Stub {
    setup: Setup,
    seen: Mutex<HashSet<String>>,
    counter: AtomicU32,
}

/// Starts a tracker on a free port. Returns its base URL.
pub(crate) async fn start(auth_server: String, audience: Option<&str>, fault: Fault) -> String {
    start_patient(auth_server, audience, fault, PATIENCE).await
}

/// The same, of a tracker that waits so long for its issuer.
pub(crate) async fn start_patient(
    auth_server: String,
    audience: Option<&str>,
    fault: Fault,
    patience: Duration,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/trac", listener.local_addr().unwrap());
    let setup = Setup { auth_server, base: audience.unwrap_or(&base).to_owned(), fault, patience };
    let stub = Stub { setup, seen: Mutex::default(), counter: AtomicU32::new(0) };
    let tracker = Router::new().fallback(answer).with_state(Arc::new(stub));
    tokio::spawn(async move { axum::serve(listener, tracker).await });
    base
}

async fn answer(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 65536).await.unwrap();
    let path = head.uri.path();
    if path == "/trac/xmlrpc.cgi" {
        return stub.xmlrpc(std::str::from_utf8(&body).unwrap(), &head).await;
    }
    let Some(token) = path.strip_prefix("/trac/launchpad-auth/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let token = percent_decode_str(token).decode_utf8().unwrap();
    let is_login = match head.method.as_str() {
        "GET" => true,
        "HEAD" => stub.setup.fault == Fault::HeadIsLogin,
        "POST" => stub.setup.fault == Fault::PostIsLogin,
        _ => false,
    };
    if !is_login {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if token == "check" {
        return stub.check().await;
    }
    if is_prefetch(&head.headers) && stub.setup.fault != Fault::PrefetchIsLogin {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match stub.redeem(&token, &head).await {
        Ok(()) => stub.session(&token, &head.headers),
        Err(status) => {
            let mut response = match stub.setup.fault {
                Fault::SessionWithRefusal => stub.session(&token, &head.headers),
                _ => Response::default(),
            };
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
    }
}

fn is_prefetch(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .any(|value| value.contains("prefetch") || value.contains("preview"))
}

impl Stub {
    async fn check(&self) -> Response {
        match self.setup.fault {
            Fault::CheckIsMissing => StatusCode::NOT_FOUND.into_response(),
            Fault::CheckIsOk => StatusCode::OK.into_response(),
            Fault::CheckWantsPassword => {
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"x\"")]).into_response()
            }
            Fault::CheckAsksIssuer => {
                let _ = self.redeem("check", &Request::new(Body::empty()).into_parts().0).await;
                StatusCode::UNAUTHORIZED.into_response()
            }
            Fault::SessionWithCheck => {
                let mut response = self.session("check", &HeaderMap::new());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response
            }
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    }

    /// Bugzilla's interface. The document is looked through, not read.
    async fn xmlrpc(&self, call: &str, head: &Parts) -> Response {
        let headers = &head.headers;
        let token = call
            .split_once("<name>token</name><value><string>")
            .and_then(|(_, rest)| rest.split_once("</string>"));
        let redeemed = match token {
            Some((token, _)) => self.redeem(token, head).await.map(|()| token),
            None => Err(401),
        };
        let fault = |code: i32| {
            format!(
                "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>{code}</int></value>\
                 </member><member><name>faultString</name><value><string>No.</string></value></member></struct></value>\
                 </fault></methodResponse>"
            )
        };
        if self.setup.fault == Fault::CheckIsMissing {
            return fault(-32601).into_response();
        }
        match redeemed {
            Ok(token) => {
                let mut response = self.session(token, headers);
                *response.body_mut() =
                    "<methodResponse><params><param><value><struct><member><name>user_id</name>\
                    <value><int>7</int></value></member></struct></value></param></params></methodResponse>"
                        .into();
                response
            }
            Err(401) => fault(10702).into_response(),
            Err(status) => StatusCode::from_u16(status).unwrap().into_response(),
        }
    }

    /// The login. `Err` is the status to answer the worker with.
    async fn redeem(&self, token: &str, head: &Parts) -> Result<(), u16> {
        let fault = self.setup.fault;
        let good = match fault {
            Fault::AnyToken => true,
            Fault::TokenOfAnyAlphabet => token.chars().all(char::is_alphanumeric),
            Fault::TokenWithLineEnd => {
                token.trim_end_matches('\n').chars().all(|c| c.is_ascii_alphanumeric())
            }
            _ => !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric()),
        };
        if !good {
            return Err(401);
        }
        if fault == Fault::NeverAsks
            || (fault == Fault::RemembersTokens && self.seen.lock().unwrap().contains(token))
        {
            return Ok(());
        }
        match self.verdict(token, head).await {
            Ok(200) => {
                self.seen.lock().unwrap().insert(token.to_owned());
                Ok(())
            }
            Ok(status) if fault == Fault::AlsoAccepts(status) => Ok(()),
            Ok(400..=499) => Err(if let Fault::RefusesWith(status) = fault { status } else { 401 }),
            Ok(_) | Err(_) => Err(if let Fault::DownIs(status) = fault { status } else { 401 }),
        }
    }

    /// Asks the issuer, and once more if that had no answer.
    async fn verdict(&self, token: &str, head: &Parts) -> std::io::Result<u16> {
        let fault = self.setup.fault;
        let serial = self.counter.fetch_add(1, Ordering::SeqCst);
        let key = match fault {
            Fault::ShortKey => format!("k{serial}"),
            Fault::OneKey => "0123456789abcdef".to_owned(),
            Fault::KeyOfToken => token.chars().rev().collect(),
            Fault::TokenIsKey => format!("{token}{serial}"),
            _ => format!("0123456789abcdef{serial}"),
        };
        let setup = &self.setup.misled(head);
        let (audience, other_key) = (setup.base.clone(), format!("another-key-than-that-{serial}"));
        let mut ask = Ask { method: "POST", token, audience: &audience, key: &key };
        if matches!(fault, Fault::AsksWithGet | Fault::TriesHeadFirst) {
            let method = if fault == Fault::AsksWithGet { "GET" } else { "HEAD" };
            let asked = setup.ask(&Ask { method, ..ask }).await;
            if fault == Fault::AsksWithGet {
                return asked.map(|(status, _)| status);
            }
        }
        let most = match fault {
            Fault::NoRetry => 1,
            Fault::RetriesForever => 20,
            _ => 2,
        };
        for attempt in 1.. {
            let asked = setup.ask(&ask).await;
            let again = match &asked {
                Ok((status, _)) => *status >= 500 || (fault == Fault::RetriesRefusals && *status >= 400),
                Err(error) => error.kind() != std::io::ErrorKind::TimedOut,
            };
            if again && attempt < most {
                match fault {
                    Fault::OtherKeyOnRetry => ask.key = &other_key,
                    Fault::OtherAudienceOnRetry => ask.audience = "https://bugs.example.org/",
                    _ => {}
                }
                continue;
            }
            return match asked? {
                (300..=399, Some(to)) if fault == Fault::FollowsRedirects => {
                    setup.follow(&to, &ask).await.map(|(status, _)| status)
                }
                (200, _) if fault == Fault::AsksTwice => setup.ask(&ask).await.map(|(status, _)| status),
                (status, _) => Ok(status),
            };
        }
        unreachable!()
    }

    fn session(&self, token: &str, headers: &HeaderMap) -> Response {
        let fault = self.setup.fault;
        let sent = headers.get(header::COOKIE).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|cookies| cookies.strip_prefix("trac_auth="));
        let number = self.counter.fetch_add(1, Ordering::SeqCst);
        let fresh = format!("5e551on-{}", hex::<Sha256>(&format!("a secret of this tracker, and {number}")));
        let fresh =
            if let Fault::SessionFrom(source) = fault { source.session(token, number) } else { fresh };
        let value = match fault {
            Fault::NoCookie => return StatusCode::OK.into_response(),
            Fault::KeepsSession if sent.is_some() => return StatusCode::OK.into_response(),
            Fault::AdoptsSession => sent.unwrap_or(&fresh),
            Fault::SameSession => "5e551on",
            Fault::TokenInCookie => token,
            _ => &fresh,
        };
        let secure = self.setup.base.starts_with("https:") && fault != Fault::NotSecure;
        let attributes = [
            match fault {
                Fault::NoPath => "",
                Fault::WidePath => "; Path=/",
                Fault::NarrowPath => "; Path=/trac/launchpad-auth",
                Fault::OtherPath => "; Path=/tra",
                _ => "; Path=/trac/",
            },
            if fault == Fault::WideDomain { "; Domain=.example.org" } else { "" },
            if fault == Fault::NotHttpOnly { "" } else { "; HttpOnly" },
            if secure { "; Secure" } else { "" },
        ];
        let cookie = format!("trac_auth={value}{}", attributes.concat());
        (StatusCode::OK, [(header::SET_COOKIE, cookie)], "Logged in as launchpad.\n").into_response()
    }
}

impl Source {
    fn session(self, token: &str, number: u32) -> String {
        let now = SystemClock.now();
        match self {
            Self::TokenStart => token[..20].to_owned(),
            Self::TokenEnd => format!("x{}", &token[token.len() - 16..]),
            Self::Md5OfToken => hex::<Md5>(token),
            Self::Sha1OfToken => hex::<Sha1>(token)[..16].to_owned(),
            Self::Base64OfSha256OfToken => BASE64URL_NOPAD.encode(&Sha256::digest(token)),
            Self::SecretDigestOfToken => hex::<Sha256>(&format!("a secret of this tracker{token}")),
            Self::Counter => (1000 + number).to_string(),
            Self::Md5OfCounter => hex::<Md5>(&number.to_string()),
            Self::PaddedCounter => format!("{}{number:032x}", hex::<Md5>("a secret of this tracker")),
            Self::Md5OfUser => format!("{}{number}", hex::<Md5>("launchpad")),
            Self::Time => format!("{:x}", now.as_nanosecond()),
            Self::Sha256OfTime => hex::<Sha256>(&now.as_millisecond().to_string()),
            Self::TwoDigits => format!("{:02}", number * 37 % 100),
            Self::FewBits => hex::<Md5>(&format!("a secret of this tracker, and {number}"))[..13].to_owned(),
        }
    }
}

fn hex<D: Digest>(text: &str) -> String {
    HEXLOWER.encode(&D::digest(text))
}
