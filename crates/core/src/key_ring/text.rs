//! The text of a key ring: TOML, with every secret in it.

use data_encoding::BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{InvalidKeyId, Key, KeyId, KeyRing, KeyRingError, MAX_KEYS, SECRET_BYTES};

const HEADER: &str = "\
# The keys of a Countersign token server. Who can read this file can make tokens: keep it at mode 0600.
# `countersign keys rotate` adds a key. The last key here whose `active_from` has come seals; all of them open. If the store
# is PostgreSQL, the ring itself is kept there, and the keys of this file unlock it (docs/keys.md).
";

impl KeyRing {
    /// Reads a ring from the text that [`to_text`](Self::to_text) wrote.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let file: RingText = toml::from_str(text).map_err(|error| {
            // Only the message: the error's own display quotes the line, which may hold a secret.
            let line = error
                .span()
                .map_or(1, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
            KeyRingError::Format(format!("around line {line}: {}", without_secrets(error.message())))
        })?;
        if file.version != 1 {
            return Err(KeyRingError::Format(format!(
                "it is of version {}, and this program reads version 1; use the newer program that wrote it",
                file.version
            )));
        }
        let keys = file.key.into_iter().map(Key::try_from).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => return Err(KeyRingError::Empty),
            1..=MAX_KEYS => {}
            _ => return Err(KeyRingError::Full),
        }
        for (at, key) in keys.iter().enumerate() {
            if keys.iter().skip(at + 1).any(|other| other.id == key.id) {
                return Err(KeyRingError::Duplicate(key.id));
            }
        }
        let mut revoked = Vec::with_capacity(file.revoked.len());
        for id in file.revoked {
            revoked.push(id.parse().map_err(|error: InvalidKeyId| KeyRingError::Format(error.to_string()))?);
        }
        if let Some(key) = keys.iter().find(|key| revoked.contains(&key.id)) {
            return Err(KeyRingError::Revoked(key.id));
        }
        Ok(Self { keys, revoked, version: 0 })
    }

    /// The ring as text (TOML), secrets and all.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{HEADER}version = 1\n"));
        if !self.revoked.is_empty() {
            let names: Vec<String> = self.revoked.iter().map(|id| format!("\"{id}\"")).collect();
            for part in ["revoked = [", &names.join(", "), "]\n"] {
                text.push_str(part);
            }
        }
        for key in &self.keys {
            let secret = Zeroizing::new(BASE64.encode(key.secret.as_slice()));
            let (id, active_from) = (key.id, key.active_from);
            for part in [
                &format!(
                    "
[[key]]
id = \"{id}\"
active_from = \"{active_from}\"
"
                ),
                "secret = \"",
                secret.as_str(),
                "\"
",
            ] {
                text.push_str(part);
            }
        }
        text
    }
}

/// Leaves out of one of TOML's messages what it tells of the text: the value in quotes that is of the wrong type, and any
/// word as long as a good part of a secret, such as a field that is not known.
fn without_secrets(message: &str) -> String {
    const LONG: usize = 20;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let without_value = match (message.split_once('"'), message.rsplit_once('"')) {
        (Some((before, _)), Some((_, after))) => format!("{before}\"…\"{after}"),
        _ => message.to_owned(),
    };
    let mut kept = String::with_capacity(without_value.len());
    for piece in without_value.split_inclusive(|c| !is_base64(c)) {
        let (word, end) = piece.split_at(piece.trim_end_matches(|c| !is_base64(c)).len());
        kept.push_str(if word.len() < LONG { word } else { "…" });
        kept.push_str(end);
    }
    kept
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RingText {
    version: u32,
    #[serde(default)]
    revoked: Vec<String>,
    #[serde(default)]
    key: Vec<KeyText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: String,
    active_from: String,
    secret: Zeroizing<String>,
}

impl TryFrom<KeyText> for Key {
    type Error = KeyRingError;

    fn try_from(text: KeyText) -> Result<Self, Self::Error> {
        // An invalid id is not quoted: it may be a secret on the wrong line.
        let id: KeyId = text.id.parse().map_err(|_| {
            KeyRingError::Format("an `id` must be 8 hexadecimal digits in lower case".to_owned())
        })?;
        let wrong = |what: &str| KeyRingError::Format(format!("key {:?}: {what}", text.id));
        let active_from = text
            .active_from
            .parse()
            .map_err(|_| wrong("`active_from` must be a time such as 2026-01-31T12:00:00Z"))?;
        let decoded = Zeroizing::new(BASE64.decode(text.secret.as_bytes()).unwrap_or_default());
        let secret: [u8; SECRET_BYTES] =
            decoded.as_slice().try_into().map_err(|_| wrong("`secret` must be 64 bytes in Base64"))?;
        Ok(Self { id, active_from, secret: Zeroizing::new(secret) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{KeyChange, OsEntropy};

    #[test]
    fn text_round_trips() {
        let noon = "2026-01-31T12:00:00Z".parse().unwrap();
        let mut ring = KeyRing::generate(noon, &OsEntropy).unwrap();
        let rotate = KeyChange::Rotate { activate_in: Duration::from_mins(1) };
        ring.change(rotate, noon, &OsEntropy).unwrap();
        let again = KeyRing::parse(&ring.to_text()).unwrap();
        assert_eq!(again.keys().len(), 2);
        for (a, b) in ring.keys().iter().zip(again.keys()) {
            assert_eq!((a.id, a.active_from, a.secret()), (b.id, b.active_from, b.secret()));
        }
    }

    #[test]
    fn bad_rings_are_refused_without_quoting_a_key() {
        let secret = BASE64.encode(&[7; 64]);
        let key = format!(
            "[[key]]\nid = \"00000001\"\nactive_from = \"2026-01-31T12:00:00Z\"\nsecret = \"{secret}\"\n"
        );
        for (text, says) in [
            (String::new(), "version"),
            ("version = 1".to_owned(), "no key"),
            (format!("version = 2\n{key}"), "version 2"),
            (format!("version = 1\n{key}{key}"), "twice"),
            (format!("version = 1\ncolour = 3\n{key}"), "colour"),
            (format!("version = 1\n{}", key.replace("00000001", "xyz")), "8 hexadecimal"),
            (format!("version = 1\n{}", key.replace("2026-01-31", "yesterday")), "active_from"),
            (format!("version = 1\n{}", key.replace("secret = \"", "secret = \"AAAA")), "64 bytes"),
            (format!("version = 1\n{}", key.replace("secret = \"", "secret = ")), "line 5"),
            // A secret where none belongs.
            (format!("version = 1\n{}", key.replace("00000001", &secret)), "8 hexadecimal"),
            (format!("version = 1\n{}", key.replace("2026-01-31T12:00:00Z", &secret)), "active_from"),
            (format!("version = \"{secret}\"\n"), "line 1: invalid type: string \"…\", expected u32"),
            (format!("version = 1\nkey = \"{secret}\"\n"), "line 2: invalid type: string \"…\""),
            (
                format!("version = \"{}\"\n", secret.replace("cH", "cH ")),
                "line 1: invalid type: string \"…\", expected u32",
            ),
            (format!("version = 1\n[[key]]\n\"{secret}\" = 1\n"), "unknown field `…`"),
            (
                (0..=MAX_KEYS).fold("version = 1\n".to_owned(), |text, nth| {
                    text + &key.replace("00000001", &format!("{nth:08x}"))
                }),
                "more than 64 keys",
            ),
        ] {
            let error = KeyRing::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains(&secret[..16]), "{error}");
        }
    }
}
