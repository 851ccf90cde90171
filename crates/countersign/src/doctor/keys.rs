//! The key ring, and the other servers' rings.

use countersign_core::{Key, MAX_KEYS, Node, SeenNode};
use jiff::SignedDuration;

use super::context::Context;
use super::finding::Finding;

/// A sealing key that is older than this should be replaced.
const OLD: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The ring itself: whether it can be used, its keys' number and age, and whether it is the one that the store knows.
pub(super) fn ring(context: &Context) -> Vec<Finding> {
    let ring = match &context.ring {
        None => return Vec::new(),
        // The server itself says of its key ring whether it can still be used.
        Some(Err(unusable)) if unusable.is_unseen && context.report().is_some() => {
            return vec![Finding::note(unusable.reason.clone(), unusable.remedy.clone())];
        }
        Some(Err(unusable)) => return vec![Finding::error(unusable.reason.clone(), unusable.remedy.clone())],
        Some(Ok(ring)) => ring,
    };
    let mut findings = Vec::new();
    if let Some(sealing) = ring.sealing_key(context.now) {
        let age = context.now.duration_since(sealing.active_from());
        if age < SignedDuration::ZERO {
            findings.push(Finding::warning(
                format!("no key may seal before {}, by this machine's clock", sealing.active_from()),
                "look at the clock; the server seals with the oldest key meanwhile",
            ));
        } else if age > OLD {
            findings.push(Finding::note(
                format!("key {} has been sealing since {}", sealing.id(), sealing.active_from()),
                "replace it with `countersign keys rotate`; nothing is interrupted",
            ));
        }
    }
    if ring.keys().len() > MAX_KEYS / 2 {
        findings.push(Finding::warning(
            format!("there are {} keys in the ring, of {MAX_KEYS} at most", ring.keys().len()),
            "rotate less often; keys leave the ring with a rotation a day after they were replaced",
        ));
    }
    if let Some(stored) = context.stored().filter(|stored| stored.database.is_none()) {
        for (key, by) in stored.node_list.lacking(ring) {
            findings.push(Finding::warning(
                format!("the ring lacks key {key}, with which {} sealed until {}", by.node.label(), by.at),
                "if this is another server's ring, put the right one back; tokens of that key are refused",
            ));
        }
    }
    if findings.is_empty() {
        let sealing = ring.sealing_key(context.now).map(Key::id);
        let seals = sealing.map_or_else(String::new, |key| format!(", and key {key} may seal"));
        findings.push(Finding::ok(format!("{} in the ring{seals}", count(ring.keys().len(), "key"))));
    }
    findings
}

/// The servers on the same store: whether their rings, versions and schemas are the same.
pub(super) fn nodes(context: &Context) -> Vec<Finding> {
    let Some(stored) = context.stored() else { return Vec::new() };
    let live: Vec<_> = stored.node_list.nodes.iter().filter(|seen| seen.live).collect();
    compare(&live)
}

fn compare(live: &[&SeenNode]) -> Vec<Finding> {
    let Some(first) = live.first() else { return Vec::new() };
    let mut findings = Vec::new();
    for seen in live.iter().skip(1) {
        let (node, other) = (&seen.node, &first.node);
        let differs = |what: &str, here: String, there: String, remedy: &str| {
            Finding::warning(
                format!("{} has {what} {there}, and {} has {here}", node.label(), other.label()),
                remedy.to_owned(),
            )
        };
        let names = |node: &Node| {
            let mut names: Vec<String> = node.keys.iter().map(|key| key.id.to_string()).collect();
            names.sort_unstable();
            names.join(" ")
        };
        if names(node) != names(other) {
            findings.push(differs(
                "the keys",
                names(other),
                names(node),
                "if it stays so for longer than ten seconds, see the log of the server that has the older ones; nothing is \
                 accepted there that the store's key ring does not open",
            ));
        }
        if node.unlocks.last() != other.unlocks.last() {
            let newest =
                |node: &Node| node.unlocks.last().map_or_else(|| "none".to_owned(), ToString::to_string);
            findings.push(differs(
                "as the newest key of its key file",
                newest(other),
                newest(node),
                "make the key files alike: one that has each [[key]] of both, on every server",
            ));
        }
        if node.version != other.version {
            findings.push(differs(
                "version",
                other.version.clone(),
                node.version.clone(),
                "install the same version everywhere; two of them are for the time of an upgrade only",
            ));
        }
        if seen.schema != first.schema {
            findings.push(differs(
                "schema",
                first.schema.to_string(),
                seen.schema.to_string(),
                "install the same version everywhere",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{} on this store, all alike", count(live.len(), "server"))));
    }
    findings
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use countersign_core::{HeldKey, KeyRing, NodeId, OsEntropy};

    use super::super::finding::Level;
    use super::*;

    fn node(host: &str, ring: &KeyRing) -> SeenNode {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let held = |key: &Key| HeldKey { id: key.id(), active_from: key.active_from() };
        let node = Node {
            id: NodeId::generate(&OsEntropy).unwrap(),
            host: host.to_owned(),
            private_url: "http://127.0.0.1:8087".to_owned(),
            version: "0.1.0".to_owned(),
            serving: true,
            clock: now,
            keys: ring.keys().iter().map(held).collect(),
            sealing: None,
            unlocks: ring.keys().iter().map(Key::id).collect(),
            fence: None,
        };
        SeenNode { node, at: now, live: true, schema: 1 }
    }

    #[test]
    fn differing_servers_are_reported() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let ring = KeyRing::generate(now, &OsEntropy).unwrap();
        let (alpha, mut beta) = (node("alpha", &ring), node("beta", &ring));
        let alike = compare(&[&alpha, &beta]);
        assert_eq!((alike.len(), alike[0].level), (1, Level::Ok), "{alike:?}");
        beta.node.version = "0.2.0".to_owned();
        beta.schema = 2;
        let other = node("beta", &KeyRing::generate(now, &OsEntropy).unwrap()).node;
        (beta.node.keys, beta.node.unlocks) = (other.keys, other.unlocks);
        let told: Vec<String> = compare(&[&alpha, &beta])
            .into_iter()
            .map(|finding| {
                assert_eq!(finding.level, Level::Warning);
                finding.sentence
            })
            .collect();
        for part in
            ["has the keys", "has as the newest key of its key file", "has version 0.2.0", "has schema 2"]
        {
            assert!(told.iter().any(|sentence| sentence.contains(part)), "{part}: {told:?}");
        }
        assert_eq!(compare(&[]), []);
    }
}
