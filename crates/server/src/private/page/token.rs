//! Shows a token that an operator pastes. Its text comes in the body of a request and goes nowhere else: not into an
//! address, a log or the answer, which has its id.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::{GetError, Lookup, Status};
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::private::body;
use crate::public::VIEW;

use super::Page;
use super::parts::{DisplayTime, moment};
use super::wish::Wish;

/// What is said of a token.
pub(super) enum TokenReport {
    /// There is none to be known.
    No(String),
    /// It is one of ours.
    Known(Box<TokenDetails>),
}

/// A token, without its text.
pub(super) struct TokenDetails {
    /// What came of revoking it, if that was asked for.
    pub(super) done: Option<&'static str>,
    pub(super) id: String,
    pub(super) status: &'static str,
    /// When its life ended, and by which address.
    pub(super) ended: Option<(DisplayTime, Option<String>)>,
    pub(super) audience: Option<String>,
    pub(super) created: DisplayTime,
    pub(super) expires: DisplayTime,
}

/// What the form asks for.
#[derive(Default)]
struct Form {
    token: Zeroizing<String>,
    revoke: bool,
}

/// `POST /page/token`: looks a token up, or revokes it.
pub(crate) async fn token(
    State(page): State<Arc<Page>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match body::read(&headers, body).await {
        Ok(body) => body,
        Err(error) => return error.into_problem().into_response(),
    };
    let form = read_form(&body);
    let (status, answer) = page.answer(&form, &caller).await;
    (status, page.render(&Wish::default(), Some(answer)).await).into_response()
}

fn read_form(body: &[u8]) -> Form {
    let mut form = Form::default();
    for (name, value) in form_urlencoded::parse(body) {
        match &*name {
            "token" => form.token = Zeroizing::new(bare(&value).to_owned()),
            "do" => form.revoke = value == "revoke",
            _ => {}
        }
    }
    form
}

/// The token alone, from a pasted token or from the URL of its handshake.
fn bare(pasted: &str) -> &str {
    let pasted = pasted.trim();
    let Some((path, view)) = pasted.trim_end_matches('/').rsplit_once('/') else { return pasted };
    // The plus sign may be escaped.
    let before = view.strip_suffix(VIEW.trim_start_matches('+'));
    if !matches!(before, Some("+" | "%2B" | "%2b")) {
        return pasted;
    }
    path.rsplit_once('/').map_or(path, |(_, token)| token)
}

impl Page {
    async fn answer(&self, form: &Form, caller: &Caller) -> (StatusCode, TokenReport) {
        let answered = async {
            let done = if form.revoke { Some(self.revoke(&form.token, caller).await?) } else { None };
            Ok((done, self.app.tokens.get(&form.token).await?))
        };
        match answered.await {
            Ok((done, lookup)) => (StatusCode::OK, TokenReport::Known(Box::new(known(done, &lookup)))),
            Err(error) => {
                let status = match error {
                    GetError::NotOurs(_) => StatusCode::NOT_FOUND,
                    GetError::Forgotten { .. } => StatusCode::GONE,
                    GetError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, TokenReport::No(error.to_string()))
            }
        }
    }

    async fn revoke(&self, text: &str, caller: &Caller) -> Result<&'static str, GetError> {
        if self.app.revoke(text.to_owned().into(), caller.clone()).await? {
            Ok("It is revoked: nobody can redeem it any more.")
        } else {
            Ok("There was nothing to revoke: its life had ended already.")
        }
    }
}

fn known(done: Option<&'static str>, Lookup { token, status }: &Lookup) -> TokenDetails {
    let (status, ended) = match status {
        Status::Live => ("live", None),
        Status::Consumed(first) => {
            ("consumed", Some((moment(first.at), first.by.map(|peer| peer.to_string()))))
        }
        Status::Revoked { at } => ("revoked", Some((moment(*at), None))),
        Status::Expired => ("expired", None),
        Status::Fenced => ("fenced", None),
    };
    TokenDetails {
        done,
        id: token.id().to_string(),
        status,
        ended,
        audience: token.audience().map(ToString::to_string),
        created: moment(token.created()),
        expires: moment(token.expires()),
    }
}
