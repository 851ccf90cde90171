//! What a URL may say, and what it must not tell.

use super::super::SchemaName;
use super::super::settings::TlsMode;
use super::url;

#[test]
fn a_url_is_shown_without_its_password() {
    for (given, shown) in [
        ("postgres://anna:hunter2@db.example.org:5433/tokens", "postgres://anna@db.example.org:5433/tokens"),
        ("postgresql://anna:hunter2@db/tokens?connect_timeout=3", "postgres://anna@db:5432/tokens"),
        ("postgres://anna@a:1,b:2/tokens?password=hunter2", "postgres://anna@a:1,b:2/tokens"),
        (
            "postgres://anna:hunter2@%2Frun%2Fpostgresql/tokens",
            "postgres://anna@%2Frun%2Fpostgresql:5432/tokens",
        ),
        (
            "postgres:///tokens?host=/run/postgresql&user=anna&password=hunter2",
            "postgres://anna@%2Frun%2Fpostgresql/tokens",
        ),
        ("postgres://anna:hunter2@[::1]:5433/tokens", "postgres://anna@[::1]:5433/tokens"),
        ("postgres:///tokens?hostaddr=::1&user=anna", "postgres://anna@[::1]/tokens"),
        ("postgres://a%3Ab%40c:hunter2@d%2Fb/to%3Fkens", "postgres://a%3Ab%40c@d%2Fb:5432/to%3Fkens"),
    ] {
        let url = url(given);
        assert_eq!(url.to_string(), shown);
        assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
    }
}

#[test]
fn tls_is_never_weaker_than_the_url_asks() {
    for (url_text, mode) in [
        ("postgres://db.example.org/tokens", TlsMode::Verify),
        ("postgres://192.0.2.1/tokens", TlsMode::Verify),
        ("postgres://localhost,db.example.org/tokens", TlsMode::Verify),
        ("postgres://localhost/tokens?hostaddr=192.0.2.1", TlsMode::Verify),
        ("postgres://localhost/tokens", TlsMode::Prefer),
        ("postgres://127.0.0.1/tokens", TlsMode::Prefer),
        ("postgres:///tokens?host=/run/postgresql", TlsMode::Prefer),
        ("postgres://localhost/tokens?sslmode=require", TlsMode::Verify),
        ("postgres://db/tokens?sslmode=require", TlsMode::Verify),
        ("postgres://db/tokens?sslmode=verify-ca", TlsMode::Verify),
        ("postgres://db/tokens?sslmode=verify-full&sslrootcert=system", TlsMode::Verify),
        ("postgres://db/tokens?sslmode=prefer", TlsMode::Prefer),
        ("postgres://db/tokens?application_name=a&sslmode=disable", TlsMode::Disable),
    ] {
        assert_eq!(url(url_text).mode(), mode, "{url_text}");
    }
    let own = url("postgres://db/tokens?sslrootcert=%2Fetc%2Fca.pem&sslmode=verify-full");
    assert_eq!(own.ca_file().unwrap().to_str(), Some("/etc/ca.pem"));
}

#[test]
fn a_schema_has_a_plain_name() {
    for name in ["countersign", "_a1", "a"] {
        assert_eq!(name.parse::<SchemaName>().unwrap().name(), name);
    }
    for name in ["", "1a", "A", "a-b", "a\"b", "pg_tokens", "ä", &"a".repeat(64)] {
        assert!(
            name.parse::<SchemaName>().unwrap_err().to_string().contains("store_schema must be"),
            "{name}"
        );
    }
}
