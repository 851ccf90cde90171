//! The names in a certificate by which a caller is known.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::AttributeTypeAndValue;

/// The names of a certificate: its subject alternative names as `dns:`, `uri:` and `email:`, and, where it has none of these,
/// the common name of its subject as `cn:` (as RFC 9525 section 2 wants it, a subject's name does not count beside them). Empty
/// if it, or one of its alternative names, cannot be read: the common name of such a certificate may not be what the authority has
/// verified.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return Vec::new() };
    // An error also if there are two lists.
    let Ok(alternatives) = parsed.subject_alternative_name() else { return Vec::new() };
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    if alternatives.clone().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Vec::new();
    }
    let named = alternatives.filter_map(|name| {
        Some(match name {
            GeneralName::DNSName(name) => format!("dns:{}", name.to_ascii_lowercase()),
            GeneralName::URI(uri) => format!("uri:{uri}"),
            GeneralName::RFC822Name(address) => format!("email:{address}"),
            _ => return None,
        })
    });
    let named: Vec<String> = named.collect();
    if !named.is_empty() {
        return named;
    }
    // Of several common names it cannot be told which one is meant.
    let mut common = parsed.subject().iter_common_name();
    match (common.next().map(AttributeTypeAndValue::as_str), common.next()) {
        (Some(Ok(name)), None) => vec![format!("cn:{name}")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};

    use super::*;

    fn names_of(alternatives: Vec<SanType>, common: &[&str]) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = alternatives;
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        names(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn alternative_names_come_before_the_subject() {
        let san = || {
            vec![
                SanType::DnsName("Worker.example.org".try_into().unwrap()),
                SanType::URI("spiffe://example.org/worker".try_into().unwrap()),
                SanType::Rfc822Name("ops@example.org".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ]
        };
        let expected = ["dns:worker.example.org", "uri:spiffe://example.org/worker", "email:ops@example.org"];
        assert_eq!(
            names_of(san(), &["admin"]),
            expected,
            "a subject that says something else does not count"
        );
        assert_eq!(names_of(vec![], &["worker"]), ["cn:worker"]);
        assert_eq!(names_of(vec![], &[]), Vec::<String>::new());
        assert_eq!(names(&CertificateDer::from(vec![1, 2, 3])), Vec::<String>::new());
    }

    /// A certificate with a common name, and with alternative names of these bytes.
    fn names_with(lists: &[&[u8]]) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "admin");
        let extension = |list: &&[u8]| CustomExtension::from_oid_content(&[2, 5, 29, 17], list.to_vec());
        params.custom_extensions = lists.iter().map(extension).collect();
        names(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn unreadable_alternative_name_hides_the_subject() {
        let good: &[u8] = b"\x30\x03\x82\x01a";
        assert_eq!(names_with(&[good]), ["dns:a"]);
        for (what, lists) in [
            ("two lists", vec![good, good]),
            ("a list that is cut off", vec![&good[..4]]),
            ("no list", vec![b"\x04\x01a"]),
            ("a name that is no text", vec![b"\x30\x03\x82\x01\xff"]),
            ("one good name and one that is no text", vec![b"\x30\x06\x82\x01a\x82\x01\xff"]),
        ] {
            assert_eq!(names_with(&lists), Vec::<String>::new(), "{what}");
        }
    }
}
