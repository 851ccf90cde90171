//! What a URL may say, and what it must not tell.

use std::time::Duration;

use super::super::settings::{TargetSession, TlsMode};
use super::super::{LibpqEnvironment, PostgresUrl, SchemaName};
use super::url;

#[test]
fn url_is_shown_without_its_password() {
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
            "postgres://anna@%2Frun%2Fpostgresql:5432/tokens",
        ),
        ("postgres://anna:hunter2@[::1]:5433/tokens", "postgres://anna@[::1]:5433/tokens"),
        ("postgres:///tokens?hostaddr=::1&user=anna", "postgres://anna@[::1]:5432/tokens"),
        ("postgres://a%3Ab%40c:hunter2@d%2Fb/to%3Fkens", "postgres://a%3Ab%40c@d%2Fb:5432/to%3Fkens"),
    ] {
        let url = url(given);
        assert_eq!(url.to_string(), shown);
        assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
    }
}

#[test]
fn tls_is_never_weaker_than_requested() {
    for (url_text, mode) in [
        ("postgres://db.example.org/tokens", TlsMode::Verify),
        ("postgres://192.0.2.1/tokens", TlsMode::Verify),
        ("postgres://localhost,db.example.org/tokens", TlsMode::Verify),
        ("postgres://localhost/tokens?hostaddr=192.0.2.1", TlsMode::Verify),
        ("postgres://localhost/tokens", TlsMode::Prefer),
        ("postgres://127.0.0.1/tokens", TlsMode::Prefer),
        ("postgres://[::ffff:127.0.0.1]/tokens", TlsMode::Prefer),
        ("postgres://[::ffff:192.0.2.1]/tokens", TlsMode::Verify),
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
fn schema_name_must_be_plain() {
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

fn environment(variables: &[(&str, &str)]) -> LibpqEnvironment {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    LibpqEnvironment::new(variables, Some("/home/anna".into()))
}

#[test]
fn url_overrides_libpq_variables() {
    let libpq = environment(&[
        ("PGSSLMODE", "require"),
        ("PGSSLROOTCERT", "/etc/theirs.pem"),
        ("PGCONNECT_TIMEOUT", "9"),
        ("PGTARGETSESSIONATTRS", "primary"),
        ("PGLOADBALANCEHOSTS", "random"),
        ("PGHOST", "elsewhere"),
        ("PGPORT", "1"),
        ("PGAPPNAME", ""),
    ]);
    let read = |text: &str| PostgresUrl::read(text, &libpq).unwrap();
    let given = read("postgres://localhost/tokens");
    assert_eq!(
        (given.mode(), given.wants(), given.is_random()),
        (TlsMode::Verify, TargetSession::Primary, true)
    );
    assert_eq!(given.connect_timeout(), Duration::from_secs(9));
    assert_eq!(given.ca_file().unwrap().to_str(), Some("/etc/theirs.pem"));
    assert_eq!(given.to_string(), "postgres://localhost:5432/tokens", "which database, the URL says alone");
    let options = "sslmode=disable&sslrootcert=system&connect_timeout=7&target_session_attrs=any&load_balance_hosts=disable";
    let given = read(&format!("postgres://localhost/tokens?{options}"));
    assert_eq!(
        (given.mode(), given.wants(), given.is_random()),
        (TlsMode::Disable, TargetSession::Any, false)
    );
    assert_eq!((given.connect_timeout(), given.ca_file()), (Duration::from_secs(7), None));
    let over: Vec<_> = libpq.passed_over().into_iter().map(|(variable, _)| variable).collect();
    assert_eq!(over, ["PGHOST", "PGPORT"]);
}

#[test]
fn each_host_has_its_own_timeout() {
    for (text, seconds, wants) in [
        ("postgres://a/tokens", 5, TargetSession::Any),
        ("postgres://a,b/tokens", 3, TargetSession::ReadWrite),
        ("postgres://a,b/tokens?connect_timeout=20&target_session_attrs=any", 20, TargetSession::Any),
        ("postgres://a,b/tokens?connect_timeout=1", 2, TargetSession::ReadWrite),
        ("postgres://a,b/tokens?connect_timeout=0", 3, TargetSession::ReadWrite),
        ("postgres://a/tokens?connect_timeout=-1&target_session_attrs=primary", 5, TargetSession::Primary),
    ] {
        let read = url(text);
        assert_eq!((read.connect_timeout().as_secs(), read.wants()), (seconds, wants), "{text}");
    }
}

#[test]
fn options_are_read_like_libpq() {
    let read = url(
        "postgres://a/tokens?tcp_user_timeout=2500&keepalives_idle=7&keepalives_interval=8&keepalives_count=9",
    );
    let config = read.config();
    assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
    assert_eq!(config.get_keepalives_interval(), Some(Duration::from_secs(8)));
    assert_eq!(config.get_keepalives_retries(), Some(9));
    assert_eq!(config.get_application_name(), Some("countersign"));
    let default = url("postgres://a/tokens");
    assert_eq!(default.config().get_tcp_user_timeout(), Some(&Duration::from_secs(10)));
    assert_eq!(default.config().get_keepalives_idle(), Duration::from_secs(5));
}

#[test]
fn impossible_value_is_refused_unquoted() {
    for (options, says) in [
        (
            "target_session_attrs=standby",
            "target_session_attrs in the store's URL must be any, read-write or primary",
        ),
        ("target_session_attrs=read-only", "because a store is written to"),
        ("target_session_attrs=prefer-standby", "must be any"),
        (
            "sslmode=hunter2",
            "sslmode in the store's URL must be disable, prefer, require, verify-ca or verify-full",
        ),
        ("connect_timeout=hunter2", "connect_timeout in the store's URL must be a number of seconds"),
        ("tcp_user_timeout=1s", "must be a number of milliseconds"),
        ("keepalives_idle=a", "must be a number of seconds"),
        ("load_balance_hosts=a", "must be disable or random"),
        ("service=hunter2", "`service` is an option of libpq that this program does not have"),
        ("sslcert=hunter2", "`sslcert` is an option of libpq that this program does not have"),
        ("hostaddr=192.0.2.1,192.0.2.2", "as many values of hostaddr as hosts"),
    ] {
        let refused =
            format!("postgres://anna@db/tokens?{options}").parse::<PostgresUrl>().unwrap_err().to_string();
        assert!(refused.contains(says) && !refused.contains("hunter2"), "{options}: {refused}");
    }
    let refused = "postgres://a:1,b:2,c/tokens?port=1,2".parse::<PostgresUrl>().unwrap_err().to_string();
    assert!(refused.contains("as many ports as hosts"), "{refused}");
}

#[test]
fn libpq_environment_shows_no_value() {
    let libpq = environment(&[("PGPASSWORD", "hunter2"), ("PGSSLMODE", "require")]);
    assert!(!format!("{libpq:?}").contains("hunter2"), "{libpq:?}");
    let read = PostgresUrl::read("postgres://anna@db/tokens", &libpq).unwrap();
    assert!(!format!("{read:?} {read}").contains("hunter2"), "{read:?}");
}
