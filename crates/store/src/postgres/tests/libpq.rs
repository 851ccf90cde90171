//! What libpq itself does, beside what is done here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use countersign_core::{OsEntropy, SystemClock};
use countersign_test_postgres::{new_name, programs, run, shared};

use super::super::{LibpqEnvironment, PostgresUrl, inspect};
use super::options;
use crate::error::OpenError;

/// Whether `psql` gets in with this password file.
fn psql_gets_in(url: &str, file: &Path) -> bool {
    let mut psql = Command::new(programs().join("psql"));
    psql.args(["--no-password", "--no-psqlrc", "--command", "SELECT 1", url]).env_clear();
    psql.env("PGPASSFILE", file).output().unwrap().status.success()
}

async fn store_gets_in(url: &str, file: &Path) -> bool {
    let libpq = LibpqEnvironment::new([("PGPASSFILE".into(), file.into())], None);
    let url = PostgresUrl::read(url, &libpq).unwrap();
    match inspect(&url, &options(&new_name()), Arc::new(SystemClock), Arc::new(OsEntropy)).await {
        Err(OpenError::NoSchema { .. }) => true,
        Err(OpenError::Unusable(reason)) => {
            assert!(reason.contains("password"), "{reason}");
            false
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn password_file_is_read_like_psql() {
    let shared = shared();
    let place = shared.split_once('@').unwrap().1;
    let (address, database) = place.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let directory = run(&shared, "SHOW unix_socket_directories").await.remove(0);
    let socket = format!("{}:{port}", directory.replace('/', "%2F"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwords");
    let mut got_in = [0, 0];
    // A name with a `:` in it, and a password with what has to be escaped.
    for (name, password) in [(new_name(), "secret"), (format!("{}:b", new_name()), "s:e\\cret")] {
        run(&shared, &format!("CREATE ROLE \"{name}\" LOGIN PASSWORD $${password}$$")).await;
        let user = name.replace(':', "%3A");
        let escaped = name.replace(':', "\\:");
        let good = password.replace('\\', "\\\\").replace(':', "\\:");
        let any = format!("*:*:*:*:{good}\n");
        for (lines, mode, address) in [
            (any.clone(), 0o600, address),
            (any.clone(), 0o400, address),
            (any.clone(), 0o640, address),
            (any.clone(), 0o604, address),
            (format!("{host}:{port}:{database}:{escaped}:{good}"), 0o600, address),
            (format!("{host}:{port}:{database}:{escaped}:{good}\r\n"), 0o600, address),
            (format!("*:*:*:{name}:{good}\n"), 0o600, address),
            (format!("#{any}"), 0o600, address),
            (format!("# comment\n\n{host}:1:*:*:no\n*:*:other:*:no\n{any}"), 0o600, address),
            (format!("{host}:*:*:*:no\n{any}"), 0o600, address),
            (format!("*:*:*:*:\n{any}"), 0o600, address),
            (format!("{host}:{port}:{database}:{escaped}\n{any}"), 0o600, address),
            (format!("*:*:*:*:{good}:more\n"), 0o600, address),
            (format!("*:*:*:*:{good}\\\n"), 0o600, address),
            (format!("*:*:*:*:{good} \n"), 0o600, address),
            (format!("*:*:*:*:{password}\n"), 0o600, address),
            (format!(" {any}"), 0o600, address),
            (format!("*{any}"), 0o600, address),
            (format!("*:*:post*:*:{good}\n"), 0o600, address),
            (format!("*:*:\\{database}:*:{good}\n"), 0o600, address),
            (format!("{host}x:*:*:*:{good}\n"), 0o600, address),
            (format!("{}:*:*:*:{good}\n", directory.replace(':', "\\:")), 0o600, &socket),
            (format!("localhost:*:*:*:{good}\n"), 0o600, &socket),
            (String::new(), 0o600, address),
        ] {
            // A file that its owner cannot write is replaced.
            let _ = fs::remove_file(&file);
            fs::write(&file, &lines).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let url = format!("postgres://{user}@{address}/{database}");
            let expected = psql_gets_in(&url, &file);
            assert_eq!(store_gets_in(&url, &file).await, expected, "{lines:?} with mode {mode:o} for {url}");
            got_in[usize::from(expected)] += 1;
        }
        run(&shared, &format!("DROP ROLE \"{name}\"")).await;
    }
    assert!(got_in[0] > 10 && got_in[1] > 10, "{got_in:?}");
}
