//! Who may answer in the issuer's name.

use countersign_testkit::{Authority, Certified};
use countersign_verifier::{SetupError, Verified, Verifier, VerifyError};

use crate::support::{Reply, Stub, text};

const TOKEN: &str = "cs1abc234";

/// An issuer with this certificate that says yes to everything.
async fn serve(certified: &Certified) -> Stub {
    let yes = Reply::Send(text("200 OK", ""));
    Stub::start_with([yes.clone(), yes], Some(certified.acceptor())).await
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
async fn named_authority_is_trusted() {
    let authority = Authority::new();
    let stub = serve(&authority.certify("localhost")).await;
    assert_eq!(verify(&stub, &authority.pem()).await, Ok(Verified::default()));
    let both = format!("{}{}", Authority::new().pem(), authority.pem());
    assert_eq!(verify(&stub, &both).await, Ok(Verified::default()));
}

#[tokio::test]
async fn unnamed_authority_is_rejected() {
    let stub = serve(&Authority::new().certify("localhost")).await;
    assert_untrusted(verify(&stub, &Authority::new().pem()).await, &stub);
}

#[tokio::test]
async fn certificate_for_another_host_is_rejected() {
    let authority = Authority::new();
    let stub = serve(&authority.certify("issuer.example.org")).await;
    assert_untrusted(verify(&stub, &authority.pem()).await, &stub);
}

#[tokio::test]
async fn self_signed_certificate_is_rejected() {
    let stub = serve(&Certified::self_signed("localhost")).await;
    assert_untrusted(verify(&stub, &Authority::new().pem()).await, &stub);
}

#[tokio::test]
async fn system_authorities_reject_a_private_one() {
    let stub = serve(&Authority::new().certify("localhost")).await;
    match Verifier::builder(format!("https://localhost:{}", stub.port)).build() {
        Ok(verifier) => assert_untrusted(verifier.verify(TOKEN).await, &stub),
        // A machine without any is told so before the first login.
        Err(error) => assert_eq!(error, SetupError::NoAuthorities),
    }
}
