//! An issuer with a certificate that nobody can trust.

use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};
use countersign_check_tracker::{CheckError, Issuer, Report, Tracker};
use countersign_verifier::{LoginLayer, Verifier};
use tokio::net::TcpListener;

use crate::{broken, checker, complaints};

pub(crate) const CHECK: &str = "verifies-certificate";

async fn issuer() -> Issuer {
    Issuer::listen_self_signed("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

async fn check(issuer: Issuer, url: &str) -> Report {
    let checker = checker(issuer, Tracker::Trac, url, None, Duration::from_mins(1));
    checker.reach().await.unwrap();
    checker.run(&[], |_| {}).await.unwrap()
}

async fn serve(tracker: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, tracker).await });
    url
}

#[tokio::test]
async fn verifying_tracker_passes() {
    let issuer = issuer().await;
    let auth_server = issuer.auth_server();
    assert!(auth_server.starts_with("https://"), "{auth_server}");
    let base = auth_server.strip_suffix("/token/%s/+bugtracker-handshake").unwrap();
    let verifier = Verifier::builder(base).timeout(Duration::from_secs(30)).build().unwrap();
    let url = serve(Router::new().layer(LoginLayer::builder(verifier).build().unwrap())).await;
    let report = check(issuer, &url).await;
    assert_eq!(complaints(&report), "");
    assert_eq!(report.findings.len(), 1);
}

#[tokio::test]
async fn tracker_that_skips_verification_is_reported() {
    let issuer = issuer().await;
    let auth_server = issuer.auth_server();
    let url = serve(Router::new().fallback(async move |uri: Uri| {
        let token = uri.path().rsplit('/').next().unwrap().to_owned();
        if careless::post(&auth_server.replace("%s", &token)).await.starts_with("HTTP/1.1 200 ") {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        }
    }))
    .await;
    let report = check(issuer, &url).await;
    assert_eq!(broken(&report), [CHECK]);
    assert!(
        complaints(&report).contains("can trust and let the worker in. An attacker between"),
        "{}",
        complaints(&report)
    );
}

#[tokio::test]
async fn silent_tracker_does_not_pass() {
    let url = serve(Router::new().fallback(async || StatusCode::UNAUTHORIZED)).await;
    let checker = checker(issuer().await, Tracker::Trac, &url, None, Duration::from_mins(1));
    assert!(matches!(checker.reach().await, Err(CheckError::NotAsked { .. })));
    let report = checker.run(&[], |_| {}).await.unwrap();
    assert!(complaints(&report).contains("It did not come to the issuer at all."), "{}", complaints(&report));
}

#[tokio::test]
async fn only_the_possible_check_runs() {
    let checker = checker(issuer().await, Tracker::Trac, "http://127.0.0.1:1/", None, Duration::from_mins(1));
    let error = checker.run(&["login".to_owned()], |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no check \"login\" to make here; there are verifies-certificate");
}

/// A client that takes every certificate.
mod careless {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    #[derive(Debug)]
    struct Anything;

    impl ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    /// Posts nothing to this URL. Returns the answer.
    pub(super) async fn post(url: &str) -> String {
        let (authority, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything))
            .with_no_client_auth();
        let stream = TcpStream::connect(authority).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}
