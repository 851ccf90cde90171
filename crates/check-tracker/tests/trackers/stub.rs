//! A tracker that does everything right, but for one fault.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;

use crate::handshake::{Ask, Setup};

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
    NoAudience,
    OtherAudience,
    AudienceTwice,
    AudienceAsText,
    AudienceFromHost,
    AudienceFromForwardedHost,
    AudienceFromForwarded,
    NoKey,
    ShortKey,
    OneKey,
    KeyOfToken,
    TokenIsKey,
    OtherKeyOnRetry,
    OtherAudienceOnRetry,
    // After the answer
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

pub(crate) struct Stub {
    setup: Setup,
    seen: Mutex<HashSet<String>>,
    counter: AtomicU32,
}

/// Starts a tracker on a free port. Returns its base URL.
pub(crate) async fn start(auth_server: String, audience: Option<&str>, fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/trac", listener.local_addr().unwrap());
    let setup = Setup { auth_server, base: audience.unwrap_or(&base).to_owned(), fault };
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
        return stub.xmlrpc(std::str::from_utf8(&body).unwrap(), &head.headers).await;
    }
    let Some(token) = path.strip_prefix("/trac/launchpad-auth/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let token = percent_decode_str(token).decode_utf8().unwrap();
    if head.method != "GET" && stub.setup.fault != Fault::HeadIsLogin {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if token == "check" {
        return stub.check().await;
    }
    match stub.redeem(&token, &head.headers).await {
        Ok(()) => stub.session(&token, &head.headers),
        Err(status) => StatusCode::from_u16(status).unwrap().into_response(),
    }
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
                let _ = self.redeem("check", &HeaderMap::new()).await;
                StatusCode::UNAUTHORIZED.into_response()
            }
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    }

    /// Bugzilla's interface. The document is looked through, not read.
    async fn xmlrpc(&self, call: &str, headers: &HeaderMap) -> Response {
        let token = call.split_once("<string>").and_then(|(_, rest)| rest.split_once("</string>"));
        let redeemed = match token {
            Some((token, _)) => self.redeem(token, headers).await.map(|()| token),
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
    async fn redeem(&self, token: &str, headers: &HeaderMap) -> Result<(), u16> {
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
        match self.verdict(token, headers).await {
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
    async fn verdict(&self, token: &str, headers: &HeaderMap) -> std::io::Result<u16> {
        let fault = self.setup.fault;
        let serial = self.counter.fetch_add(1, Ordering::SeqCst);
        let key = match fault {
            Fault::ShortKey => format!("k{serial}"),
            Fault::OneKey => "0123456789abcdef".to_owned(),
            Fault::KeyOfToken => token.chars().rev().collect(),
            Fault::TokenIsKey => format!("{token}{serial}"),
            _ => format!("0123456789abcdef{serial}"),
        };
        let (audience, other_key) = (self.audience(headers), format!("another-key-than-that-{serial}"));
        let mut ask = Ask { method: "POST", token, audience: &audience, key: &key };
        if matches!(fault, Fault::AsksWithGet | Fault::TriesHeadFirst) {
            let method = if fault == Fault::AsksWithGet { "GET" } else { "HEAD" };
            let asked = self.setup.ask(&Ask { method, ..ask }).await;
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
            let asked = self.setup.ask(&ask).await;
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
                    self.setup.follow(&to, &ask).await.map(|(status, _)| status)
                }
                (200, _) if fault == Fault::AsksTwice => self.setup.ask(&ask).await.map(|(status, _)| status),
                (status, _) => Ok(status),
            };
        }
        unreachable!()
    }

    fn audience(&self, headers: &HeaderMap) -> String {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let url = |host: Option<String>| host.map(|host| format!("http://{host}/trac"));
        let taken = match self.setup.fault {
            Fault::OtherAudience => Some("https://bugs.example.org/".to_owned()),
            Fault::AudienceFromHost => url(text("host")),
            Fault::AudienceFromForwardedHost => url(text("x-forwarded-host")),
            Fault::AudienceFromForwarded => {
                let forwarded = text("forwarded");
                url(forwarded
                    .and_then(|value| Some(value.strip_prefix("host=")?.split_once(';')?.0.to_owned())))
            }
            _ => None,
        };
        taken.unwrap_or_else(|| self.setup.base.clone())
    }

    fn session(&self, token: &str, headers: &HeaderMap) -> Response {
        let fault = self.setup.fault;
        let sent = headers.get(header::COOKIE).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|cookies| cookies.strip_prefix("trac_auth="));
        let fresh = format!("5e551on{}", self.counter.fetch_add(1, Ordering::SeqCst));
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
