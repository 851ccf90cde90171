//! Signatures of JWTs by `ring`, which TLS uses already, as the backend of `jsonwebtoken`.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// The algorithms that a token may be signed with, and how each is verified. All have a public and a private key: with a shared
/// one (HS256), the verifier could also sign, and a public key could be passed off as the secret. RSA keys have 2048 bits at
/// least.
static METHODS: [(Algorithm, Method); 9] = [
    (Algorithm::RS256, Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256)),
    (Algorithm::RS384, Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384)),
    (Algorithm::RS512, Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512)),
    (Algorithm::PS256, Method::Rsa(&signature::RSA_PSS_2048_8192_SHA256)),
    (Algorithm::PS384, Method::Rsa(&signature::RSA_PSS_2048_8192_SHA384)),
    (Algorithm::PS512, Method::Rsa(&signature::RSA_PSS_2048_8192_SHA512)),
    (Algorithm::ES256, Method::Other(&signature::ECDSA_P256_SHA256_FIXED)),
    (Algorithm::ES384, Method::Other(&signature::ECDSA_P384_SHA384_FIXED)),
    (Algorithm::EdDSA, Method::Other(&signature::ED25519)),
];

/// The algorithms that a token may be signed with.
pub(super) fn algorithms() -> impl Iterator<Item = Algorithm> {
    METHODS.iter().map(|(algorithm, _)| *algorithm)
}

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: no_signer, verifier_factory: verifier, key_utils: NO_KEY_UTILS };

/// Nothing here reads private keys.
const NO_KEY_UTILS: KeyUtils = KeyUtils {
    rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
    rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
    ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    compute_digest: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
};

/// Has `jsonwebtoken` verify by `ring`. A program around this crate may have chosen another backend; then that one verifies.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the library wants it so")]
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the library wants it so")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let known = METHODS.iter().find(|(known, _)| known == algorithm);
    let (_, method) = *known.ok_or(ErrorKind::UnsupportedAlgorithm)?;
    // A public key of 65 bytes is none of Ed25519, and `ring` says so; that RSA is not taken for it is said here.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, method, key: key.clone() }))
}

#[derive(Clone, Copy)]
enum Method {
    Rsa(&'static RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

struct RingVerifier {
    algorithm: Algorithm,
    method: Method,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let verified = match (&self.method, self.key.kind()) {
            (Method::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Method::Other(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(*algorithm, key).verify(message, signature)
            }
            _ => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
