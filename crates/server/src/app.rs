//! What every request handler can reach.

use std::sync::Arc;

use countersign_core::{Key, KeyId, KeyRing, LoginTokenSet, News};
use url::Url;

use crate::caller::Caller;
use crate::{Bearer, Events, KeyFile, RefusalLimiter, Tasks, Traces, TrustedProxies};

/// The state that the routes share.
#[derive(Debug)]
pub struct App {
    /// The domain.
    pub tokens: LoginTokenSet,
    /// What happens.
    pub events: Arc<Events>,
    /// Where the key ring is kept, for rotation.
    pub key_file: KeyFile,
    /// The issuer's name and URL.
    pub names: Names,
    /// How a token that is no longer good is answered.
    pub spent_status: SpentStatus,
    /// Who has been refused too often.
    pub limiter: RefusalLimiter,
    /// Whose word is taken for where a request comes from.
    pub proxies: TrustedProxies,
    /// What a caller of the private API must show; `None` asks for nothing, which is for loopback only.
    pub bearer: Option<Bearer>,
    /// Where spans go; `None` where traces are off.
    pub traces: Option<Arc<Traces>>,
    /// What goes on although its caller may have gone.
    pub tasks: Tasks,
}

impl App {
    /// Puts the key file to use if it has changed. A file that cannot be used changes nothing, and is complained about
    /// once.
    pub async fn reload_keys(self: &Arc<Self>) {
        let app = Arc::clone(self);
        match tokio::task::spawn_blocking(move || app.key_file.reload_if_changed()).await {
            Ok(Some(Ok(ring))) => {
                let old = self.tokens.keys();
                let (keys, foreign) = (ring.keys().len(), !share_a_key(&old, &ring));
                match self.tokens.replace_keys(ring).await {
                    Ok(news) => {
                        tracing::info!(keys, "the key ring has changed on disk and is in use");
                        if foreign {
                            tracing::warn!(
                                "the new key ring has none of the old keys: tokens issued so far are refused; if it is \
                                 another server's, put this server's own back"
                            );
                        }
                        news.iter().for_each(log_news);
                        self.tell_of_keys(&old, &Caller::default());
                    }
                    Err(error) => {
                        tracing::error!(%error, "the key ring on disk is not taken up; keeping the old one");
                    }
                }
            }
            Ok(Some(Err(error))) => {
                tracing::error!(%error, "the key ring on disk cannot be used; keeping the old one");
            }
            Ok(None) | Err(_) => {}
        }
    }

    /// Makes events of what has changed since `old` was the ring in use.
    pub(crate) fn tell_of_keys(&self, old: &KeyRing, caller: &Caller) {
        let ring = self.tokens.keys();
        if let Some(key) = newest(&ring).filter(|key| newest(old) != Some(*key)) {
            self.events.key_rotated(key, caller);
        }
        for key in ring.revoked().iter().filter(|key| !old.revoked().contains(key)) {
            self.events.key_revoked(*key, caller);
        }
    }

    /// Tells the store, and so the other servers, which keys this one holds, and logs what comes of it.
    pub async fn check_in(&self) {
        match self.tokens.check_in().await {
            Ok(news) => news.iter().for_each(log_news),
            Err(error) => tracing::debug!(%error, "cannot check in; the key that seals stays as it is"),
        }
    }
}

/// Says what a server has found out about its keys and those of the others.
pub fn log_news(news: &News) {
    match news {
        News::Seals(key) => tracing::info!(%key, "seals with this key"),
        News::Revoked { key, node } => {
            tracing::warn!(%key, node, "the key was revoked there and is not used here any more; copy that server's key ring here");
        }
        News::OnlyKeyRevoked { key, node } => {
            tracing::error!(
                %key, node, "the key was revoked there, and it is the only one here, so that it is still in use; copy that \
                 server's key ring here now"
            );
        }
        News::Lacks { key, node, live: true } => tracing::error!(
            %key, node, "that server seals with a key that this one lacks: its tokens are answered 503 here; copy its key \
             ring here"
        ),
        News::Lacks { key, node, live: false } => tracing::warn!(
            %key, node, "the key ring lacks a key with which an earlier server on this store sealed: tokens of that \
             server are refused. If this is another server's ring, put the right one back"
        ),
    }
}

/// The key that was added last.
fn newest(ring: &KeyRing) -> Option<KeyId> {
    ring.keys().last().map(Key::id)
}

fn share_a_key(one: &KeyRing, other: &KeyRing) -> bool {
    one.keys().iter().any(|key| other.keys().iter().any(|same| same.id() == key.id()))
}

/// Who the issuer is.
#[derive(Clone, Debug)]
pub struct Names {
    /// The issuer's name, such as `Launchpad`.
    pub issuer: String,
    /// The URL under which bug trackers reach the public API, without a slash at its end.
    pub public_url: String,
}

impl Names {
    /// Takes the issuer's name, and the URL of its public API.
    pub fn new(issuer: String, public_url: &Url) -> Self {
        Self { issuer, public_url: public_url.as_str().trim_end_matches('/').to_owned() }
    }

    /// The seed's description of a token.
    pub(crate) fn title(&self) -> String {
        format!("{} is authenticating itself with a remote bug tracker.", self.issuer)
    }

    pub(crate) fn canonical_url(&self, token: &str) -> String {
        format!("{}/token/{token}", self.public_url)
    }

    pub(crate) fn handshake_url(&self, token: &str) -> String {
        format!("{}/token/{token}/{}", self.public_url, crate::public::VIEW)
    }
}

/// The status of a refusal because the token has been used, revoked, or has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpentStatus {
    /// 401 with `WWW-Authenticate`, as the seed has it.
    #[default]
    Unauthorized,
    /// 410, as present-day Launchpad has it.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_built_below_the_public_url() {
        let names = Names::new("Launchpad".into(), &"https://lp.example.org/prefix/".parse().unwrap());
        assert_eq!(names.canonical_url("T"), "https://lp.example.org/prefix/token/T");
        assert_eq!(names.handshake_url("T"), "https://lp.example.org/prefix/token/T/+bugtracker-handshake");
    }
}
