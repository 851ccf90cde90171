//! The events that operators see.
//!
//! An event names a token by its id, never by its text. Text from strangers (a user agent, an audience) is shortened and
//! cleaned before it is kept.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;

use crate::handshake::Refusal;
use crate::{CallerName, Consumption, Entropy, EntropyError, KeyId, TokenId};

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
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// The `User-Agent` of the request.
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
    /// Something that happened once; nothing else is known of it.
    pub fn new(id: EventId, at: Timestamp, kind: EventKind) -> Self {
        Self {
            id,
            at,
            kind,
            token: None,
            audience: None,
            peer: None,
            user_agent: None,
            request: None,
            caller: None,
            count: 1,
        }
    }

    /// Whether this text is in what strangers sent along, in the tracker's URL, or in the name of a caller or a key.
    pub(crate) fn contains(&self, text: &str) -> bool {
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
    /// A token was shown by another tracker than the one it is bound to: a relay attempt.
    Relay {
        /// The tracker that was stated instead.
        stated: Option<Note>,
    },
    /// A new key was added, which seals now or later.
    KeyRotated {
        /// The newest key.
        key: KeyId,
    },
    /// A key was removed because it is no longer secret: tokens that it sealed are rejected.
    KeyRevoked {
        /// Which.
        key: KeyId,
    },
    /// Every token issued before this moment is rejected.
    FenceMoved {
        /// Where the fence stands now.
        fence: Timestamp,
    },
    /// A request to the private API had a wrong credential. The credential is not kept.
    CredentialRejected,
    /// A named caller asked the private API for something that the callers file does not permit.
    CallerDenied(Denial),
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
    /// Why a named caller does not get what it asks for.
    Denial {
        /// It lacks the scope.
        Scope => "scope",
        /// A token for a tracker that is not its, or an unbound one.
        Audience => "caller-audience",
        /// A token that lives longer than its tokens may.
        Lifetime => "caller-lifetime",
        /// Claims that it may not set.
        Claims => "claims",
        /// More tokens in a minute than it may have.
        Rate => "caller-rate",
    }
}

labelled! {
    /// The kinds of events, as an operator asks for them.
    KindFilter {
        /// [`EventKind::Issued`].
        Issued => "issued",
        /// [`EventKind::Consumed`].
        Consumed => "consumed",
        /// [`EventKind::Refused`], for any reason.
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
        /// [`EventKind::CallerDenied`], for any reason.
        CallerDenied => "caller-denied",
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
            Self::CallerDenied(_) => KindFilter::CallerDenied,
        }
    }

    /// Why, in a word, if it is a refusal or a denial. Stable.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused(reason) => Some(reason.label()),
            Self::CallerDenied(denial) => Some(denial.label()),
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

/// The id of an event: a `UUIDv7`, made like a token's id. Not a secret.
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

/// The id of a request in its answer, in logs and in events: 16 hexadecimal digits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_one_bounded_line() {
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
    fn token_like_words_are_left_out_of_notes() {
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
    fn event_labels_are_unique_and_match_refusals() {
        for kind in KindFilter::ALL {
            assert_eq!(KindFilter::of_label(kind.label()), Some(*kind));
        }
        assert_eq!(KindFilter::of_label("other"), None);
        for denial in Denial::ALL {
            assert_eq!(Denial::of_label(denial.label()), Some(*denial));
        }
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
            let EventKind::Refused(reason) = EventKind::of(&refusal, None) else { panic!("{refusal:?}") };
            assert_eq!(reason.label(), refusal.label());
            assert_eq!(Reason::of_label(refusal.label()), Some(reason));
        }
        assert_eq!(EventKind::of(&Refusal::AudienceMismatch, None).label(), "relay");
        let first = Consumption { at: Timestamp::UNIX_EPOCH, by: None, retry_key: None };
        assert_eq!(EventKind::of(&Refusal::Replay(first), None).label(), "replay");
    }

    #[test]
    fn long_word_hides_no_text_after_it() {
        let long = format!("{} end", "x".repeat(3_000));
        assert_eq!(Note::clean(long.as_bytes()).unwrap().as_str(), "… end");
    }

    fn event(kind: EventKind) -> Event {
        let at = Timestamp::UNIX_EPOCH;
        Event::new(EventId::generate(at, &crate::SequenceEntropy::default()).unwrap(), at, kind)
    }

    #[test]
    fn event_is_found_by_each_of_its_texts() {
        let key: KeyId = "00abcdef".parse().unwrap();
        let note = |text: &str| Note::clean(text.as_bytes());
        let plain = || event(EventKind::Issued);
        for (text, found) in [
            ("TRAC.example", Event { audience: Some("https://trac.example/".to_owned()), ..plain() }),
            ("curl", Event { user_agent: note("Curl/8"), ..plain() }),
            ("worker", Event { caller: Some("worker-eu".parse().unwrap()), ..plain() }),
            ("evil", event(EventKind::Relay { stated: note("https://evil.example/") })),
            ("0ABCDEF", event(EventKind::KeyRotated { key })),
            ("00abcdef", event(EventKind::KeyRevoked { key })),
        ] {
            assert!(found.contains(text), "{text}: {found:?}");
            assert!(!plain().contains(text) && !found.contains("nothing"), "{text}");
        }
        let relay = event(EventKind::Relay { stated: None });
        assert!(!relay.contains("evil"));
    }

    #[test]
    fn only_refusals_and_denials_have_a_reason() {
        assert_eq!(EventKind::Refused(Reason::Expired).reason(), Some("expired"));
        assert_eq!(EventKind::CallerDenied(Denial::Rate).reason(), Some("caller-rate"));
        assert_eq!(EventKind::Replay(None).reason(), None);
    }

    #[test]
    fn only_endings_are_read_from_the_tokens_records() {
        let endings: Vec<_> = KindFilter::ALL.iter().filter(|kind| kind.is_an_ending()).collect();
        assert_eq!(endings, [&KindFilter::Consumed, &KindFilter::Revoked]);
    }

    #[test]
    fn event_id_tells_when_the_event_happened() {
        let at: Timestamp = "2026-01-31T12:00:00.123Z".parse().unwrap();
        let id = EventId::generate(at, &crate::SequenceEntropy::default()).unwrap();
        assert_eq!(id.made(), at);
        assert_eq!(EventId::from_bytes(*id.as_bytes()), id);
        assert_eq!(id.to_string(), TokenId::from_bytes(*id.as_bytes()).to_string());
        assert_eq!(RequestId(255).to_string(), "00000000000000ff");
    }
}
