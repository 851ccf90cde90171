//! The public keys of an issuer (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::crypto::algorithms;

/// How many keys an issuer can have. Most have two or three.
pub const MAX_JWKS_KEYS: usize = 64;

/// The keys of an issuer that can verify a token's signature. Others are left out: those for encryption, of unknown kinds, and
/// shared secrets, which stand in no public document but by mistake.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// With which algorithms it may be used.
    algorithms: Vec<Algorithm>,
    verifies: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWKS document. The error goes on from its name, and quotes nothing.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text)
            .map_err(|_| "is no JWKS document, a JSON object with `keys`".to_owned())?;
        if document.keys.len() > MAX_JWKS_KEYS {
            return Err(format!("has more than {MAX_JWKS_KEYS} keys"));
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("has no key that can verify a signature by RSA, ECDSA or Ed25519".to_owned());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token with this header. A token that names no key can only be of an issuer with one.
    pub(super) fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<&DecodingKey> {
        let fits =
            |key: &&Key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id);
        let fitting: Vec<_> = self.0.iter().filter(fits).map(|key| &key.verifies).collect();
        if id.is_none() && fitting.len() > 1 { Vec::new() } else { fitting }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    /// `None` if it verifies no signatures.
    fn read(document: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(document).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|use_| *use_ != PublicKeyUse::Signature) {
            return None;
        }
        if jwk.common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return None;
        }
        let by_kind = |algorithm: &Algorithm| match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => algorithm.family() == AlgorithmFamily::Rsa,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => *algorithm == Algorithm::ES256,
                EllipticCurve::P384 => *algorithm == Algorithm::ES384,
                _ => false,
            },
            AlgorithmParameters::OctetKeyPair(key) => {
                key.curve == EllipticCurve::Ed25519 && *algorithm == Algorithm::EdDSA
            }
            _ => false,
        };
        let mut algorithms: Vec<_> = algorithms().filter(by_kind).collect();
        if let Some(said) = jwk.common.key_algorithm {
            let said = Algorithm::try_from(said).ok()?;
            algorithms.retain(|algorithm| *algorithm == said);
        }
        let verifies = DecodingKey::from_jwk(&jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id, algorithms, verifies })
    }
}
