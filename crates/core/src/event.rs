//! The events that operators see, and the contract of a store of events.
//!
//! An event names a token by its id, never by its text. Text from strangers (a user agent, an audience) is shortened and
//! cleaned before it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::handshake::Refusal;
use crate::{CallerName, Consumption, Entropy, EntropyError, Key, KeyId, KeyRing, StoreError, TokenId};

/// The longest user agent or stated audience that is kept, in characters.
pub const MAX_NOTE_CHARS: usize = 256;

/// Letters and digits in a row beyond this many are left out of what strangers send: a token is such a word, and a
/// program's name is not.
const MAX_WORD_CHARS: usize = 48;

/// Something that happened to a token, a key or the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name. A consumption and a revocation are on record under the token's own id.
    pub id: EventId,
    /// When it happened; whole milliseconds.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// To which token, if it is an authentic one.
    pub token: Option<TokenId>,
    /// The base URL of the tracker that the token is bound to.
    pub audience: Option<String>,
    /// The address of who asked.
    pub peer: Option<IpAddr>,
    /// What the asking program says it is.
    pub user_agent: Option<Note>,
    /// The request it happened in.
    pub request: Option<RequestId>,
    /// The named caller of the private API: at a handshake the one for which the token was issued, anywhere else the one that
    /// asked.
    pub caller: Option<CallerName>,
    /// 1, or how many events of this kind this one stands for, because there were too many to keep one by one.
    pub count: u64,
}

impl Event {
    /// Whether this text is in what strangers sent along, in the tracker's URL, or in the name of a caller or a key.
    fn contains(&self, text: &str) -> bool {
        let key = match &self.kind {
            EventKind::KeyRotated { key } | EventKind::KeyRevoked { key } => Some(key.to_string()),
            _ => None,
        };
        let stated = match &self.kind {
            EventKind::Relay { stated } => stated.as_ref().map(Note::as_str),
            _ => None,
        };
        let text = text.to_ascii_lowercase();
        let caller = self.caller.as_ref().map(CallerName::as_str);
        [self.audience.as_deref(), caller, self.user_agent.as_ref().map(Note::as_str), stated, key.as_deref()]
            .into_iter()
            .flatten()
            .any(|has| has.to_ascii_lowercase().contains(&text))
    }
}

/// What happened. Where a label is wanted, [`label`](Self::label) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A token was issued.
    Issued,
    /// A token was redeemed.
    Consumed,
    /// A handshake was rejected, for a reason that raises no alarm.
    Refused(Reason),
    /// A token was taken back.
    Revoked,
    /// A used token was shown again. `None`: many such events in one.
    Replay(Option<FirstUse>),
    /// A token was shown by another tracker than it is bound to: somebody passed it on.
    Relay {
        /// The tracker that was stated instead.
        stated: Option<Note>,
    },
    /// There is another key that seals, or will.
    KeyRotated {
        /// The newest key.
        key: KeyId,
    },
    /// A key was taken out because it is not secret any more: tokens that it sealed are rejected.
    KeyRevoked {
        /// Which.
        key: KeyId,
    },
    /// Every token issued before this moment is rejected.
    FenceMoved {
        /// Where the fence stands now.
        fence: Timestamp,
    },
    /// Somebody showed the private API a credential that is not the right one. The credential is not kept.
    CredentialRejected,
}

/// The use that a replay repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstUse {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Option<IpAddr>,
}

impl From<&Consumption> for FirstUse {
    fn from(first: &Consumption) -> Self {
        Self { at: first.at, by: first.by }
    }
}

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// It in a word. Stable.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            /// The one that this label means.
            pub fn of_label(label: &str) -> Option<Self> {
                match label {
                    $($label => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

labelled! {
    /// Why a handshake was rejected, as far as it is no replay and no relay.
    Reason {
        /// The method is not POST.
        Method => "method",
        /// Not a token of this server.
        Unknown => "unknown",
        /// Bound, and no tracker stated.
        AudienceMissing => "audience-missing",
        /// Bound, and what is stated cannot be understood.
        AudienceUnreadable => "audience-unreadable",
        /// Its time is over.
        Expired => "expired",
        /// Made further in the future than clocks may be apart.
        FromTheFuture => "from-the-future",
        /// From before the store's fence or horizon.
        Fenced => "fenced",
        /// Taken back.
        Revoked => "revoked",
    }
}

labelled! {
    /// The kinds of events, as an operator asks for them.
    KindFilter {
        /// [`EventKind::Issued`].
        Issued => "issued",
        /// [`EventKind::Consumed`].
        Consumed => "consumed",
        /// [`EventKind::Refused`], for whatever reason.
        Refused => "refused",
        /// [`EventKind::Revoked`].
        Revoked => "revoked",
        /// [`EventKind::Replay`].
        Replay => "replay",
        /// [`EventKind::Relay`].
        Relay => "relay",
        /// [`EventKind::KeyRotated`].
        KeyRotated => "key-rotated",
        /// [`EventKind::KeyRevoked`].
        KeyRevoked => "key-revoked",
        /// [`EventKind::FenceMoved`].
        FenceMoved => "fence-moved",
        /// [`EventKind::CredentialRejected`].
        CredentialRejected => "credential-rejected",
    }
}

impl EventKind {
    /// Which kind of event a refusal is.
    pub fn of(refusal: &Refusal, stated: Option<Note>) -> Self {
        match refusal {
            Refusal::NotPost => Self::Refused(Reason::Method),
            Refusal::NotOurs => Self::Refused(Reason::Unknown),
            Refusal::AudienceMissing => Self::Refused(Reason::AudienceMissing),
            Refusal::AudienceUnreadable(_) => Self::Refused(Reason::AudienceUnreadable),
            Refusal::AudienceMismatch => Self::Relay { stated },
            Refusal::Expired => Self::Refused(Reason::Expired),
            Refusal::FromTheFuture => Self::Refused(Reason::FromTheFuture),
            Refusal::Fenced => Self::Refused(Reason::Fenced),
            Refusal::Revoked => Self::Refused(Reason::Revoked),
            Refusal::Replay(first) => Self::Replay(Some(first.into())),
        }
    }

    /// What an operator asks for to see it.
    pub fn filter(&self) -> KindFilter {
        match self {
            Self::Issued => KindFilter::Issued,
            Self::Consumed => KindFilter::Consumed,
            Self::Refused(_) => KindFilter::Refused,
            Self::Revoked => KindFilter::Revoked,
            Self::Replay(_) => KindFilter::Replay,
            Self::Relay { .. } => KindFilter::Relay,
            Self::KeyRotated { .. } => KindFilter::KeyRotated,
            Self::KeyRevoked { .. } => KindFilter::KeyRevoked,
            Self::FenceMoved { .. } => KindFilter::FenceMoved,
            Self::CredentialRejected => KindFilter::CredentialRejected,
        }
    }

    /// Why, if it is a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(reason) => Some(*reason),
            _ => None,
        }
    }

    /// It in a word. Stable.
    pub fn label(&self) -> &'static str {
        self.filter().label()
    }
}

impl KindFilter {
    /// Whether such events are read from the record of how tokens' lives ended, and not written a second time.
    pub fn is_an_ending(self) -> bool {
        matches!(self, Self::Consumed | Self::Revoked)
    }
}

/// What an event is called: a `UUIDv7`, made as a token's id is. Not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(TokenId);

impl EventId {
    /// A new one, for an event that happens at `now`.
    pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        TokenId::generate(now, entropy).map(Self)
    }

    /// The 16 bytes, which sort by time.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id that these bytes are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(TokenId::from_bytes(bytes))
    }

    /// The millisecond in it: when the event happened, unless it is the end of a token's life.
    pub fn made(&self) -> Timestamp {
        self.0.created()
    }
}

/// The end of a token's life goes by the token's id: there is only one.
impl From<TokenId> for EventId {
    fn from(token: TokenId) -> Self {
        Self(token)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a request is called in its answer, in logs and in events: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A little text that a stranger sent: at most [`MAX_NOTE_CHARS`] characters, in one line, and without any word that
/// could be a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// Cleans a text; `None` if nothing is left.
    pub fn clean(bytes: &[u8]) -> Option<Self> {
        // A character has at most four bytes, and what is left out may be long.
        let bytes = bytes.trim_ascii();
        let read = bytes.get(..16 * MAX_NOTE_CHARS).unwrap_or(bytes);
        let mut text = String::new();
        let mut word = 0;
        for character in String::from_utf8_lossy(read).chars() {
            word = if character.is_ascii_alphanumeric() { word + 1 } else { 0 };
            if word == MAX_WORD_CHARS + 1 {
                // The letters that came before are a part of the word.
                text.truncate(text.len() - MAX_WORD_CHARS);
                text.push('…');
            }
            if word <= MAX_WORD_CHARS {
                text.push(if is_unseen(character) { '\u{fffd}' } else { character });
            }
        }
        let text: String = text.chars().take(MAX_NOTE_CHARS).collect();
        (!text.is_empty()).then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a terminal or a page would do something else with it than show it: control characters, and those that turn
/// the direction of writing or are not seen at all.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Keeps events.
///
/// Nothing depends on it: a handshake is answered whether or not this store can be reached. What is appended is durable
/// within seconds, not at once.
#[async_trait]
pub trait EventStore: Send + Sync + fmt::Debug {
    /// Keeps these events. One that is kept already, by its id, is left as it is.
    async fn append(&self, events: &[Event]) -> Result<(), StoreError>;

    /// The events that a query asks for, newest first.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError>;

    /// Forgets the events that happened before `cutoff`; and of each kind (of refusals, of each reason) all but the
    /// newest [`kept_of`]. Returns how many that were.
    async fn purge_events(&self, cutoff: Timestamp) -> Result<u64, StoreError>;

    /// What [`remember`](Self::remember) wrote last; `None`: nothing yet.
    ///
    /// What follows here is for stores that end with their server: they have nothing to tell the next one.
    async fn known(&self) -> Result<Option<Known>, StoreError> {
        Ok(None)
    }

    /// Keeps what the server knows, for the next one.
    async fn remember(&self, known: &Known) -> Result<(), StoreError> {
        let _ = known;
        Ok(())
    }

    /// What [`keep_activity`](Self::keep_activity) has kept: texts by name.
    async fn activity(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(Vec::new())
    }

    /// Keeps texts about what happened lately for the next server, each in the place of the one with the same name; `None` removes
    /// it. The caller sees to it that there are not too many.
    async fn keep_activity(&self, changed: &BTreeMap<String, Option<String>>) -> Result<(), StoreError> {
        let _ = changed;
        Ok(())
    }

    /// Waits for what is under way and closes. Later calls fail with [`StoreError::Unavailable`].
    async fn close_events(&self);
}

/// What a server knew last of the fence and of the keys. Its successor compares, and so tells of what was changed while no
/// server looked.
///
/// It is kept as text: a later version may add members, and an earlier one passes over those it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where the fence stood.
    pub fence: Option<Timestamp>,
    /// The keys in use, oldest first.
    pub keys: Vec<KeyId>,
    /// The keys that were revoked.
    pub revoked: Vec<KeyId>,
}

impl Known {
    /// What is known of this ring, and of a fence.
    pub fn of(fence: Option<Timestamp>, ring: &KeyRing) -> Self {
        Self { fence, keys: ring.keys().iter().map(Key::id).collect(), revoked: ring.revoked().to_vec() }
    }

    /// As text, for a store.
    pub fn to_text(&self) -> String {
        // Moments and names: nothing that JSON could not say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_text`](Self::to_text) wrote; `None` if it is not that.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// How many events of a kind are kept at most. Strangers can cause the rejected ones, so that the sum is what bounds the
/// disk; and a flood of one kind never drives out the events of another.
pub fn kept_of(kind: KindFilter) -> u64 {
    match kind {
        KindFilter::Issued => MAX_KEPT_ISSUED,
        KindFilter::Consumed
        | KindFilter::Refused
        | KindFilter::Revoked
        | KindFilter::Replay
        | KindFilter::Relay
        | KindFilter::KeyRotated
        | KindFilter::KeyRevoked
        | KindFilter::FenceMoved
        | KindFilter::CredentialRejected => MAX_KEPT,
    }
}

/// How many events of a kind, or refusals of a reason, are kept at most.
pub const MAX_KEPT: u64 = 50_000;

/// How many issued tokens are kept at most, where a setting asks for them.
pub const MAX_KEPT_ISSUED: u64 = 1_000_000;

/// Which events to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Of these kinds; empty for all.
    pub kinds: Vec<KindFilter>,
    /// Not older than this.
    pub since: Timestamp,
    /// Older than this.
    pub until: Timestamp,
    /// Only what goes by this name.
    pub name: Option<EventName>,
    /// Only what this address asked for.
    pub peer: Option<IpAddr>,
    /// Only what has this text, in ASCII without regard to case, in a tracker's URL, a user agent, or the name of a
    /// caller or a key.
    pub text: Option<String>,
    /// Only what was done with tokens that are bound to this tracker.
    pub tracker: Option<NameFilter>,
    /// Only what has this caller.
    pub caller: Option<NameFilter>,
    /// Only what comes after this one in the list, which begins with the newest.
    pub after: Option<EventCursor>,
    /// So many at most.
    pub limit: usize,
}

impl EventQuery {
    /// The newest so many, of all kinds.
    pub fn newest(limit: usize) -> Self {
        Self {
            kinds: Vec::new(),
            since: Timestamp::MIN,
            until: Timestamp::MAX,
            name: None,
            peer: None,
            text: None,
            tracker: None,
            caller: None,
            after: None,
            limit,
        }
    }

    /// Whether it asks for this kind.
    pub fn wants(&self, kind: KindFilter) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether it asks for this event.
    pub fn covers(&self, event: &Event) -> bool {
        let cursor = EventCursor { at: event.at, id: event.id };
        self.wants(event.kind.filter())
            && event.at >= self.since
            && event.at < self.until
            && self.name.is_none_or(|name| name.is_of(event))
            && self.peer.is_none_or(|peer| event.peer == Some(peer))
            && self.text.as_ref().is_none_or(|text| event.contains(text))
            && self.tracker.as_ref().is_none_or(|tracker| tracker.is(event.audience.as_deref(), event))
            && self
                .caller
                .as_ref()
                .is_none_or(|caller| caller.is(event.caller.as_ref().map(CallerName::as_str), event))
            && self.after.is_none_or(|after| cursor < after)
    }
}

/// Which tracker, or which caller, an event is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameFilter {
    /// This one: a tracker's base URL in normal form, or a caller's name.
    Named(String),
    /// None, with a token: one that is not bound, or that the caller without a name got.
    Nameless,
}

impl NameFilter {
    fn is(&self, name: Option<&str>, event: &Event) -> bool {
        match self {
            Self::Named(wanted) => name == Some(wanted),
            Self::Nameless => name.is_none() && event.token.is_some(),
        }
    }
}

/// What an event can be looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventName {
    /// The event's own id, or that of its token.
    Id(EventId),
    /// The request that it happened in.
    Request(RequestId),
}

impl EventName {
    /// Reads a UUID, or the 16 hexadecimal digits of a request.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return u64::from_str_radix(text, 16).ok().map(|id| Self::Request(RequestId(id)));
        }
        let id = text.parse::<uuid::Uuid>().ok()?;
        Some(Self::Id(EventId::from_bytes(id.into_bytes())))
    }

    fn is_of(self, event: &Event) -> bool {
        match self {
            Self::Id(id) => event.id == id || event.token.map(EventId::from) == Some(id),
            Self::Request(request) => event.request == Some(request),
        }
    }
}

/// A place in the list of events. The later is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// When the event happened.
    pub at: Timestamp,
    /// Which one of that moment.
    pub id: EventId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_bounded_and_in_one_line() {
        let note = |bytes: &[u8]| Note::clean(bytes).map(|note| note.as_str().to_owned());
        assert_eq!(note(b"curl/8.5"), Some("curl/8.5".to_owned()));
        assert_eq!(note(b""), None);
        assert_eq!(note(b" \t "), None);
        assert_eq!(note(b"a\x1b[31mb\r\nc\x00"), Some("a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}".to_owned()));
        assert_eq!(note("a\u{202e}b".as_bytes()), Some("a\u{fffd}b".to_owned()));
        assert_eq!(note(b"\xff"), Some("\u{fffd}".to_owned()));
        let long = note("é x".repeat(100_000).as_bytes()).unwrap();
        assert_eq!(long.chars().count(), MAX_NOTE_CHARS);
    }

    #[test]
    fn no_word_that_could_be_a_token_is_noted() {
        let note = |text: &str| Note::clean(text.as_bytes()).unwrap().as_str().to_owned();
        let token = format!("cs1{}", "abc234".repeat(30));
        assert_eq!(note(&format!("x/1 ({token}) y")), "x/1 (…) y");
        assert_eq!(note(&token), "…");
        assert_eq!(note(&format!("https://a.example/{token}/{token}")), "https://a.example/…/…");
        let word = "x".repeat(MAX_WORD_CHARS);
        assert_eq!(note(&word), word);
        assert_eq!(note(&format!("{word}x")), "…");
    }

    #[test]
    fn names_are_ids_and_requests() {
        let id = TokenId::generate(Timestamp::UNIX_EPOCH, &crate::SequenceEntropy::default()).unwrap();
        assert_eq!(EventName::read(&id.to_string()), Some(EventName::Id(id.into())));
        assert_eq!(EventName::read("00000000000000ff"), Some(EventName::Request(RequestId(255))));
        for text in ["", "ff", "+00000000000000f", "cs1abcdef", "00000000000000fg"] {
            assert_eq!(EventName::read(text), None, "{text}");
        }
    }

    #[test]
    fn every_label_means_one_kind_and_refusals_are_called_as_everywhere() {
        for kind in KindFilter::ALL {
            assert_eq!(KindFilter::of_label(kind.label()), Some(*kind));
        }
        assert_eq!(KindFilter::of_label("other"), None);
        for refusal in [
            Refusal::NotPost,
            Refusal::NotOurs,
            Refusal::AudienceMissing,
            Refusal::AudienceUnreadable(crate::handshake::UnreadableAudience::Twice),
            Refusal::Expired,
            Refusal::FromTheFuture,
            Refusal::Fenced,
            Refusal::Revoked,
        ] {
            let reason = EventKind::of(&refusal, None).reason().unwrap();
            assert_eq!(reason.label(), refusal.label());
            assert_eq!(Reason::of_label(refusal.label()), Some(reason));
        }
        assert_eq!(EventKind::of(&Refusal::AudienceMismatch, None).label(), "relay");
        let first = Consumption { at: Timestamp::UNIX_EPOCH, by: None, retry_key: None };
        assert_eq!(EventKind::of(&Refusal::Replay(first), None).label(), "replay");
    }
}
