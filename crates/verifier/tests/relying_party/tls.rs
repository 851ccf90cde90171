//! Who may answer in the issuer's name.

use std::sync::Arc;

use crate::support::{Reply, Stub, text};
use countersign_verifier::{SetupError, Verified, Verifier, VerifyError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

const TOKEN: &str = "cs1abc234";

/// A certificate authority, and a certificate that it signed.
struct Pki {
    authority: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let signer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &signer).unwrap();
        Self { authority, certificate: certificate.der().clone(), key }
    }

    /// An issuer with this certificate that says yes to everything.
    async fn serve(&self) -> Stub {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![self.certificate.clone()], key.into())
                .unwrap();
        let yes = Reply::Send(text("200 OK", ""));
        Stub::start_with([yes.clone(), yes], Some(TlsAcceptor::from(Arc::new(config)))).await
    }
}

/// Asks at `https://localhost`, trusting these authorities.
async fn verify(stub: &Stub, authorities: &str) -> Result<Verified, VerifyError> {
    let issuer = format!("https://localhost:{}", stub.port);
    Verifier::builder(issuer).certificate_authorities(authorities).build().unwrap().verify(TOKEN).await
}

fn assert_untrusted(verdict: Result<Verified, VerifyError>, stub: &Stub) {
    let Err(VerifyError::Unreachable { reason, .. }) = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(stub.requests().len(), 0, "the token was sent to somebody who is not the issuer");
}

#[tokio::test]
async fn an_authority_that_is_named_is_trusted() {
    let pki = Pki::new("localhost");
    let stub = pki.serve().await;
    assert_eq!(verify(&stub, &pki.authority).await, Ok(Verified::default()));
    let both = format!("{}{}", Pki::new("localhost").authority, pki.authority);
    assert_eq!(verify(&stub, &both).await, Ok(Verified::default()));
}

#[tokio::test]
async fn another_authority_is_not() {
    let stub = Pki::new("localhost").serve().await;
    assert_untrusted(verify(&stub, &Pki::new("localhost").authority).await, &stub);
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_good() {
    let pki = Pki::new("issuer.example.org");
    let stub = pki.serve().await;
    assert_untrusted(verify(&stub, &pki.authority).await, &stub);
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_not_good() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let stub = Pki { authority: String::new(), certificate, key }.serve().await;
    assert_untrusted(verify(&stub, &Pki::new("localhost").authority).await, &stub);
}

#[tokio::test]
async fn the_machines_authorities_do_not_vouch_for_a_private_one() {
    let stub = Pki::new("localhost").serve().await;
    match Verifier::builder(format!("https://localhost:{}", stub.port)).build() {
        Ok(verifier) => assert_untrusted(verifier.verify(TOKEN).await, &stub),
        // A machine without any is told so before the first login.
        Err(error) => assert_eq!(error, SetupError::NoAuthorities),
    }
}
