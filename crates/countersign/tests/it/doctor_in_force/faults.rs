//! What can be wrong with a server that runs, and how `doctor` tells it.

use std::fs;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::{ALARM_SECRET, BEARER};
use crate::doctor::made_at;
use crate::fixture::Place;

/// Something wrong, and how it is told.
pub(super) struct Fault {
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// What happens to the files once the server has read them.
    pub(super) then: fn(&Place),
    pub(super) level: &'static str,
    pub(super) check: &'static str,
    pub(super) says: &'static str,
}

pub(super) fn fault(
    settings: &[(&'static str, &'static str)],
    then: fn(&Place),
    (level, check, says): (&'static str, &'static str, &'static str),
) -> Fault {
    Fault { settings: settings.to_vec(), then, level, check, says }
}

/// A certificate that is valid for so many days from now, and its key.
fn certificate(days: i64) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let day = Duration::from_hours(24);
    let now = made_at();
    params.not_before = (now - 90 * day).into();
    params.not_after = if days < 0 { now - day } else { now + u32::try_from(days).unwrap() * day }.into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Files that settings can name.
pub(super) fn place() -> Place {
    let place = Place::new();
    for (name, days) in [("good", 60), ("expired", -1), ("aging", 9)] {
        let (certificate, key) = certificate(days);
        place.write(&format!("{name}.pem"), &certificate);
        place.replace(&format!("{name}.key"), &key, 0o600);
    }
    for (name, text, mode) in [
        ("bearer", BEARER, 0o600),
        ("kept-bearer", BEARER, 0o600),
        ("open-bearer", BEARER, 0o644),
        ("writable-bearer", BEARER, 0o666),
        ("alarm", ALARM_SECRET, 0o600),
        ("open-alarm", ALARM_SECRET, 0o644),
        ("weak", "password\n", 0o600),
    ] {
        place.replace(name, text, mode);
    }
    let (_, key) = certificate(60);
    place.replace("other.key", &key, 0o600);
    let key = place.read("good.key");
    place.replace("open.key", &key, 0o644);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    place.write("authority.pem", &params.self_signed(&key).unwrap().pem());
    place.replace("authority.key", &key.serialize_pem(), 0o600);
    place
}

pub(super) fn nothing(_: &Place) {}

/// Faults with which a server starts.
pub(super) fn faults() -> Vec<Fault> {
    [faults_of_settings(), faults_to_come()].into_iter().flatten().collect()
}

fn faults_of_settings() -> Vec<Fault> {
    vec![
        fault(
            &[("trusted_proxies", "0.0.0.0/0")],
            nothing,
            ("error", "proxies", "trusted_proxies has 0.0.0.0/0: anybody may say"),
        ),
        fault(
            &[("public_tls_certificate", "expired.pem"), ("public_tls_key", "expired.key")],
            nothing,
            ("error", "certificates", "expired.pem expired at"),
        ),
        fault(
            &[("public_tls_certificate", "aging.pem"), ("public_tls_key", "aging.key")],
            nothing,
            ("warning", "certificates", "aging.pem expires at"),
        ),
        fault(
            &[("public_tls_certificate", "authority.pem"), ("public_tls_key", "authority.key")],
            nothing,
            ("warning", "certificates", "authority.pem is an authority's (CA:TRUE)"),
        ),
        fault(
            &[("private_listen", "0.0.0.0:0"), ("private_bearer_file", "bearer")],
            nothing,
            ("warning", "configuration", "takes its secret in plain HTTP on 0.0.0.0:"),
        ),
        fault(
            &[("private_bearer_file", "open-bearer")],
            nothing,
            ("error", "files", "open-bearer can be read by other users (mode 0644)"),
        ),
        fault(
            &[("private_bearer_file", "writable-bearer")],
            nothing,
            ("error", "files", "writable-bearer can be changed by other users (mode 0666)"),
        ),
        fault(
            &[("alarm_webhook", "http://127.0.0.1:9/hook"), ("alarm_secret_file", "open-alarm")],
            nothing,
            ("error", "files", "open-alarm can be read by other users (mode 0644)"),
        ),
        fault(
            &[("public_tls_certificate", "good.pem"), ("public_tls_key", "open.key")],
            nothing,
            ("error", "files", "open.key can be read by other users (mode 0644)"),
        ),
        fault(
            &[("store", "POSTGRES"), ("store_schema", "SCHEMA"), ("store_password_file", "password")],
            nothing,
            ("error", "files", "password can be read by other users (mode 0644)"),
        ),
        fault(&[("store", "memory:")], nothing, ("warning", "configuration", "forgets everything")),
        fault(
            &[("refusals_per_minute", "0")],
            nothing,
            ("note", "configuration", "refusals are not limited"),
        ),
        fault(
            &[("public_url", "http://127.0.0.1:9")],
            nothing,
            ("error", "public URL", "http://127.0.0.1:9/ does not answer"),
        ),
        fault(
            &[("traces", "http://127.0.0.1:9")],
            nothing,
            ("warning", "traces", "127.0.0.1 does not take spans"),
        ),
    ]
}

/// What becomes of files that the server has read.
fn faults_to_come() -> Vec<Fault> {
    let good = [("public_tls_certificate", "good.pem"), ("public_tls_key", "good.key")];
    vec![
        fault(
            &good,
            |place| place.replace("good.key", &place.read("other.key"), 0o600),
            ("error", "certificates", "good.pem, as it stands there now, cannot be used"),
        ),
        fault(
            &good,
            |place| fs::remove_file(place.path("good.key")).unwrap(),
            ("error", "files", "good.key cannot be looked at: No such file"),
        ),
        fault(
            &[("private_bearer_file", "kept-bearer")],
            |place| place.replace("kept-bearer", "password\n", 0o600),
            ("error", "files", "kept-bearer must hold one line of at least 20 visible ASCII characters"),
        ),
        fault(
            &[("key_ring", "ring.toml")],
            |place| place.set_mode("ring.toml", 0o644),
            ("error", "files", "ring.toml can be read by other users (mode 0644)"),
        ),
        fault(
            &[("key_ring", "ring.toml")],
            |place| fs::remove_file(place.path("ring.toml")).unwrap(),
            ("error", "files", "ring.toml cannot be looked at: No such file"),
        ),
        fault(
            &[("key_ring", "ring.toml")],
            |place| place.replace("ring.toml", "version = 1\n", 0o600),
            ("error", "files", "ring.toml cannot be used: it"),
        ),
        fault(
            &[("data_dir", "data")],
            |place| place.set_mode("data", 0o777),
            ("error", "files", "data can be changed by other users (mode 0777)"),
        ),
        fault(
            &[("private_bearer_file", "kept-bearer")],
            |place| {
                fs::remove_file(place.path("kept-bearer")).unwrap();
                fs::create_dir(place.path("kept-bearer")).unwrap();
                place.set_mode("kept-bearer", 0o700);
            },
            ("error", "files", "kept-bearer cannot be read: Is a directory"),
        ),
    ]
}
