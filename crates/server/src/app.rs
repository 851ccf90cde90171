//! The state that every request handler shares.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{
    CheckInFinding, ClockError, KeyRing, KeyRingError, LoginTokenSet, RingChange, RingError, StoreError,
};
use url::Url;

use crate::caller::Caller;
use crate::health::{STORE_TIMEOUT, store_hangs};
use crate::record_count::RecordCount;
use crate::replace::LOCK_PATIENCE;
use crate::{
    Bearer, Callers, EffectiveConfig, Events, KeyFile, KeyFileError, RefusalLimiter, Tasks, Traces,
    TrustedProxies,
};

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
    /// Limits the refusals of each address.
    pub limiter: RefusalLimiter,
    /// The proxies whose headers tell where a request comes from.
    pub proxies: TrustedProxies,
    /// What a caller of the private API must show; `None` asks for nothing, which is for loopback only.
    pub bearer: Option<Bearer>,
    /// The callers of the private API that have names; with them, a caller has to show a credential.
    pub callers: Option<Callers>,
    /// Where spans go; `None` where traces are off.
    pub traces: Option<Arc<Traces>>,
    /// The settings in force, for `GET /v1/server`.
    pub effective_config: EffectiveConfig,
    /// How many records the store has.
    pub record_count: RecordCount,
    /// Work that continues after its caller has disconnected.
    pub tasks: Tasks,
}

impl App {
    /// A server without a credential, that keeps no events, sends no traces and limits no refusals. Set the fields to change that.
    pub fn new(tokens: LoginTokenSet, key_file: KeyFile, names: Names) -> Self {
        let (clock, entropy) = (Arc::clone(tokens.clock()), Arc::clone(tokens.entropy()));
        Self {
            events: Arc::new(Events::unkept(Arc::clone(&clock), entropy)),
            tokens,
            key_file,
            names,
            spent_status: SpentStatus::default(),
            limiter: RefusalLimiter::new(0, clock),
            proxies: TrustedProxies::default(),
            bearer: None,
            callers: None,
            traces: None,
            effective_config: EffectiveConfig::default(),
            record_count: RecordCount::default(),
            tasks: Tasks::default(),
        }
    }

    /// Whether callers of the private API have to show a credential.
    pub(crate) fn asks_for_credential(&self) -> bool {
        self.bearer.is_some() || self.callers.is_some()
    }

    /// This server's name among those on its store.
    pub(crate) fn label(&self) -> String {
        let me = self.tokens.node_id();
        let node_list = self.tokens.node_list().filter(|_| self.tokens.store().is_shared());
        let mine =
            node_list.iter().flat_map(|list| &list.nodes).find(|seen| seen.live && Some(seen.node.id) == me);
        mine.map_or("this server".to_owned(), |seen| seen.node.label())
    }

    /// Puts the key file to use if it has changed, or `anyway`. A file that cannot be used changes nothing, and is
    /// complained about once.
    pub async fn reload_keys(self: &Arc<Self>, anyway: bool) {
        let app = Arc::clone(self);
        let taken_up = tokio::task::spawn_blocking(move || {
            app.key_file.take_up_if_changed(anyway, |ring| app.take_up(ring, &Caller::default()))
        });
        let shared = self.tokens.store().is_shared();
        match taken_up.await {
            Ok(Ok(true)) if shared => tracing::info!("the key file has changed on disk and is in use"),
            Ok(Ok(true)) => {
                let keys = self.tokens.keys().keys().len();
                tracing::info!(keys, "the key ring has changed on disk and is in use");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the key ring on disk cannot be used; keeping the old one");
            }
            Ok(Ok(false)) | Err(_) => return,
        }
        self.check_in().await;
    }

    /// Puts a key file's ring to use, and makes events of what has changed.
    fn take_up(&self, file: KeyRing, caller: &Caller) {
        let old = self.tokens.keys();
        if let Some(key) = self.tokens.use_file(file) {
            tracing::error!(
                %key, "the key file on disk lacks the key that unlocks the key ring in the store; this server goes on with \
                what it has read, and could not be started again. Put the key back, or copy another server's key file here"
            );
        }
        let new = self.tokens.keys();
        if !share_a_key(&old, &new) && !old.keys().iter().all(|key| new.revoked().contains(&key.id())) {
            tracing::warn!(
                "the new key ring has none of the old keys: tokens issued so far are refused; if it is another server's, \
                 put this server's own back"
            );
        }
        self.events.look_at_keys(&old, &new, caller);
    }

    /// Changes the keys: in the store that keeps the ring, or in the key file. It is carried through by a task of its own,
    /// with all that follows from it, so that a caller who goes away leaves nothing half done.
    pub(crate) async fn change_keys(
        self: &Arc<Self>,
        change: RingChange,
        caller: Caller,
    ) -> Result<(), KeyChangeError> {
        let app = Arc::clone(self);
        let task = self.tasks.run(async move {
            let turn = tokio::time::timeout(LOCK_PATIENCE, app.key_file.turn()).await;
            let _turn = turn.map_err(|_| KeyChangeError::UnderWay)?;
            let changed = if app.tokens.store().is_shared() {
                app.change_shared(change, &caller).await
            } else {
                app.change_file(change, &caller).await
            };
            if changed.is_ok() {
                app.check_in().await;
            }
            changed
        });
        match tokio::time::timeout(STORE_TIMEOUT, task).await {
            Ok(changed) => changed.unwrap_or(Err(KeyChangeError::BrokeOff)),
            Err(_) => Err(KeyChangeError::Store(store_hangs())),
        }
    }

    async fn change_shared(&self, change: RingChange, caller: &Caller) -> Result<(), KeyChangeError> {
        let changed = self.tokens.change_ring(change).await?;
        self.events.look_at_keys(&changed.before, &changed.after, caller);
        Ok(())
    }

    async fn change_file(
        self: &Arc<Self>,
        change: RingChange,
        caller: &Caller,
    ) -> Result<(), KeyChangeError> {
        let RingChange::Keys(change) = change else { return Err(KeyChangeError::NotShared) };
        let (app, caller) = (Arc::clone(self), caller.clone());
        let changed = tokio::task::spawn_blocking(move || {
            let (now, entropy) = (app.tokens.clock().now(), app.tokens.entropy());
            app.key_file.change(change, now, &**entropy, |ring| app.take_up(ring, &caller))
        });
        Ok(changed.await.map_err(|_| KeyChangeError::BrokeOff)??)
    }

    /// Makes events, and so alarms, of what has changed without this server: a fence that the store has moved by itself,
    /// or a command offline; a store that was emptied; keys that were changed in the key file, or by another server.
    pub async fn note_changes(&self) {
        let moved = self.tokens.store().take_moved_fences().into_iter().max();
        {
            // A change that is under way makes its events itself.
            let _turn = self.key_file.turn().await;
            let keys = self.tokens.keys();
            self.events.look_at_keys(&keys, &keys, &Caller::default());
        }
        // Read in this order: a fence that moves in between must not look as if it had gone back.
        let known = self.events.known_fence();
        let Some(fence) = moved.max(self.tokens.known_fence()) else { return };
        if known == Some(fence) {
            return;
        }
        // Where nothing was known, this is a new server's first look.
        let is_news = moved.is_some() || known.is_some();
        // A fence that went back comes with an older copy, and so do the rows that say who has told of it.
        let went_back = known > Some(fence);
        if is_news && (went_back || !self.tokens.is_told_elsewhere(fence)) {
            if moved != Some(fence) {
                tracing::warn!(
                    %fence, was = known.map(display),
                    "the fence stands elsewhere than this server has seen it: it was moved offline or by another server, or \
                     the store was emptied or replaced. Every token issued before it is refused. If an older copy of the \
                     store was put there, run `countersign store fence`: it does not know which tokens were used since"
                );
            }
            self.events.fence_moved(fence, &Caller::default());
            self.tokens.note_told_fence(fence);
            self.check_in().await;
        } else {
            self.events.note_fence(fence);
            self.tokens.note_told_fence(fence);
        }
    }

    /// Compares the clocks, and logs once what has come to be wrong, and once that it is over.
    pub async fn keep_time(&self, said: &mut Option<ClockError>) {
        let asked = tokio::time::timeout(STORE_TIMEOUT, self.tokens.keep_time()).await;
        if let Err(error) = asked.unwrap_or_else(|_| Err(store_hangs())) {
            tracing::debug!(%error, "cannot read the store's clock; using this machine's steady clock");
        }
        let error = self.tokens.clock_trouble();
        let found = error.clone().or_else(|| self.tokens.clock_warning());
        // That it is a second more or less is no news.
        if found.as_ref().map(mem::discriminant) != said.as_ref().map(mem::discriminant) {
            match (&error, &found) {
                (Some(error), _) => {
                    // Behind a line of the store, tokens of other servers are redeemed.
                    let what = match error {
                        ClockError::BehindWatermark(_) => "issued",
                        _ => "issued or redeemed",
                    };
                    tracing::error!(%error, "the clock is wrong: no token is {what} here");
                }
                (None, Some(warning)) => tracing::warn!(%warning, "the clock is doubtful"),
                (None, None) => tracing::info!("the clock is right again"),
            }
        }
        *said = found;
    }

    /// Succeeds if a token can be issued and redeemed now.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        if let Some(error) = self.tokens.clock_trouble() {
            return Err(error.into());
        }
        let ready = tokio::time::timeout(patience, self.tokens.ready()).await;
        ready.unwrap_or_else(|_| Err(store_hangs()))
    }

    /// Reads the ring of a shared store, registers this server in the store, and logs the findings.
    pub async fn check_in(&self) {
        match self.tokens.check_in().await {
            Ok(findings) => findings.iter().for_each(log_finding),
            Err(error) => tracing::debug!(%error, "cannot check in; the sealing key stays as it is"),
        }
    }
}

/// Why the keys were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyChangeError {
    /// The key file cannot be changed.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The ring in the store cannot.
    #[error(transparent)]
    Ring(RingError),
    /// The store does not answer.
    #[error("{0}; whether the keys were changed is not known: `countersign keys list` shows it")]
    Store(StoreError),
    /// Another program changes them.
    #[error("another change of the keys is under way; nothing was changed, ask again")]
    UnderWay,
    /// Rewrapping is for a ring in a shared store.
    #[error("the key ring is in the key file, and not in the store: there is nothing to lock anew")]
    NotShared,
    /// A bug.
    #[error("the change of the keys broke off; `countersign keys list` shows whether it was made")]
    BrokeOff,
}

impl From<RingError> for KeyChangeError {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Store(error) => Self::Store(error),
            other => Self::Ring(other),
        }
    }
}

impl KeyChangeError {
    /// Why the ring cannot be used, if it cannot.
    pub(crate) fn objection(&self) -> Option<&KeyRingError> {
        match self {
            Self::File(KeyFileError::Ring { error, .. }) | Self::Ring(RingError::Ring(error)) => Some(error),
            _ => None,
        }
    }
}

/// Says what a server has found out about the keys.
pub fn log_finding(finding: &CheckInFinding) {
    match finding {
        CheckInFinding::Seals(key) => tracing::info!(%key, "seals with this key"),
        CheckInFinding::Revoked(key) => {
            tracing::warn!(%key, "another server has revoked the key: tokens that it sealed are refused");
        }
        CheckInFinding::Returned(key) => tracing::error!(
            %key, "the key had been revoked and is back in the store's key ring: an older state of the database was \
            restored. Revoke it again (`countersign keys revoke`)"
        ),
        CheckInFinding::Unreadable(error) => tracing::error!(%error, "no token can be redeemed here"),
        CheckInFinding::MissingKey { key, node } => tracing::warn!(
            %key, node, "the key ring lacks a key with which an earlier server on this store sealed: tokens of that \
             server are refused. If this is another server's ring, put the right one back"
        ),
    }
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

    /// The description of a token in Launchpad's protocol.
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
    /// 401 with `WWW-Authenticate`, as Launchpad answers.
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
