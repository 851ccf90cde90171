//! TLS to a real server.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::{EndResult, ManualClock, OsEntropy, from_millis};
use countersign_test_postgres::{Cluster, Place};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::super::{PostgresOptions, PostgresStore};
use super::{World, consume, url};
use crate::error::OpenError;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn open(text: &str, ca_file: Option<&PathBuf>) -> Result<PostgresStore, OpenError> {
    let options = PostgresOptions { ca_file: ca_file.cloned(), ..PostgresOptions::default() };
    let clock = Arc::new(ManualClock::at(from_millis(1_767_225_600_123)));
    PostgresStore::open(&url(text), &options, clock, Arc::new(OsEntropy)).await
}

#[tokio::test]
async fn servers_certificate_is_checked() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let (ca, wrong_ca) = (file("ca.pem", &ours.pem()), file("other.pem", &other.pem()));
    let certificate = file("server.pem", &certificate.pem());
    let key = file("server.key", &key.serialize_pem());
    let cluster = Cluster::start(&["--tls", certificate.to_str().unwrap(), key.to_str().unwrap()]);
    let by_name = cluster.url().replace("127.0.0.1", "localhost");

    for mode in ["require", "verify-ca", "verify-full"] {
        let text = format!("{by_name}?sslmode={mode}");
        open(&text, Some(&ca)).await.unwrap();
        open(&format!("{text}&sslrootcert={}", ca.display()), None).await.unwrap();
        for wrong in [open(&text, Some(&wrong_ca)).await, open(&text, None).await] {
            let refused = wrong.unwrap_err().to_string();
            assert!(refused.contains("TLS to postgres://postgres@localhost"), "{refused}");
            assert!(refused.contains("store_ca_file"), "{refused}");
        }
        let by_address = open(&format!("{}?sslmode={mode}", cluster.url()), Some(&ca)).await.unwrap_err();
        assert!(by_address.to_string().contains("not valid for name"), "{by_address}");
    }
    open(&format!("{by_name}?sslmode=prefer"), None).await.unwrap();
    open(&format!("{by_name}?sslmode=disable"), None).await.unwrap();

    // It is TLS that is spoken, and tokens are consumed by it.
    let world = World::at(Place::at(cluster.url()));
    let store =
        open(&format!("{by_name}?sslmode=verify-full&application_name=by_tls"), Some(&ca)).await.unwrap();
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    let ssl = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'by_tls'";
    assert_eq!(countersign_test_postgres::run(cluster.url(), ssl).await, ["t"]);
}
