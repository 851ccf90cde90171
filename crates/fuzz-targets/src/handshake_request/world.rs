//! A server without sockets, and the tokens that it has issued.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use countersign_core::{Audience, Claims, GetError, ManualClock, NewToken, SequenceEntropy, Status};
use countersign_server::routes::Routes;
use countersign_server::{App, Peer, RefusalLimiter, TrustedProxies};
use countersign_testkit::app;
use http_body_util::BodyExt;
use jiff::Timestamp;

use super::NewStore;
use crate::{noon, ring};

/// The peer: a trusted proxy, so its headers are read.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Few enough that a script can reach it.
const REFUSALS_PER_MINUTE: u32 = 8;

/// A server, its clock, and its tokens.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) tokens: Vec<Known>,
    app: Arc<App>,
    routes: Routes,
}

/// A token that scripts can name.
pub(super) struct Known {
    pub(super) placeholder: &'static str,
    pub(super) text: String,
    pub(super) is_bound: bool,
    /// The key and the time of the first answer that accepted it.
    pub(super) first: Option<(Option<Vec<u8>>, Timestamp)>,
}

/// An answer, read whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

impl World {
    pub(super) async fn new(store: NewStore) -> Self {
        let clock = Arc::new(ManualClock::at(noon()));
        let entropy = Arc::new(SequenceEntropy::default());
        let plain = app(clock.clone()).entropy(entropy).keys(ring()).store(store(&*clock)).build();
        let app = Arc::new(App {
            limiter: RefusalLimiter::new(REFUSALS_PER_MINUTE, clock.clone()),
            proxies: TrustedProxies { networks: vec![PEER.into()], ..TrustedProxies::default() },
            ..plain
        });
        let claims = serde_json::from_str(r#"{"worker":"checkwatches"}"#).expect("an object");
        let bound = NewToken {
            audience: Some(Audience::parse("https://trac.example.org/").expect("an audience")),
            claims: Claims::new(claims).expect("short claims"),
            ..NewToken::default()
        };
        let tokens = vec![
            Known::issued("{unbound}", &app, NewToken::default()),
            Known::issued("{bound}", &app, bound),
            Known::issued("{revoked}", &app, NewToken::default()),
        ];
        let revoked = tokens.last().map(|token| token.text.clone()).unwrap_or_default();
        assert_eq!(app.tokens.revoke(&revoked).await, Ok(true));
        Self { clock, tokens, routes: Routes::public(Arc::clone(&app)), app }
    }

    /// How each token stands. One whose record is gone counts as expired.
    pub(super) async fn look(&self) -> Vec<Status> {
        let mut all = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            all.push(match self.app.tokens.get(&token.text).await {
                Ok(lookup) => lookup.status,
                Err(GetError::Forgotten { .. }) => Status::Expired,
                Err(error) => panic!("a token cannot be looked up: {error}"),
            });
        }
        all
    }

    pub(super) async fn answer(&self, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(Peer(Some(PEER)));
        let response = self.routes.answer(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body that is there").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        Answer { status: head.status, headers: head.headers, text }
    }
}

impl Known {
    fn issued(placeholder: &'static str, app: &App, wanted: NewToken) -> Self {
        let is_bound = wanted.audience.is_some();
        let text = app.tokens.issue(wanted).expect("a token").text.into_exposed();
        Self { placeholder, text, is_bound, first: None }
    }
}
