//! The queue of alarms, and which of them is next.
//!
//! Strangers can cause many alarms, but cannot delay the urgent ones. Equal alarms are one, with a count. Urgent kinds
//! come first; among equally urgent ones, the kind that was told longest ago. Nothing is dropped: too many alarms of one
//! kind become one that tells how many.

use std::net::IpAddr;

use countersign_core::{Denial, Event, EventKind, KindFilter, TokenId};
use tokio::time::Instant;

use crate::traces::CurrentSpan;

/// How many alarms of one kind wait separately; further ones are merged into one, with their number.
pub const ALARM_QUEUE: usize = 64;

/// How many are delivered at a time.
pub const ALARM_DELIVERIES: usize = 4;

/// An alarm to deliver.
#[derive(Debug)]
pub(super) struct Alarm {
    /// The first of the events that it stands for; its count is that of all.
    pub(super) event: Event,
    /// The span of the request that raised it.
    pub(super) raised: Option<CurrentSpan>,
    /// How often it was tried. From the first attempt on, what it says stays as it is.
    pub(super) attempts: u32,
    /// When it may be tried.
    pub(super) due: Instant,
    key: Key,
    urgency: Urgency,
}

/// What makes two alarms equal: the kind of event, and the token; without a token, the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    kind: KindFilter,
    token: Option<TokenId>,
    peer: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Another party acts in the worker's name.
    High,
    Normal,
}

/// The urgency of an event's alarm; `None` if it raises none.
fn urgency(event: &Event) -> Option<Urgency> {
    match event.kind.filter() {
        KindFilter::Relay => Some(Urgency::High),
        KindFilter::Replay | KindFilter::FenceMoved => Some(Urgency::Normal),
        // One is a typing mistake.
        KindFilter::CredentialRejected if event.count > 1 => Some(Urgency::Normal),
        KindFilter::CallerDenied if event.count > 1 && is_overreach(&event.kind) => Some(Urgency::Normal),
        KindFilter::CredentialRejected
        | KindFilter::CallerDenied
        | KindFilter::Issued
        | KindFilter::Consumed
        | KindFilter::Refused
        | KindFilter::Revoked
        | KindFilter::KeyRotated
        | KindFilter::KeyRevoked => None,
    }
}

/// Whether a caller asked for what it has no right to at all. Too many tokens, or too long ones, are a mistake.
pub(super) fn is_overreach(kind: &EventKind) -> bool {
    matches!(kind, EventKind::CallerDenied(Denial::Scope | Denial::Audience))
}

/// The alarms that wait.
#[derive(Debug, Default)]
pub(super) struct AlarmQueue {
    /// Oldest first.
    alarms: Vec<Alarm>,
    under_way: Vec<(Key, Urgency)>,
    /// The kinds that were told, the latest last.
    told: Vec<KindFilter>,
}

impl AlarmQueue {
    /// Takes an event in, if it is one to be alarmed about. Returns whether it is.
    pub(super) fn raise(&mut self, event: &Event, raised: Option<CurrentSpan>, now: Instant) -> bool {
        let Some(urgency) = urgency(event) else { return false };
        let kind = event.kind.filter();
        let one = Key { kind, token: event.token, peer: event.peer.filter(|_| event.token.is_none()) };
        if self.join(one, event.count) {
            return true;
        }
        let of_its_kind = self.alarms.iter().filter(|alarm| alarm.key.kind == kind).count();
        if of_its_kind < ALARM_QUEUE {
            let event = event.clone();
            self.alarms.push(Alarm { event, raised, attempts: 0, due: now, key: one, urgency });
            return true;
        }
        let all = Key { kind, token: None, peer: None };
        if !self.join(all, event.count) {
            let event = sum(event);
            self.alarms.push(Alarm { event, raised: None, attempts: 0, due: now, key: all, urgency });
        }
        true
    }

    /// Counts an event to the alarm that waits for the same reason.
    fn join(&mut self, key: Key, count: u64) -> bool {
        // A receiver knows an alarm by its id, and may have got what was tried. So that one stays as it was sent.
        let same = self.alarms.iter_mut().find(|alarm| alarm.key == key && alarm.attempts == 0);
        if let Some(alarm) = same {
            alarm.event.count = alarm.event.count.saturating_add(count);
            return true;
        }
        false
    }

    /// Takes the next one out, if one may be tried now. It is under way until it is [`done`](Self::done) or
    /// [put back](Self::put_back).
    pub(super) fn take(&mut self, now: Instant) -> Option<Alarm> {
        let next = self.candidates(|due| due <= now).min_by_key(|(index, alarm)| {
            let lately = self.told.iter().position(|kind| *kind == alarm.key.kind);
            (alarm.urgency, lately.map_or(0, |at| at + 1), *index)
        });
        let (index, _) = next?;
        let alarm = self.alarms.remove(index);
        self.told.retain(|kind| *kind != alarm.key.kind);
        self.told.push(alarm.key.kind);
        self.under_way.push((alarm.key, alarm.urgency));
        Some(alarm)
    }

    /// When the next one may be tried that cannot be tried now.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.candidates(|_| true).map(|(_, alarm)| alarm.due).min()
    }

    /// What there is room for, and is not for the same reason as one before it that is still to be delivered.
    fn candidates(&self, is_due: impl Fn(Instant) -> bool) -> impl Iterator<Item = (usize, &Alarm)> {
        let normal = self.under_way.iter().filter(|(_, urgency)| *urgency == Urgency::Normal).count();
        let is_full = self.under_way.len() >= ALARM_DELIVERIES;
        // One place is always free for what is urgent.
        let is_full_for_most = normal + 1 >= ALARM_DELIVERIES;
        self.alarms.iter().enumerate().filter(move |(index, alarm)| {
            !is_full
                && (alarm.urgency == Urgency::High || !is_full_for_most)
                && is_due(alarm.due)
                && !self.under_way.iter().any(|(key, _)| *key == alarm.key)
                && !self.alarms.iter().take(*index).any(|before| before.key == alarm.key)
        })
    }

    /// It was delivered, or given up.
    pub(super) fn done(&mut self, alarm: &Alarm) {
        let place = self.under_way.iter().position(|(key, _)| *key == alarm.key);
        if let Some(place) = place {
            self.under_way.swap_remove(place);
        }
    }

    /// Delivery failed and will be retried.
    pub(super) fn put_back(&mut self, alarm: Alarm) {
        self.done(&alarm);
        // Before those of the same reason that came meanwhile.
        self.alarms.insert(0, alarm);
    }

    /// The number still to deliver, including those under way.
    pub(super) fn len(&self) -> usize {
        self.alarms.len() + self.under_way.len()
    }
}

/// An event that stands for many of its kind.
fn sum(event: &Event) -> Event {
    let kind = match &event.kind {
        EventKind::Replay(_) => EventKind::Replay(None),
        EventKind::Relay { .. } => EventKind::Relay { stated: None },
        other => other.clone(),
    };
    Event { count: event.count, ..Event::new(event.id, event.at, kind) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::{EventId, OsEntropy, from_millis};

    use super::*;

    fn event(kind: EventKind, token: Option<u8>) -> Event {
        let at = from_millis(1_767_225_600_000);
        Event {
            id: EventId::generate(at, &OsEntropy).unwrap(),
            at,
            kind,
            token: token.map(|byte| TokenId::from_bytes([byte; 16])),
            audience: None,
            peer: Some([192, 0, 2, 1].into()),
            user_agent: None,
            request: None,
            caller: None,
            count: 1,
        }
    }

    fn replay(token: u8) -> Event {
        event(EventKind::Replay(None), Some(token))
    }

    fn relay(token: u8) -> Event {
        event(EventKind::Relay { stated: None }, Some(token))
    }

    fn guesses() -> Event {
        Event { count: 10, ..event(EventKind::CredentialRejected, None) }
    }

    fn told(alarm: &Alarm) -> (KindFilter, Option<u8>, u64) {
        let token = alarm.event.token.map(|id| id.as_bytes()[0]);
        (alarm.event.kind.filter(), token, alarm.event.count)
    }

    #[tokio::test]
    async fn equal_alarms_are_merged() {
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        assert!(waiting.raise(&replay(1), None, now));
        let first = waiting.take(now).unwrap();
        for _ in 0..119 {
            waiting.raise(&replay(1), None, now);
        }
        assert_eq!(waiting.len(), 2);
        assert!(waiting.take(now).is_none(), "one for the same reason is under way");
        waiting.done(&first);
        assert_eq!(told(&waiting.take(now).unwrap()), (KindFilter::Replay, Some(1), 119));
    }

    #[tokio::test]
    async fn relay_alarm_is_sent_first() {
        use KindFilter::{CredentialRejected, Relay, Replay};
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        for token in 1..9 {
            waiting.raise(&replay(token), None, now);
        }
        let mut order = Vec::new();
        for later in [None, Some(guesses()), Some(relay(1)), None, Some(relay(1)), Some(guesses())] {
            if let Some(event) = later {
                waiting.raise(&event, None, now);
            }
            let alarm = waiting.take(now).unwrap();
            waiting.done(&alarm);
            order.push(told(&alarm).0);
        }
        assert_eq!(order, [Replay, CredentialRejected, Relay, Replay, Relay, CredentialRejected]);
    }

    #[tokio::test]
    async fn queue_reserves_room_for_relays() {
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        for token in 1..9 {
            waiting.raise(&replay(token), None, now);
        }
        let taken: Vec<_> = std::iter::from_fn(|| waiting.take(now)).collect();
        assert_eq!(taken.len(), ALARM_DELIVERIES - 1);
        waiting.raise(&relay(1), None, now);
        assert_eq!(told(&waiting.take(now).unwrap()).0, KindFilter::Relay);
        waiting.raise(&relay(2), None, now);
        assert!(waiting.take(now).is_none() && waiting.next_due().is_none(), "every place is taken");
    }

    #[tokio::test]
    async fn many_events_displace_none_of_another_kind() {
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        waiting.raise(&relay(1), None, now);
        let many = u64::try_from(ALARM_QUEUE).unwrap() + 100;
        for token in 0..many {
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&token.to_be_bytes());
            waiting.raise(&Event { token: Some(TokenId::from_bytes(bytes)), ..replay(0) }, None, now);
        }
        waiting.raise(&relay(2), None, now);
        assert_eq!(waiting.len(), ALARM_QUEUE + 3);
        let mut counted = 0;
        let mut relays = Vec::new();
        while let Some(alarm) = waiting.take(now) {
            match told(&alarm) {
                (KindFilter::Replay, token, count) => {
                    assert_eq!(token.is_none(), count > 1, "the last one stands for the others");
                    counted += count;
                }
                (_, token, _) => relays.push(token),
            }
            waiting.done(&alarm);
        }
        assert_eq!((counted, relays), (many, vec![Some(1), Some(2)]));
    }

    #[tokio::test]
    async fn retried_alarm_is_identical() {
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        waiting.raise(&replay(1), None, now);
        let mut first = waiting.take(now).unwrap();
        let later = now + Duration::from_secs(1);
        (first.attempts, first.due) = (1, later);
        let id = first.event.id;
        waiting.put_back(first);
        waiting.raise(&replay(1), None, now);
        waiting.raise(&replay(1), None, now);
        assert!(waiting.take(now).is_none(), "neither it nor those behind it");
        assert_eq!(waiting.next_due(), Some(later));
        let first = waiting.take(later).unwrap();
        assert_eq!((first.event.id, first.event.count), (id, 1));
        waiting.done(&first);
        assert_eq!(told(&waiting.take(later).unwrap()), (KindFilter::Replay, Some(1), 2));
        assert_eq!(waiting.len(), 1);
    }

    #[tokio::test]
    async fn harmless_event_raises_no_alarm() {
        let (mut waiting, now) = (AlarmQueue::default(), Instant::now());
        for kind in [EventKind::Issued, EventKind::Consumed, EventKind::CredentialRejected] {
            assert!(!waiting.raise(&event(kind, None), None, now));
        }
        assert_eq!(waiting.len(), 0);
    }
}
