use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use countersign_core::OsEntropy;
use tempfile::TempDir;

use super::*;
use crate::Scope;

fn rule(name: &str) -> CallerRule {
    CallerRule {
        name: name.parse().unwrap(),
        secrets: Vec::new(),
        certificates: Vec::new(),
        jwt: None,
        scopes: vec![Scope::Issue, Scope::Look],
        audiences: Some(vec!["https://bugs.example.org/".parse().unwrap()]),
        max_lifetime: Some(std::time::Duration::from_secs(90)),
        tokens_per_minute: std::num::NonZeroU32::new(6),
        tell_trackers: true,
    }
}

fn place() -> (TempDir, CallersFile) {
    let directory = TempDir::new().unwrap();
    let file = CallersFile::new(directory.path().join("callers.toml"));
    (directory, file)
}

fn hash(secret: &str) -> SecretHash {
    SecretHash::of(secret.as_bytes())
}

#[test]
fn added_caller_round_trips() {
    let (_directory, file) = place();
    let secret = file.add(&rule("worker-eu"), &OsEntropy).unwrap().unwrap();
    let other = file.add(&rule("worker-us"), &OsEntropy).unwrap().unwrap();
    let expected = |name, secret: &str| CallerRule { secrets: vec![hash(secret)], ..rule(name) };
    assert_eq!(file.callers().unwrap(), [expected("worker-eu", &secret), expected("worker-us", &other)]);
    let text = fs::read_to_string(file.path()).unwrap();
    assert!(!text.contains(&**secret) && text.starts_with("# The callers of the private API."), "{text}");
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let error = file.add(&rule("worker-eu"), &OsEntropy).unwrap_err().to_string();
    assert!(error.contains("`worker-eu` is there twice") && error.contains("nothing was changed"), "{error}");
    assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
    assert_eq!(fs::read_dir(file.path().parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn caller_with_a_certificate_gets_a_secret_only_when_asked_for() {
    let (_directory, file) = place();
    let certificates: Vec<crate::CertificateName> = vec!["dns:Worker.example.org".parse().unwrap()];
    let caller = CallerRule { certificates: certificates.clone(), ..rule("worker") };
    assert_eq!(file.add(&caller, &OsEntropy).unwrap(), None);
    assert_eq!(file.callers().unwrap(), [caller]);
    let secret = file.rotate(&"worker".parse().unwrap(), &OsEntropy).unwrap();
    let found = &file.callers().unwrap()[0];
    assert_eq!((&found.secrets, &found.certificates), (&vec![hash(&secret)], &certificates));
}

#[test]
fn jwt_caller_round_trips() {
    let (_directory, file) = place();
    let jwt = JwtRule {
        issuer: "https://issuer.example/".parse().unwrap(),
        audience: "countersign".to_owned(),
        subject: "a \"quoted\" subject".to_owned(),
        claims: [("ref", "main"), ("repository_id", "7")]
            .map(|(name, text)| (name.into(), text.into()))
            .into(),
        jwks_url: Some("https://issuer.example/jwks?v=1".parse().unwrap()),
        jwks_file: None,
        ca_file: Some("/etc/ca.crt".into()),
        bearer_file: Some("/run/token".into()),
    };
    let caller = CallerRule { jwt: Some(jwt.clone()), ..rule("worker") };
    assert_eq!(file.add(&caller, &OsEntropy).unwrap(), None);
    assert_eq!(file.callers().unwrap(), std::slice::from_ref(&caller));
    let cut = fs::read_to_string(file.path()).unwrap();
    for (end, _) in cut.match_indices([',', '\n', '}']) {
        let callers = parse(&cut[..end]).unwrap_or_default();
        assert!(callers.iter().all(|found| *found == caller), "{}", &cut[..end]);
    }
    let same = CallerRule { name: "other".parse().unwrap(), ..caller };
    assert!(file.add(&same, &OsEntropy).unwrap_err().to_string().contains("one token could stand for both"));
    let file_of_keys =
        JwtRule { jwks_url: None, ca_file: None, bearer_file: None, jwks_file: Some("/k".into()), ..jwt };
    let (_directory, file) = place();
    let caller = CallerRule { jwt: Some(file_of_keys), ..rule("worker") };
    file.add(&caller, &OsEntropy).unwrap();
    assert_eq!(file.callers().unwrap(), [caller]);
}

#[test]
fn caller_with_a_jwt_gets_no_secret() {
    let (_directory, file) = place();
    let jwt = JwtRule {
        issuer: "https://issuer.example/".parse().unwrap(),
        audience: "countersign".to_owned(),
        subject: "worker".to_owned(),
        claims: std::collections::BTreeMap::new(),
        jwks_url: None,
        jwks_file: None,
        ca_file: None,
        bearer_file: None,
    };
    let caller = CallerRule { jwt: Some(jwt.clone()), ..rule("worker") };
    file.add(&caller, &OsEntropy).unwrap();
    let error = file.rotate(&caller.name, &OsEntropy).unwrap_err().to_string();
    assert!(error.contains("`worker` has no secret: it shows a JWT"), "{error}");
    assert_eq!(file.callers().unwrap(), [caller]);
    let no_text = PathBuf::from(std::ffi::OsString::from_vec(b"/keys-\xff".to_vec()));
    let jwt = JwtRule { jwks_file: Some(no_text), ..jwt };
    let error =
        file.add(&CallerRule { jwt: Some(jwt), ..rule("other") }, &OsEntropy).unwrap_err().to_string();
    assert!(error.contains("`jwks_file` is a path that is not UTF-8"), "{error}");
}

#[test]
fn two_secrets_are_valid_during_a_rotation() {
    let (_directory, file) = place();
    let (worker, other): (CallerName, CallerName) = ("worker".parse().unwrap(), "other".parse().unwrap());
    let first = file.add(&rule("worker"), &OsEntropy).unwrap().unwrap();
    let secrets = || file.callers().unwrap()[0].secrets.clone();
    assert!(matches!(file.finish_rotation(&worker), Err(CallersFileError::NoRotation(_))));
    let second = file.rotate(&worker, &OsEntropy).unwrap();
    assert_eq!(secrets(), [hash(&first), hash(&second)]);
    assert!(matches!(file.rotate(&worker, &OsEntropy), Err(CallersFileError::RotationUnderWay(_))));
    assert_eq!(secrets(), [hash(&first), hash(&second)]);
    file.finish_rotation(&worker).unwrap();
    assert_eq!(secrets(), [hash(&second)]);
    for missing in
        [file.rotate(&other, &OsEntropy).map(drop), file.finish_rotation(&other), file.remove(&other)]
    {
        assert!(matches!(missing, Err(CallersFileError::NoSuchCaller { .. })), "{missing:?}");
    }
    file.remove(&worker).unwrap();
    assert_eq!(file.callers().unwrap(), []);
}

#[test]
fn ordinary_text_is_kept() {
    let (_directory, file) = place();
    let by_hand = format!(
        "# ours\n[[caller]]\nscopes = [\"look\"] # to see\nname = 'a'\nsecrets = [\n  \"{}\", # old\n]\n",
        hash("one")
    );
    fs::write(file.path(), &by_hand).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
    file.add(&rule("worker"), &OsEntropy).unwrap();
    file.rotate(&"a".parse().unwrap(), &OsEntropy).unwrap();
    file.remove(&"worker".parse().unwrap()).unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    for kept in ["# ours\n", "scopes = [\"look\"] # to see", "name = 'a'", "# old"] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    assert_eq!(file.callers().unwrap()[0].secrets.len(), 2);
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn broken_file_is_not_overwritten() {
    let (_directory, file) = place();
    let name: CallerName = "a".parse().unwrap();
    assert!(file.rotate(&name, &OsEntropy).unwrap_err().to_string().contains("cannot be read"));
    // The last one is a callers file, but not one that can be added to.
    let list = format!("caller = [{{ name = 'a', scopes = ['look'], secrets = ['{}'] }}]\n", hash("hUnter2"));
    for text in ["hUnter2", "caller = 5\n", "[[caller]]\nname = 'b'\nsecrets = 'hUnter2'\n", &list] {
        fs::write(file.path(), text).unwrap();
        for failed in [
            file.add(&rule("b"), &OsEntropy).map(drop),
            file.rotate(&name, &OsEntropy).map(drop),
            file.remove(&name),
        ] {
            let error = failed.unwrap_err().to_string();
            assert!(!error.contains("hUnter2"), "{error}");
        }
        assert_eq!(file.callers().is_ok(), text == list);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
    }
}

#[test]
fn truncated_file_grants_no_caller_without_limits() {
    let (_directory, file) = place();
    file.add(&rule("worker"), &OsEntropy).unwrap();
    let whole = fs::read_to_string(file.path()).unwrap();
    for (end, _) in whole.match_indices('\n') {
        let callers = parse(&whole[..end]).unwrap_or_default();
        assert!(callers.iter().all(|caller| caller.audiences.is_some()), "{}", &whole[..end]);
    }
}
