use std::path::Path;

use super::*;

fn settings(text: &str) -> Settings {
    file::parse(text).unwrap()
}

fn refusal(text: &str) -> String {
    format!("{:?}", settings(text).resolve(&LibpqEnvironment::default()).unwrap_err())
}

#[test]
fn the_sample_file_is_the_defaults() {
    let sample = include_str!("../../../../docs/countersign.sample.toml");
    // Commented out, every line is a setting at its default; uncommented, every one of them is understood.
    assert!(settings(sample).resolve(&LibpqEnvironment::default()).is_ok());
    let uncommented: String = sample
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(setting) if !setting.starts_with(' ') && setting.contains('=') => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let all = settings(&uncommented);
    let table = toml::Table::try_from(&all).unwrap();
    let fields = toml::Table::try_from(Settings {
        data_dir: Some(PathBuf::new()),
        public_listen: Some(loopback(0)),
        private_listen: Some(loopback(0)),
        public_url: Some("https://a.example".parse().unwrap()),
        store: Some(String::new()),
        store_password_file: Some(PathBuf::new()),
        store_schema: Some(String::new()),
        store_ca_file: Some(PathBuf::new()),
        key_ring: Some(PathBuf::new()),
        public_tls_certificate: Some(PathBuf::new()),
        public_tls_key: Some(PathBuf::new()),
        private_tls_certificate: Some(PathBuf::new()),
        private_tls_key: Some(PathBuf::new()),
        private_client_ca: Some(PathBuf::new()),
        private_bearer_file: Some(PathBuf::new()),
        trusted_proxies: Some(Vec::new()),
        forwarded_header: Some(HeaderName::XForwardedFor),
        issuer: Some(String::new()),
        token_lifetime: Some(SignedDuration::ZERO),
        retention: Some(SignedDuration::ZERO),
        require_audience: Some(false),
        spent_status: Some(401),
        refusals_per_minute: Some(0),
        alarm_webhook: Some("https://a.example".parse().unwrap()),
        alarm_secret_file: Some(PathBuf::new()),
        event_retention: Some(SignedDuration::ZERO),
        record_issued: Some(false),
        traces: Some("https://a.example".parse().unwrap()),
        trace_ratio: Some(1.0),
        log_format: Some(LogFormat::Human),
    })
    .unwrap();
    assert_eq!(
        table.keys().collect::<Vec<_>>(),
        fields.keys().collect::<Vec<_>>(),
        "the sample names every setting"
    );

    let sample = all.resolve(&LibpqEnvironment::default()).unwrap();
    let default = Settings::default().resolve(&LibpqEnvironment::default()).unwrap();
    assert_eq!(sample.policy, default.policy);
    assert_eq!(sample.issuer, default.issuer);
    assert_eq!(sample.events, default.events);
    assert_eq!(sample.data_dir, default.data_dir);
    assert_eq!(sample.key_ring, default.key_ring);
    assert_eq!(sample.store.url, default.store.url);
    assert_eq!(sample.store.postgres.schema, default.store.postgres.schema);
    assert_eq!(
        (sample.public.address, sample.private.address, sample.spent_status, sample.refusals_per_minute),
        (default.public.address, default.private.address, default.spent_status, default.refusals_per_minute)
    );
}

#[test]
fn what_is_said_later_wins() {
    let file = settings("issuer = 'File'\nspent_status = 410\ntoken_lifetime = '90s'\n");
    let flags = Settings { issuer: Some("Flag".to_owned()), ..Settings::default() };
    let resolved = file.overlaid_with(&flags).unwrap().resolve(&LibpqEnvironment::default()).unwrap();
    assert_eq!(resolved.issuer, "Flag");
    assert_eq!(resolved.spent_status, SpentStatus::Gone);
    assert_eq!(resolved.policy.lifetime, Duration::from_secs(90));
    assert_eq!(resolved.refusals_per_minute, 1000, "the default");
}

#[test]
fn the_key_ring_goes_with_the_data_directory() {
    let resolved = settings("data_dir = '/srv/countersign'").resolve(&LibpqEnvironment::default()).unwrap();
    assert_eq!(resolved.key_ring, Path::new("/srv/countersign/key-ring.toml"));
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_by_name() {
    for (text, says) in [
        ("colour = 'red'", "colour"),
        ("public_listen = 'here'", "public_listen"),
        ("public_url = 'here'", "public_url"),
        ("traces = 'here'", "The base URL of the OpenTelemetry collector"),
        ("trusted_proxies = ['here']", "trusted_proxies"),
        ("forwarded_header = 'via'", "forwarded_header"),
        ("spent_status = 'gone'", "spent_status"),
        ("token_lifetime = 5", "token_lifetime"),
        ("[server]\nissuer = 'a'", "server"),
    ] {
        let error = file::parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn trusted_proxy_can_be_one_address() {
    let read = settings("trusted_proxies = ['127.0.0.1', '::1', '10.0.0.0/8']");
    let networks: Vec<String> = read.trusted_proxies.unwrap().into_iter().map(String::from).collect();
    assert_eq!(networks, ["127.0.0.1/32", "::1/128", "10.0.0.0/8"]);
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, says) in [
        ("token_lifetime = '0s'", "token_lifetime"),
        ("token_lifetime = '25h'", "86400"),
        ("token_lifetime = '1500ms'", "whole seconds"),
        ("token_lifetime = '-5m'", "token_lifetime"),
        ("retention = '1m'", "retention"),
        ("alarm_webhook = 'https://a.example'", "alarm_secret_file"),
        ("alarm_secret_file = 'a'", "alarm_webhook"),
        ("event_retention = '1500ms'", "event_retention"),
        ("event_retention = '999999h'", "event_retention"),
        ("spent_status = 404", "401 or 410"),
        ("public_url = 'ftp://a.example'", "public_url"),
        ("public_url = 'https://a.example/?q'", "public_url"),
        ("public_listen = '0.0.0.0:80'", "public_url"),
        ("public_listen = 'unix:/run/a.sock'", "public_url"),
        ("public_tls_key = 'a.pem'", "public_tls_certificate"),
        ("private_client_ca = 'a.pem'", "private_tls_certificate"),
        ("store = 'tokens.db'", "a store is named by a URL such as"),
        ("store_schema = 'Tokens'", "store_schema must be lower-case letters"),
        ("traces = 'unix:/run/otel'", "traces must be the base URL"),
        ("trace_ratio = -0.5", "trace_ratio"),
        ("trace_ratio = nan", "trace_ratio"),
        ("issuer = ' '", "issuer"),
        ("issuer = \"two\\nlines\"", "issuer"),
    ] {
        assert!(refusal(text).contains(says), "{text}: {}", refusal(text));
    }
}
