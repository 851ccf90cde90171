//! Cookie jars: what is in one, what is overwritten, and that curl takes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use crate::support::{Stub, answer, run};
use countersign_login::{Cookie, CookieJarError, Session, Tracker, check_cookie_jar};
use tempfile::TempDir;

fn cookie(name: &str) -> Cookie {
    Cookie {
        name: name.to_owned(),
        value: "5e551on".to_owned(),
        domain: "trac.example.org".to_owned(),
        host_only: true,
        path: "/".to_owned(),
        expires: None,
        secure: false,
        http_only: false,
        same_site: None,
    }
}

fn session(cookies: Vec<Cookie>) -> Session {
    Session {
        tracker: Tracker::Trac,
        url: "https://trac.example.org/p".parse().unwrap(),
        user: Some("launchpad".to_owned()),
        cookies,
    }
}

#[test]
fn netscape_jar_has_every_field() {
    let full = Cookie {
        domain: "example.org".to_owned(),
        host_only: false,
        path: "/p".to_owned(),
        expires: Some("2026-11-23T22:00:00Z".parse().unwrap()),
        secure: true,
        http_only: true,
        ..cookie("trac_auth")
    };
    let here = Cookie { domain: "[::1]".to_owned(), ..cookie("b") };
    let jar = session(vec![full, cookie("a"), here]).cookie_jar();
    let lines: Vec<&str> = jar.lines().collect();
    assert_eq!(lines[0], "# Netscape HTTP Cookie File");
    assert_eq!(lines[3], "#HttpOnly_.example.org\tTRUE\t/p\tTRUE\t1795471200\ttrac_auth\t5e551on");
    assert_eq!(lines[4], "trac.example.org\tFALSE\t/\tFALSE\t0\ta\t5e551on");
    assert_eq!(lines[5], "::1\tFALSE\t/\tFALSE\t0\tb\t5e551on");
    assert_eq!(lines.len(), 6);
}

#[test]
fn json_has_every_attribute() {
    let json = serde_json::to_value(session(vec![cookie("trac_auth")])).unwrap();
    let expected = serde_json::json!({
        "tracker": "trac",
        "url": "https://trac.example.org/p",
        "user": "launchpad",
        "cookies": [{
            "name": "trac_auth", "value": "5e551on", "domain": "trac.example.org", "host_only": true, "path": "/",
            "expires": null, "secure": false, "http_only": false, "same_site": null,
        }],
    });
    assert_eq!(json, expected);
}

#[test]
fn cookie_jar_is_private_and_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("cookies.txt");
    for name in ["first", "second"] {
        session(vec![cookie(name)]).write_cookie_jar(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Also if the one before was open to all.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\tsecond\t") && !text.contains("\tfirst\t"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn file_that_is_no_jar_is_kept() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("thesis.txt"), "# Netscape HTTP Cookie Filet\n").unwrap();
    fs::write(at("binary"), [0xff; 100]).unwrap();
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("jar"), "# Netscape HTTP Cookie File\n").unwrap();
    symlink(at("jar"), at("link")).unwrap();
    for name in ["thesis.txt", "binary", "directory", "link"] {
        let error = session(vec![cookie("a")]).write_cookie_jar(&at(name)).unwrap_err();
        assert!(matches!(error, CookieJarError::NotACookieJar(_)), "{name}: {error}");
    }
    assert_eq!(fs::read(at("thesis.txt")).unwrap(), b"# Netscape HTTP Cookie Filet\n");
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    for path in [at("missing/jar"), at("jar/jar")] {
        let error = check_cookie_jar(&path).unwrap_err();
        assert!(matches!(error, CookieJarError::Io { .. }), "{error}");
    }
}

#[test]
fn jars_of_other_programs_are_recognized() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("jar");
    for start in
        ["", "# Netscape HTTP Cookie File", "# Netscape HTTP Cookie File\r\n", "# HTTP Cookie File\n\n"]
    {
        fs::write(&path, start).unwrap();
        check_cookie_jar(&path).unwrap_or_else(|error| panic!("{start:?}: {error}"));
    }
}

/// The program that the jar is written for; the test fails where it is not installed.
#[tokio::test]
async fn curl_reads_the_jar() {
    let stub = Stub::start(|request| {
        if request.contains("/check ") {
            answer("401 Unauthorized", &[], "")
        } else if request.contains("/launchpad-auth/") {
            let session = "Set-Cookie: trac_auth=5e551on; HttpOnly; Path=/project; Max-Age=2000000000";
            answer("200 OK", &[session, "Set-Cookie: other=x; Path=/elsewhere"], "")
        } else {
            answer("200 OK", &[], "")
        }
    })
    .await;
    let session = run(&stub.login(Tracker::Trac)).await.unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("cookies.txt");
    session.write_cookie_jar(&path).unwrap();

    let curl = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cookie"])
        .arg(&path)
        .arg(format!("{}/wiki", stub.url()))
        .stdin(Stdio::null())
        .status()
        .await;
    assert!(curl.expect("install curl").success());
    let requests = stub.requests();
    let asked = requests.last().unwrap();
    assert!(
        asked.starts_with("GET /project/wiki ") && asked.contains("Cookie: trac_auth=5e551on\r\n"),
        "{asked}"
    );
}
