//! What keeps a server from starting, and what it says then.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fixture::{ANY_PORTS, DATA, Place, Server};
use crate::http;
use crate::process::Process;

/// The sentence with which a server does not start: the last line, whatever was logged before.
fn refusal(place: &Place, arguments: &[&str], code: i32) -> String {
    let said = Process::start(&mut place.serve_command(arguments, &[]), "").ended().refused(code);
    let last = said.lines().last().unwrap_or_default();
    last.strip_prefix("countersign: ").unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn data_directory_has_one_server() {
    let place = Place::new();
    let server = place.serve();
    let says = refusal(&place, &[], 1);
    assert!(says.contains(&format!("is in use by process {}", server.process.id())), "{says}");
    assert!(says.contains(DATA) && says.contains("--data-dir"), "{says}");
    assert_eq!(server.status(&server.token()), 200, "the first one does not mind");
    server.stop();
    place.serve();
}

#[test]
fn taken_port_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--public-listen", "--private-listen"] {
        let place = Place::new();
        let says = refusal(&place, &[flag, &address], 1);
        assert!(says.contains(&format!("cannot listen on {address}")), "{says}");
        assert!(says.contains(&format!("choose another with {flag}")), "{says}");
    }
}

/// Otherwise it says that it is ready, takes no connection, and loses its events.
#[test]
fn too_few_descriptors_are_named_with_the_remedy() {
    let place = Place::new();
    let serve = place.serve_command(&[], &[]);
    let says = Process::start(&mut under_limit(&serve, "ulimit -n 40"), "").ended().refused(1);
    assert!(
        says.contains("may open 40 files, and needs 56 at least") && says.contains("ulimit -Hn"),
        "{says}"
    );
    Server::start(&mut under_limit(&serve, "ulimit -n 56")).stop();
}

/// The same command, run by a shell that sets a limit first.
fn under_limit(command: &Command, limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]).arg(command.get_program());
    shell.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn unusable_address_is_named_with_its_remedy() {
    let place = Place::new();
    let socket = format!("unix:{}", place.path("missing/socket").display());
    for (flag, address, remedy) in [
        ("--public-listen", "192.0.2.10:8080", "no network interface of this machine has this address"),
        ("--private-listen", &socket, "make the directory"),
    ] {
        let says = refusal(&place, &[flag, address], 1);
        assert!(says.contains(&format!("cannot listen on {address}")) && says.contains(remedy), "{says}");
        assert!(!says.contains("stop the program"), "{says}");
    }
}

#[test]
fn key_ring_readable_by_others_is_refused() {
    let place = Place::new();
    place.serve().stop();
    let ring = format!("{DATA}/key-ring.toml");
    for mode in [0o644, 0o642, 0o604, 0o666] {
        place.set_mode(&ring, mode);
        let says = refusal(&place, &[], 1);
        assert!(says.contains(&format!("mode 0{mode:o}")), "{says}");
        assert!(says.contains(&format!("run `chmod 600 {ring}`")), "{says}");
        let says = place.refusal(&["keys", "list", "--offline"], 1);
        assert!(says.contains("chmod 600"), "{says}");
    }
    place.set_mode(&ring, 0o400);
    let server = place.serve();
    assert_eq!(server.status(&server.token()), 200);
}

#[test]
fn damaged_key_ring_is_named_but_not_quoted() {
    let place = Place::new();
    place.serve().stop();
    let ring = format!("{DATA}/key-ring.toml");
    let whole = place.read(&ring);
    let (before, secret) = whole.trim_end().split_once("secret = \"").unwrap();
    let secret = secret.trim_end_matches('"');
    for (damaged, reason) in [
        (String::new(), "version"),
        ("version = 1\n".to_owned(), "it holds no key"),
        (whole.replace("version = 1", "version = 7"), "version 7"),
        (format!("{before}secret = \"{}\"\n", &secret[..40]), "secret"),
        (format!("{before}secret = \"{secret}"), "line"),
        (format!("{before}secret = {secret}\n"), "line"),
        (whole.replace("secret =", "secretive ="), "secretive"),
        (whole.replace(['=', '"'], ""), "line"),
    ] {
        place.write(&ring, &damaged);
        let says = refusal(&place, &[], 1);
        assert!(says.starts_with(&format!("the key ring {ring}: ")) && says.contains(reason), "{says}");
        assert!(!says.contains(&secret[..12]), "{says}");
        assert_eq!(place.read(&ring), damaged, "it is not replaced");
    }
    place.write(&ring, &whole);
    place.serve();
}

#[test]
fn unusable_store_is_named() {
    let place = Place::new();
    place.write("text", &"no database, and long enough to be one.\n".repeat(100));
    for (store, code, says) in [
        ("redis:", 2, "begins with none of the names that there are"),
        ("postgres://anna:hunter2@db:port/tokens", 2, "the store's URL cannot be understood"),
        ("tokens.db", 2, "a store is named by a URL such as"),
        ("sqlite:text", 1, "text is damaged or not a database"),
        ("sqlite:text/tokens.db", 1, "text cannot be made"),
    ] {
        let said = refusal(&place, &["--store", store], code);
        assert!(said.contains(says) && !said.contains("hunter2"), "{store}: {said}");
    }
    place.write("file", "");
    let said = refusal(&place, &["--data-dir", "file/data"], 1);
    assert!(said.contains("cannot make the data directory file/data"), "{said}");
    symlink("nowhere", place.path("dangling")).unwrap();
    let said = refusal(&place, &["--data-dir", "dangling"], 1);
    assert!(said.contains("dangling"), "{said}");
}

#[test]
fn private_api_stays_private() {
    let place = Place::new();
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0", "192.0.2.1:0"] {
        let says = refusal(&place, &["--private-listen", address], 1);
        assert!(says.contains("--private-bearer-file"), "{says}");
        assert!(says.contains("anybody could issue tokens") && says.contains(address), "{says}");
    }
}

#[test]
fn secret_allows_any_private_address() {
    let place = Place::new();
    place.write("bearer", "s3cret-0f9e8d7c6b5a4321\n");
    let server = place.serve_with(&["--private-bearer-file", "bearer", "--private-listen", "0.0.0.0:0"], &[]);
    let (_, port) = server.private.rsplit_once(':').unwrap();
    let here = format!("http://127.0.0.1:{port}");
    assert_eq!(http::post(&format!("{here}/v1/tokens"), &[], "").status, 401);
    let shown = [("authorization", "Bearer s3cret-0f9e8d7c6b5a4321")];
    assert_eq!(http::post(&format!("{here}/v1/tokens"), &shown, "").status, 201);
    server.process.err.with("takes its secret in plain HTTP from other machines");
}

#[test]
fn bearer_file_without_a_secret_is_refused() {
    let place = Place::new();
    place.write("blank", " \n");
    place.write("words", "two words\n");
    place.write("short", "letmein\n");
    place.write("guessed", "passwordpasswordpassword\n");
    for (file, says) in [
        ("./missing", "cannot read the bearer file ./missing: No such file"),
        ("hunter2", "cannot read the bearer file whose name was given"),
        ("blank", "the bearer file blank must hold one line"),
        ("words", "the bearer file words must hold one line"),
        ("short", "`openssl rand -hex 32` makes one"),
        ("guessed", "`openssl rand -hex 32` makes one"),
    ] {
        let said = refusal(&place, &["--private-bearer-file", file], 2);
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn public_url_is_required_for_trackers() {
    let place = Place::new();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let says = refusal(&place, &["--public-listen", address], 2);
        assert!(says.contains("public_url") && says.contains("https://HOST"), "{says}");
    }
    let server =
        place.serve_with(&["--public-listen", "0.0.0.0:0", "--public-url", "https://lp.example.org"], &[]);
    assert!(server.public.starts_with("http://0.0.0.0:"));
}

#[test]
fn fifo_and_endless_file_are_refused() {
    let place = Place::new();
    let (kind, mode) = (FileType::Fifo, Mode::RUSR | Mode::WUSR);
    mknodat(CWD, place.path("fifo"), kind, mode, 0).unwrap();
    for (file, says) in [("./fifo", "it is a FIFO; name a regular file"), ("/dev/zero", "longer than")] {
        for arguments in [
            &["serve", "--config", file][..],
            &["serve", "--private-bearer-file", file],
            &["serve", "--callers-file", file],
            &["serve", "--private-tls-certificate", file, "--private-tls-key", file],
            &["gate", "--config", file],
            &["token", "new", "--private-bearer-file", file],
            &["token", "new", "--server-ca", file],
            &["token", "new", "--client-identity", file],
        ] {
            let ended = place.run_with(arguments, &ANY_PORTS, "");
            assert_ne!(ended.code, Some(0), "{arguments:?}: {ended:?}");
            assert!(ended.err.contains(says), "{arguments:?}: {ended:?}");
        }
    }
}

/// As `/dev/stdin` and `<(…)` of a shell are.
#[test]
fn files_that_the_caller_handed_over_are_read() {
    let place = Place::new();
    let read = |arguments: &[&str], input: &str| place.run_with(arguments, &ANY_PORTS, input).refused(2);
    let said = read(&["serve", "--config", "/dev/stdin"], "colour = 'red'");
    assert!(said.contains("there is no setting `colour`"), "{said}");
    let said = read(&["serve", "--private-bearer-file", "/dev/stdin"], "short\n");
    assert!(said.contains("`openssl rand -hex 32` makes one"), "{said}");
}
