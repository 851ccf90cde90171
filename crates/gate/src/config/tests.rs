//! Which settings are accepted, and what the error says of others.

use super::*;

const LEAST: &str = r#"
base_url = "https://bugs.example.org/tracker/"
data_dir = "/var/lib/gate"
proxy = "nginx"

[[issuer]]
name = "launchpad"
url = "https://launchpad.example.org"
user = "launchpad"
allow = [{ methods = ["GET"], paths = ["/issue*"] }]
"#;

#[test]
fn defaults_are_narrow() {
    let config = Config::parse(LEAST).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8090");
    assert_eq!(config.base_path(), "/tracker");
    assert!(!config.anonymous);
    assert_eq!(config.user_header, "x-remote-user");
    let trusts = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        config.trusted_proxies.iter().any(|network| network.contains(&address))
    };
    assert!(trusts("127.0.0.1") && trusts("::1") && !trusts("192.0.2.1") && !trusts("::2"));
    let issuer = &config.issuers[0];
    assert_eq!((&*issuer.login_path, issuer.max_sessions), ("/launchpad-auth", DEFAULT_SESSIONS));
    assert_eq!((issuer.session_lifetime, issuer.timeout), (DEFAULT_LIFETIME, DEFAULT_TIMEOUT));
    assert!(!issuer.allow_insecure_http);
}

fn error(change: impl FnOnce(String) -> String) -> String {
    let text = change(LEAST.to_owned());
    assert_ne!(text, LEAST);
    Config::parse(&text).unwrap_err().to_string()
}

#[test]
fn unusable_setting_is_named_without_its_value() {
    for (old, new, says) in [
        ("proxy = \"nginx\"", "proxy = \"hunter2\"", "`proxy`: give nginx, caddy, traefik or envoy"),
        ("https://bugs.example.org/", "https://a:hunter2@bugs/", "`base_url`: it must not carry a user name"),
        ("/tracker/", "//hunter2/", "`base_url`: its path cannot be used: it has an empty segment"),
        ("/tracker/", "/hunter2;x/", "`base_url`: its path cannot be used"),
        ("name = \"launchpad\"", "name = \"hunter 2\"", "`issuer.name`: give a name"),
        ("user = \"launchpad\"", "user = \"hunter2\\n\"", "`issuer launchpad, user`: give the name"),
        ("user = \"launchpad\"", "user = \" hunter2\"", "`issuer launchpad, user`: give the name"),
        ("user = \"launchpad\"", "user = \"\"", "`issuer launchpad, user`: give the name"),
        ("[\"GET\"]", "[\"get\"]", "a method must be written in upper case"),
        ("/issue*", "hunter2", "a path must begin with a slash"),
        ("paths = [\"/issue*\"]", "paths = []", "`issuer launchpad, allow`: say which"),
        ("allow =", "#allow =", "`issuer launchpad, allow`: say which"),
        ("proxy =", "prxy =", "line 4, column 1: unknown field `prxy`"),
        ("proxy = \"nginx\"", "proxy = hunter2", "line 4, column 9: this is not TOML"),
        ("proxy = \"nginx\"", "proxy = 5", "line 4, column 9: this is not TOML"),
        ("base_url", "#base_url", "missing field `base_url`"),
    ] {
        let error = error(|text| text.replace(old, new));
        assert!(error.contains(says), "{new}: {error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    for (line, says) in [
        ("listen = \"hunter2\"", "`listen`: an address is an IP address and a port"),
        ("socket_mode = \"666\"", "`socket_mode`: give \"600\" or \"660\""),
        ("trusted_proxies = [\"hunter2\"]", "`trusted_proxies`: give addresses"),
        ("user_header = \"X_Remote_User\"", "`user_header`: give the name of a header"),
        ("user_header = \"Cookie\"", "`user_header`: give the name of a header"),
    ] {
        let error = error(|text| format!("{line}\n{text}"));
        assert!(error.contains(says), "{line}: {error}");
    }
    for (line, says) in [
        ("session_lifetime = \"hunter2\"", "`issuer launchpad, session_lifetime`: give a time"),
        ("session_lifetime = \"721h\"", "at most 720h"),
        ("session_lifetime = \"0s\"", "at least 1s"),
        ("timeout = \"61s\"", "`issuer launchpad, timeout`: give a time"),
        ("max_sessions = 0", "`issuer launchpad, max_sessions`: give a number"),
        ("login_path = \"launchpad-auth\"", "`issuer launchpad, login_path`: give a path"),
        ("login_path = \"/a/\"", "`issuer launchpad, login_path`: give a path"),
        ("login_path = \"/../a\"", "`issuer launchpad, login_path`: give a path"),
        ("login_path = \"/auth/x\"", "the gate itself uses /auth"),
    ] {
        let error = error(|text| format!("{text}{line}\n"));
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn overlapping_issuers_are_rejected() {
    let second = |name: &str, path: &str| {
        format!(
            "{LEAST}\n[[issuer]]\nname = \"{name}\"\nurl = \"https://other.example.org\"\nuser = \"other\"\n\
             login_path = \"{path}\"\nallow = [{{ methods = [\"GET\"], paths = [\"/**\"] }}]\n"
        )
    };
    assert!(Config::parse(&second("other", "/other-auth")).is_ok());
    assert!(Config::parse(&second("other", "/launchpad-auth2")).is_ok());
    for (name, path) in
        [("other", "/launchpad-auth"), ("other", "/launchpad-auth/other"), ("launchpad", "/other-auth")]
    {
        assert!(Config::parse(&second(name, path)).is_err(), "{name} {path}");
    }
    let none = LEAST.split("[[issuer]]").next().unwrap();
    assert!(Config::parse(none).unwrap_err().to_string().contains("add a table [[issuer]]"));
}
