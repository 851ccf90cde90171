//! What the listener knows of a request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;
use countersign_core::RequestId;

use crate::deadline::Deadline;

/// The address that a request comes from; `None` where there is no such thing.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<IpAddr>);

/// The names in the certificate that a client has shown, in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct ClientCertificate(pub Arc<[String]>);

/// Where a request comes from, its name, and by when it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) peer: Option<IpAddr>,
    /// `None` for a request that came by no listener, in a test.
    pub(crate) id: Option<RequestId>,
    pub(crate) deadline: Deadline,
}

impl Arrival {
    /// Of a request that goes by a router, which passes on what is in its extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_else(|| {
            let peer = extensions.get().and_then(|Peer(peer)| *peer);
            Self { peer, id: None, deadline: Deadline::from_now() }
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Arrival {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}
