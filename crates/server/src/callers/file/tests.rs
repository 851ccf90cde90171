use countersign_core::{OsEntropy, SequenceEntropy};
use proptest::prelude::*;

use super::*;

fn hash(secret: &str) -> String {
    SecretHash::of(secret.as_bytes()).to_string()
}

/// A caller with so many lines more.
fn caller(name: &str, secret: &str, more: &str) -> String {
    format!("[[caller]]\nname = \"{name}\"\nsecrets = [\"{}\"]\nscopes = [\"issue\"]\n{more}\n", hash(secret))
}

#[test]
fn every_callers_field_is_parsed() {
    let more = "audiences = ['https://Bugs.example.org', 'https://trac.example.org/p/*']\nmax_lifetime = '90s'\n\
                    tokens_per_minute = 6\ntell_trackers = true";
    let callers = parse(&caller("worker-eu", "one", more)).unwrap();
    let [worker] = &*callers else { panic!("{callers:?}") };
    assert_eq!(worker.name.as_str(), "worker-eu");
    assert_eq!(worker.secrets, [SecretHash::of(b"one")]);
    assert_eq!(worker.scopes, [Scope::Issue]);
    let audiences: Vec<_> = worker.audiences.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(audiences, ["https://bugs.example.org/", "https://trac.example.org/p/*"]);
    assert_eq!((worker.max_lifetime, worker.tell_trackers), (Some(Duration::from_secs(90)), true));
    assert_eq!(worker.tokens_per_minute.map(NonZeroU32::get), Some(6));
    assert_eq!(parse("# nobody yet\n"), Ok(vec![]));
    assert_eq!(format!("{:?}", worker.secrets), "[SecretHash(redacted)]");
}

#[test]
fn caller_with_a_jwt_needs_no_secret() {
    let text = "[[caller]]\nname = 'a'\nscopes = ['look']\n[caller.jwt]\nissuer = 'https://Issuer.example:443/x/'\n\
                    audience = 'countersign'\nsubject = 'system:serviceaccount:a:b'\nclaims = { ref = 'main' }\n\
                    jwks_url = 'https://10.0.0.1/openid/v1/jwks'\nca_file = '/ca'\nbearer_file = '/token'\n";
    let callers = parse(text).unwrap();
    let jwt = callers[0].jwt.as_ref().unwrap();
    assert_eq!(jwt.issuer.as_str(), "https://Issuer.example:443/x/", "as the token has it");
    assert_eq!((jwt.audience.as_str(), jwt.subject.as_str()), ("countersign", "system:serviceaccount:a:b"));
    assert_eq!(jwt.claims.get("ref").map(String::as_str), Some("main"));
    // Claims that differ make two callers of one subject.
    let other = text.replace("'a'", "'b'").replace("main", "next");
    assert_eq!(parse(&(text.to_owned() + &other)).unwrap().len(), 2);
    // On this machine, an issuer needs no TLS.
    assert!(parse(&text.replace("https://Issuer.example:443/x/", "http://127.0.0.1:8/")).is_ok());
}

#[test]
fn jwt_mistake_is_reported_with_its_line() {
    let jwt = |more: &str| {
        format!(
            "[[caller]]\nname = 'a'\nscopes = ['look']\n[caller.jwt]\n{more}audience = 'x'\nsubject = 's'\n"
        )
    };
    let two_jwts = |issuer: &str, more: &str| {
        let one = jwt(&format!("issuer = '{issuer}'\n"));
        one.clone() + &one.replace("'a'", "'b'") + more
    };
    let many_issuers: String = (0..=MAX_ISSUERS)
        .map(|nth| jwt(&format!("issuer = 'https://{nth}.example'\n")).replace("'a'", &format!("'a{nth}'")))
        .collect();
    for (text, says) in [
        (
            jwt("issuer = 'http://issuer.example'\n"),
            "line 5: `issuer` is the URL that the JWT has as `iss`: https",
        ),
        (jwt("issuer = 'https://u:hUnter2@issuer.example'\n"), "line 5: `issuer` is the URL"),
        (jwt("issuer = 'https://issuer.example?a=b'\n"), "line 5: `issuer` is the URL"),
        (jwt("issuer = 'kubernetes/serviceaccount'\n"), "line 5: `issuer` is the URL"),
        (
            jwt("issuer = 'https://a.example'\njwks_url = 'http://a.example/'\n"),
            "line 6: `jwks_url` is where",
        ),
        (jwt("issuer = 'https://a.example'\nsecret = 'hUnter2'\n"), "line 6: this cannot be used"),
        (jwt("issuer = 'https://a.example'\nclaims = { ref = 7 }\n"), "line 6: `claims` is a table"),
        (
            jwt("issuer = 'https://a.example'\nclaims = { exp = '7' }\n"),
            "the caller `a` has a `jwt` whose `claims`",
        ),
        (
            jwt("issuer = 'https://a.example'\njwks_file = 'f'\nca_file = 'f'\n"),
            "the caller `a` has a `jwt` with `jwks_file` and",
        ),
        (
            jwt("issuer = 'https://a.example'\nbearer_file = 'f'\n"),
            "the caller `a` has a `jwt` with `bearer_file`",
        ),
        (jwt("issuer = 'https://a.example'\n").replace("subject = 's'", ""), "line 4: this cannot be used"),
        (
            jwt("issuer = 'https://a.example'\n").replace("'s'", "''"),
            "the caller `a` has a `jwt` with an empty",
        ),
        (
            two_jwts("https://a.example", "claims = { ref = 'x' }"),
            "the caller `b` has a `jwt` that is another caller's",
        ),
        (
            two_jwts("https://a.example", "jwks_url = 'https://a.example/'").replace("'s'\n[[", "'t'\n[["),
            "the caller `b` has the keys of its issuer from elsewhere",
        ),
        (many_issuers, "there are more than 16 issuers of JWTs"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(says), "{text}\n{error}");
    }
}

#[test]
fn mistake_is_reported_with_its_line() {
    let long: String =
        (0..=MAX_CALLERS).map(|nth| caller(&format!("c{nth}"), &nth.to_string(), "")).collect();
    let three = format!(
        "[[caller]]\nname = 'a'\nscopes = ['look']\nsecrets = ['{}', '{}', '{}']",
        hash("1"),
        hash("2"),
        hash("3")
    );
    let twice = format!("[[caller]]\nname = 'a'\nscopes = ['look']\nsecrets = ['{0}', '{0}']", hash("1"));
    for (text, says) in [
        (
            caller("a", "1", "scopes = ['look']"),
            "line 5: `scopes` is a list of issue, look, revoke, events and admin, once",
        ),
        (
            caller("a", "1", "audiences = ['https://*.example.org/']"),
            "line 5: `audiences` is a list of trackers' base URLs",
        ),
        (caller("a", "1", "audiences = 'https://a.example/'"), "line 5: `audiences` is a list"),
        (caller("a", "1", "audiences = []"), "the caller `a` has an empty list of audiences"),
        (caller("a", "1", "max_lifetime = 300"), "line 5: `max_lifetime` is the longest"),
        (caller("a", "1", "max_lifetime = '25h'"), "line 5: `max_lifetime` is the longest"),
        (caller("a", "1", "max_lifetime = '1ms'"), "line 5: `max_lifetime` is the longest"),
        (caller("a", "1", "max_lifetime = '-5m'"), "line 5: `max_lifetime` is the longest"),
        (caller("a", "1", "tokens_per_minute = 0"), "line 5: `tokens_per_minute` is how many"),
        (
            caller("a", "1", "colour = 'red'"),
            "line 5: this cannot be used; each caller begins with [[caller]]",
        ),
        (caller("Worker", "1", ""), "line 2: `name` is the caller's name"),
        (caller("default", "1", ""), "line 2: `name` is the caller's name"),
        (caller("a", "1", "") + &caller("a", "2", ""), "the caller `a` is there twice"),
        (caller("a", "1", "") + &caller("b", "1", ""), "the caller `b` has a secret that is there twice"),
        (
            caller("a", "1", "certificates = ['dns:a']") + &caller("b", "2", "certificates = ['dns:A']"),
            "the caller `b` has a certificate's name that is there twice",
        ),
        (caller("a", "1", "certificates = ['worker']"), "line 5: `certificates` is a list of names"),
        (
            caller("a", "1", "certificates = ['dns:*.example.org']"),
            "line 5: `certificates` is a list of names",
        ),
        (caller("a", "", ""), "the caller `a` has the hash of no secret at all"),
        (
            caller("a", "1", &format!("certificates = {:?}", vec!["dns:a"; MAX_CERTIFICATES + 1])),
            "the caller `a` has more than 16 names",
        ),
        (twice, "the caller `a` has a secret that is there twice"),
        (three, "the caller `a` has more than two secrets"),
        (
            "[[caller]]\nname = 'a'\nscopes = ['look']".to_owned(),
            "the caller `a` has no secret and no certificate",
        ),
        ("[[caller]]\nname = 'a'\nscopes = ['all']".to_owned(), "line 3: `scopes` is a list"),
        (format!("[[caller]]\nname = 'a'\nsecrets = ['{}']", hash("1")), "the caller `a` has no scopes"),
        ("[[caller]]\nname = 'a'\nsecrets = ['plain']".to_owned(), "line 3: `secrets` is a list of hashes"),
        ("[[caller]]\nscopes = ['look']".to_owned(), "line 1: this cannot be used"),
        ("[caller]\nname = 'a'".to_owned(), "line 1: this cannot be used"),
        ("worker-eu: issue".to_owned(), "line 1: this cannot be used"),
        (long, "there are more than 256 callers"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(says), "{text}\n{error}");
    }
}

#[test]
fn secret_has_256_random_bits() {
    let one = new_secret(&OsEntropy).unwrap();
    assert_eq!((one.len(), one.starts_with("csc1")), (68, true));
    assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_ne!(*one, *new_secret(&OsEntropy).unwrap());
    let counted = new_secret(&SequenceEntropy::default()).unwrap();
    assert_eq!(HEXLOWER.decode(&counted.as_bytes()[4..]).unwrap().len(), SECRET_BYTES);
    assert!(!countersign_core::seal::seems_to_have_token(&one), "it is not taken for a token");
}

#[test]
fn malformed_hashes_are_rejected() {
    let of = hash("one");
    assert_eq!(SecretHash::read(&of), Some(SecretHash::of(b"one")));
    for text in ["", "sha256:", "one", &of[..of.len() - 2], &format!("{of}00"), &of.to_uppercase(), &of[7..]]
    {
        assert_eq!(SecretHash::read(text), None, "{text}");
    }
    assert_ne!(SecretHash::of(b"one"), SecretHash::of(b"two"));
}

proptest! {
    /// A secret in each place where somebody could paste it.
    #[test]
    fn no_error_quotes_a_value(key in 0_usize..KEYS.len(), form in 0_usize..8, noise in "[ \"'=#\\[\\]{}\\\\,.:\n-]{0,3}") {
        const SECRET: &str = "hUnter2sEcret";
        let key = KEYS[key].0;
        let forms = [
            format!("{key} = \"{SECRET}\""),
            format!("{key} = [\"{SECRET}\"]"),
            format!("{key} = {SECRET}"),
            format!("{key} = \"{SECRET}"),
            format!("{key}: {SECRET}"),
            format!("{SECRET} = 1"),
            format!("{key} = {{ {SECRET} = '{SECRET}' }}"),
            format!("{key} = [\n'{SECRET}',\n]"),
        ];
        let text = format!("[[caller]]\n{noise}{}\nname = 'a'\nscopes = ['look']\n", forms[form]);
        if let Err(error) = parse(&text) {
            let error = error.to_string();
            prop_assert!(!error.contains("hUnter2") && !error.contains("sEcret"), "{text}\n{error}");
        }
    }
}
