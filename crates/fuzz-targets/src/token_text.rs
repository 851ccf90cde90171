//! The text of a token.
//!
//! Each input is used twice: as a token's text, and as the plan of a token to seal and of changes to its text.
//!
//! ```text
//! plan = time of issue in milliseconds (6)  lifetime in seconds (4)  number of changes (1)  changes (4 each)
//!        audience  "\n"  claims in JSON
//! change = kind (1)  place (2)  byte (1)
//! ```

use std::sync::Arc;
use std::time::Duration;

use countersign_core::seal::{MAX_TEXT_CHARS, PREFIX, UnsealError, seal, unseal};
use countersign_core::{
    Audience, Claims, Clock, IssueError, Issued, KeyRing, LoginToken, LoginTokenSet, MAX_LIFETIME,
    ManualClock, NewToken, Policy, SequenceEntropy, from_millis,
};
use countersign_store::memory::MemoryStore;

use crate::cursor::Cursor;
use crate::ring;

/// The most changes that a plan makes.
const MAX_CHANGES: u8 = 4;

/// Opens a token; what is fuzzed is [`unseal`].
pub type Unseal = fn(&str, &KeyRing) -> Result<LoginToken, UnsealError>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, unseal);
}

/// A text that is accepted is one that we sealed; what we sealed is accepted, and no change of it is.
pub fn check(input: &[u8], unseal: Unseal) {
    if let Ok(text) = std::str::from_utf8(input) {
        check_shown(text, unseal);
    }
    if let Some(plan) = Plan::read(input) {
        check_sealed(&plan, unseal);
    }
}

fn check_shown(text: &str, unseal: Unseal) {
    let ring = ring();
    let Ok(token) = unseal(text, &ring) else { return };
    assert!(text.len() <= MAX_TEXT_CHARS, "a text of {} bytes is accepted", text.len());
    let ours = ring.keys().iter().any(|key| seal(&token, key).is_ok_and(|sealed| sealed.expose() == text));
    assert!(ours, "a text is accepted that sealing does not give: {text}");
}

/// A token to make, and how its text is then changed.
struct Plan {
    millis: i64,
    lifetime: Duration,
    changes: Vec<[u8; 4]>,
    audience: Option<Audience>,
    claims: Claims,
}

impl Plan {
    fn read(input: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(input);
        let millis = cursor.take::<6>()?.iter().fold(0, |millis, byte| (millis << 8) | i64::from(*byte));
        // Somewhat beyond what is allowed.
        let lifetime = u64::from(u32::from_be_bytes(cursor.take()?)) % (MAX_LIFETIME.as_secs() + 1000);
        let [count] = cursor.take()?;
        let changes = (0..count % (MAX_CHANGES + 1)).map_while(|_| cursor.take()).collect();
        let rest = String::from_utf8_lossy(cursor.0);
        let (audience, claims) = rest.split_once('\n').unwrap_or((&rest, ""));
        Some(Self {
            millis,
            lifetime: Duration::from_secs(lifetime),
            changes,
            audience: Audience::parse(audience).ok(),
            claims: serde_json::from_str(claims)
                .ok()
                .and_then(|members| Claims::new(members).ok())
                .unwrap_or_default(),
        })
    }

    fn issue(&self) -> Option<Issued> {
        let clock = Arc::new(ManualClock::at(from_millis(self.millis)));
        let store = Arc::new(MemoryStore::new(&*clock));
        let entropy = Arc::new(SequenceEntropy::default());
        let set = LoginTokenSet::new(ring(), store, clock.clone(), entropy, Policy::default());
        let wanted = NewToken {
            audience: self.audience.clone(),
            lifetime: Some(self.lifetime),
            claims: self.claims.clone(),
            // Half of the tokens have a caller with a name.
            issued_by: (self.millis % 2 == 1).then(|| "worker-eu".parse().expect("a name")),
        };
        let is_named = wanted.issued_by.is_some();
        match set.issue(wanted) {
            Ok(issued) => {
                assert_eq!(issued.token.created(), clock.now(), "the id says when it was made");
                Some(issued)
            }
            Err(error) => {
                let in_range = self.lifetime >= Duration::from_secs(1) && self.lifetime <= MAX_LIFETIME;
                let is_too_long = is_named && matches!(error, IssueError::Seal(_));
                assert!(
                    is_too_long || error == IssueError::Lifetime && !in_range,
                    "a sound token is not issued: {error}"
                );
                None
            }
        }
    }

    fn changed(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for [kind, high, low, byte] in &self.changes {
            let at = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
            match kind % 4 {
                0 => bytes.insert(at, *byte),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|there| *there = *byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn check_sealed(plan: &Plan, unseal: Unseal) {
    let Some(Issued { token, text }) = plan.issue() else { return };
    let text = text.expose();
    assert!(text.starts_with(PREFIX) && text.len() <= MAX_TEXT_CHARS, "{} bytes: {text}", text.len());
    assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{text}");
    assert_eq!(unseal(text, &ring()), Ok(token), "what was sealed is not what is read");
    let changed = plan.changed(text);
    if changed != text {
        assert_eq!(unseal(&changed, &ring()), Err(UnsealError), "a changed text is accepted: {changed}");
    }
}
