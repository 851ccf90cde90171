use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// The key of an issuer of JWTs. It signs by itself, so that what a server verifies was not made by what it verifies with.
#[derive(Debug)]
pub struct SigningKey {
    /// Its name, if it has one.
    pub id: Option<String>,
    /// The algorithm that it signs with.
    pub algorithm: &'static str,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Ecdsa(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl SigningKey {
    /// A new key for `ES256`, `ES384`, `EdDSA`, or one of `RS256` to `PS512`, which `openssl` makes.
    ///
    /// # Panics
    ///
    /// If there is no such algorithm, no randomness, or no `openssl`.
    pub fn new(id: &str, algorithm: &'static str) -> Self {
        let random = SystemRandom::new();
        let ecdsa = |curve, name| {
            let made = EcdsaKeyPair::generate_pkcs8(curve, &random).expect("a key");
            Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(curve, made.as_ref(), &random).expect("a key"), name)
        };
        let pair = match algorithm {
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "EdDSA" => {
                let made = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key"))
            }
            _ => Pair::Rsa(Box::new(rsa_key())),
        };
        Self { id: Some(id.to_owned()), algorithm, pair }
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Ecdsa(pair, curve) => {
                // 4, x, y.
                let (_, point) = pair.public_key().as_ref().split_at(1);
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents::<Vec<u8>> { n, e } = pair.public_key().into();
                json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) })
            }
        };
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm.into();
        if let Some(id) = &self.id {
            jwk["kid"] = id.as_str().into();
        }
        jwk
    }

    /// A token with these claims, whose header names this key.
    pub fn token(&self, claims: &Value) -> String {
        let mut header = json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        self.sign(&header, claims)
    }

    /// A token with any header and claims, signed by this key.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair, _) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match self.algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    other => panic!("no algorithm {other}"),
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }
}

/// What is signed of a token: its header and claims, encoded.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(claims))
}

/// `ring` makes no RSA keys.
fn rsa_key() -> RsaKeyPair {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .stderr(Stdio::null())
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "openssl makes no key");
    let key = PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).expect("a key");
    RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("a key")
}

/// The documents of an issuer of JWTs, served on this machine's loopback.
#[derive(Debug)]
pub struct IssuerServer {
    url: String,
    served: Arc<Served>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Served {
    answers: Mutex<BTreeMap<String, (String, String)>>,
    /// The heads of the requests so far.
    requests: Mutex<Vec<String>>,
    /// A request is answered when it gets one.
    turns: Semaphore,
}

impl IssuerServer {
    /// Serves in plain HTTP, or in TLS as `localhost`.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let served = Arc::new(Served {
            answers: Mutex::default(),
            requests: Mutex::default(),
            turns: Semaphore::new(Semaphore::MAX_PERMITS / 2),
        });
        let serving = tokio::spawn({
            let served = Arc::clone(&served);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (served, tls) = (Arc::clone(&served), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => served.answer(stream).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    served.answer(stream).await;
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { url, served, serving }
    }

    /// Its URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers a path with this status line (`200 OK`), further header lines included, and this body.
    #[expect(clippy::needless_pass_by_value, reason = "a document is given as it is made")]
    pub fn answers(&self, path: &str, status: &str, body: impl ToString) {
        let mut answers = self.served.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.to_owned(), (status.to_owned(), body.to_string()));
    }

    /// Publishes keys, at `/jwks`, and the discovery document that says so.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answers("/jwks", "200 OK", json!({ "keys": keys }));
        let discovery = json!({ "issuer": self.url, "jwks_uri": format!("{}/jwks", self.url) });
        self.answers("/.well-known/openid-configuration", "200 OK", discovery);
    }

    /// The heads of all requests for a path so far.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let requests = self.served.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|head| head.split(' ').nth(1) == Some(path)).cloned().collect()
    }

    /// Takes requests from now on without answering them, until it is [let go](Self::let_go).
    pub fn hold(&self) {
        self.served.turns.forget_permits(usize::MAX);
    }

    /// Answers again, also those that wait.
    pub fn let_go(&self) {
        self.served.turns.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Stops: connections are refused from now on.
    pub async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for IssuerServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Served {
    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        if let Ok(turn) = self.turns.acquire().await {
            turn.forget();
        }
        let found = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
        let (status, body) = found.unwrap_or_else(|| ("404 Not Found".to_owned(), String::new()));
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}
