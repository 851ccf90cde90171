use std::fmt::Write;
use std::path::Path;

use countersign_server::Source;
use countersign_store::postgres::SchemaName;
use expect_test::expect_file;

use super::*;

fn resolve(text: &str) -> Result<Resolved, Failure> {
    file::parse(text).unwrap().resolve(&LibpqEnvironment::default())
}

fn refusal(text: &str) -> String {
    format!("{:?}", resolve(text).unwrap_err())
}

const SAMPLE_HEAD: &str = "\
# A configuration file for `countersign serve`, with every setting at its default. A test writes it from the program.
#
# The server reads /etc/countersign/countersign.toml or else ./countersign.toml; --config FILE names another file.
# A flag (--public-listen) overrides a variable (COUNTERSIGN_PUBLIC_LISTEN), and a variable overrides this file. Unknown
# keys are errors.
";

/// The lines of a comment with these sentences.
fn comment(sentences: &str) -> String {
    let mut lines = String::new();
    let mut line = "#".to_owned();
    for word in sentences.split_whitespace() {
        if line.len() + word.len() >= 120 {
            writeln!(lines, "{line}").unwrap();
            "#".clone_into(&mut line);
        }
        write!(line, " {word}").unwrap();
    }
    lines + &line + "\n"
}

/// A value as the file has it.
fn written(arg: &clap::Arg, value: &str) -> String {
    match (given::is_bare(arg), arg.get_value_delimiter()) {
        (true, _) => value.to_owned(),
        (false, None) => format!("{value:?}"),
        (false, Some(_)) => "[]".to_owned(),
    }
}

/// The sample file: a comment and a line for each setting.
fn sample() -> String {
    let mut sample = SAMPLE_HEAD.to_owned();
    let definition = <Settings as Args>::augment_args(clap::Command::new("settings"));
    for arg in definition.get_arguments() {
        let long = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
        let (text, example) = long.split_once("\n\nExample: ").unwrap_or((&long, ""));
        let (help, more) = text.split_once("\n\n").unwrap_or((text, ""));
        let help = match help.split_once(" [default: ") {
            Some((help, default)) => format!("{help}. By default: {}.", default.trim_end_matches(']')),
            None => format!("{help}."),
        };
        let default = arg.get_default_values().first().map(|value| value.to_str().unwrap());
        let value = written(arg, default.unwrap_or(example.trim_matches('`')));
        write!(sample, "\n{}#{} = {value}\n", comment(&format!("{help} {more}")), arg.get_id()).unwrap();
    }
    sample
}

#[test]
fn sample_file_has_every_setting_at_its_default() {
    let sample = sample();
    expect_file!["../../../../docs/countersign.sample.toml"].assert_eq(&sample);
    // Commented out, every line is a setting at its default; uncommented, every one of them is understood.
    resolve(&sample).unwrap();
    let uncommented: String = sample
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|setting| !setting.starts_with(' ')).unwrap_or(line).to_owned()
                + "\n"
        })
        .collect();
    let (all, default) = (resolve(&uncommented).unwrap(), resolve("").unwrap());
    assert!(all.said.iter().all(|setting| setting.source == Source::File), "{:?}", all.said);
    assert_eq!(all.policy, Policy::default());
    assert_eq!(default.policy, Policy::default());
    assert_eq!((all.events, default.events), (EventPolicy::default(), EventPolicy::default()));
    assert_eq!(default.store.postgres.schema, SchemaName::default());
    assert_eq!(all.issuer, default.issuer);
    assert_eq!(all.data_dir, default.data_dir);
    assert_eq!(all.key_ring, default.key_ring);
    assert_eq!(all.store.url, default.store.url);
    assert_eq!(all.store.postgres.schema, default.store.postgres.schema);
    assert_eq!(
        (all.public.address, all.private.address, all.spent_status, all.refusals_per_minute),
        (default.public.address, default.private.address, default.spent_status, default.refusals_per_minute)
    );
}

#[test]
fn flag_overrides_the_file() {
    let file = file::parse("issuer = 'File'\nspent_status = 410\ntoken_lifetime = '90s'\n").unwrap();
    let given = file.overlaid_with(Given::default().flag("issuer", Some("Flag")));
    let resolved = given.resolve(&LibpqEnvironment::default()).unwrap();
    assert_eq!(resolved.issuer, "Flag");
    assert_eq!(resolved.spent_status, SpentStatus::Gone);
    assert_eq!(resolved.policy.lifetime, Duration::from_secs(90));
    assert_eq!(resolved.refusals_per_minute, 1000, "the default");
    let source = |name: &str| resolved.said.iter().find(|setting| setting.name == name).unwrap().source;
    assert_eq!(
        [source("issuer"), source("spent_status"), source("retention")],
        [Source::Flag, Source::File, Source::Default]
    );
}

#[test]
fn debug_output_shows_no_value() {
    let given = file::parse("store = 'postgres://cs:hunter2@db/x'").unwrap();
    assert_eq!(format!("{given:?}"), "{\"store\"}");
}

/// Each setting has a value of every kind that TOML has; only its own kind is taken.
#[test]
fn value_of_another_kind_is_refused() {
    for arg in given::definition().get_arguments() {
        let name = arg.get_id().as_str();
        let kinds = ["5", "true", "'5'", "['5']", "{ a = 5 }", "1979-05-27"];
        let taken: Vec<&str> =
            kinds.into_iter().filter(|value| file::parse(&format!("{name} = {value}")).is_ok()).collect();
        assert!(taken.len() <= 1, "{name} takes {taken:?}");
    }
}

#[test]
fn key_ring_goes_with_the_data_directory() {
    let resolved = resolve("data_dir = '/srv/countersign'").unwrap();
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
    let resolved = resolve("trusted_proxies = ['127.0.0.1', '::1', '10.0.0.0/8']").unwrap();
    let networks: Vec<String> = resolved.proxies.networks.iter().map(ToString::to_string).collect();
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
