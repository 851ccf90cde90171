//! Certificates: verified, with an authority of one's own if that is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::{Stub, answer, run};
use countersign_login::{HttpSettings, Login, LoginError, Session, Tracker};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A Trac with a self-signed certificate for `name`, and that certificate in a file.
async fn trac(name: &str) -> (Stub, TempDir, PathBuf) {
    trac_with(name, IsCa::NoCa).await
}

async fn trac_with(name: &str, is_ca: IsCa) -> (Stub, TempDir, PathBuf) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = is_ca;
    let signing_key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let stub = Stub::start_tls(TlsAcceptor::from(Arc::new(config)), |request| {
        if request.contains("/check ") {
            answer("401 Unauthorized", &[], "")
        } else {
            answer("200 OK", &["Set-Cookie: trac_auth=a; Secure"], "")
        }
    })
    .await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ca.pem");
    fs::write(&file, cert.pem()).unwrap();
    (stub, directory, file)
}

async fn log_in(stub: &Stub, ca_file: Option<&Path>) -> Result<Session, LoginError> {
    let url = format!("https://localhost:{}/project", stub.port);
    run(&Login::new(Tracker::Trac, &url).unwrap().http(HttpSettings { ca_file, ..HttpSettings::default() }))
        .await
}

#[tokio::test]
async fn named_private_authority_is_trusted() {
    let (stub, _directory, file) = trac("localhost").await;
    let error = log_in(&stub, None).await.unwrap_err();
    assert!(
        matches!(error, LoginError::Certificate { .. } | LoginError::NoAuthorities),
        "nobody has signed it: {error}"
    );
    assert!(error.to_string().contains("--ca-file"), "{error}");
    assert_eq!(stub.requests(), [] as [&str; 0]);
    assert!(log_in(&stub, Some(&file)).await.unwrap().cookies[0].secure);
}

/// As `openssl req -x509` makes it, unless it is told otherwise.
#[tokio::test]
async fn named_self_signed_authority_is_trusted() {
    let (stub, _directory, file) = trac_with("localhost", IsCa::Ca(BasicConstraints::Unconstrained)).await;
    assert!(matches!(
        log_in(&stub, None).await,
        Err(LoginError::Certificate { .. } | LoginError::NoAuthorities)
    ));
    assert!(log_in(&stub, Some(&file)).await.is_ok());
}

#[tokio::test]
async fn certificate_of_another_name_or_authority_is_refused() {
    let (stub, _directory, file) = trac("trac.example.org").await;
    let error = log_in(&stub, Some(&file)).await.unwrap_err();
    assert!(matches!(error, LoginError::Certificate { .. }), "{error}");
    assert!(error.to_string().contains("not valid for name \"localhost\""), "{error}");

    let (_, _other_directory, other) = trac("localhost").await;
    let (stub, _directory, _) = trac("localhost").await;
    assert!(matches!(log_in(&stub, Some(&other)).await, Err(LoginError::Certificate { .. })));
    assert_eq!(stub.requests(), [] as [&str; 0]);
}

#[tokio::test]
async fn unusable_ca_file_is_refused() {
    let (stub, directory, file) = trac("localhost").await;
    let missing = directory.path().join("missing.pem");
    let empty = directory.path().join("empty.pem");
    let broken = directory.path().join("broken.pem");
    fs::write(&empty, "no certificate here\n").unwrap();
    fs::write(&broken, fs::read_to_string(&file).unwrap().replace("MII", "AAA")).unwrap();
    for path in [missing, empty, broken] {
        let error = log_in(&stub, Some(&path)).await.unwrap_err();
        assert!(
            matches!(error, LoginError::CaFile { .. }) && error.is_usage(),
            "{}: {error}",
            path.display()
        );
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn https_to_a_plain_port_is_explained() {
    let (_, _directory, file) = trac("localhost").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut greeting = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut greeting).await.unwrap();
        let text = answer("400 Bad Request", &[], "");
        tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut greeting).await.unwrap();
    });
    let url = format!("https://localhost:{port}/");
    let settings = HttpSettings { ca_file: Some(&file), ..HttpSettings::default() };
    let error = run(&Login::new(Tracker::Trac, &url).unwrap().http(settings)).await.unwrap_err();
    assert!(error.to_string().contains("it does not speak TLS there"), "{error}");
}
