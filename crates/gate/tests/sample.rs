//! The sample configuration and the page that users read.

use countersign_gate::Config;

const SAMPLE: &str = include_str!("../../../docs/gate.sample.toml");

/// The settings that the sample shows commented out, as settings.
fn with_defaults() -> String {
    SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => setting,
            _ => line,
        })
        // These have no default, and name files and hosts that are not there.
        .filter(|line| !line.starts_with("certificate_authorities") && !line.starts_with("http_proxy"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn sample_shows_the_defaults() {
    let (written, defaults) = (Config::parse(&with_defaults()).unwrap(), Config::parse(SAMPLE).unwrap());
    assert!(with_defaults().contains("\nsession_lifetime = "));
    assert_eq!(format!("{written:?}"), format!("{defaults:?}"));
}

#[test]
fn documented_configuration_works() {
    let page = include_str!("../../../docs/gate.md");
    let indented = page.split("   ```toml\n").nth(1).unwrap().split("   ```").next().unwrap();
    Config::parse(indented).unwrap();
}

#[test]
fn rules_of_each_trackers_page_work() {
    for page in [
        include_str!("../../../docs/gate-roundup.md"),
        include_str!("../../../docs/gate-trac.md"),
        include_str!("../../../docs/gate-request-tracker.md"),
        include_str!("../../../docs/gate-redmine.md"),
        include_str!("../../../docs/gate-bugzilla.md"),
    ] {
        let rules = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let config = format!(
            "base_url = \"https://bugs.example.org/\"\ndata_dir = \"gate\"\nproxy = \"nginx\"\nanonymous = true\n\
             [[issuer]]\nname = \"launchpad\"\nurl = \"https://launchpad.example.org\"\nuser = \"launchpad\"\n{rules}"
        );
        Config::parse(&config).unwrap();
    }
}
