//! Secret files as Kubernetes and systemd hand them over, to a server that is not root's.
//!
//! Only root can become somebody else and give files away: run by another user, the tests here try nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use rustix::fs::{XattrFlags, setxattr};

use crate::doctor::read;
use crate::fixture::{ANY_PORTS, DATA, Place, Server};
use crate::process::{EndedProcess, Process};

const RING: &str = "countersign-data/key-ring.toml";
/// A user and a group of which no machine knows a name, as in a container.
const USER: u32 = 54321;
const FS_GROUP: u32 = 54322;
/// A group that every Linux has, with a name, for other people.
const USERS: u32 = 100;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A place that the user can enter.
fn place() -> Place {
    let place = Place::new();
    place.set_mode(".", 0o755);
    place
}

/// A command of ours, run by the user, who is in the group of the volumes.
fn as_user(place: &Place, arguments: &[&str]) -> Command {
    let ours = place.command(arguments.iter().copied());
    let mut command = Command::new("setpriv");
    command
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), &format!("--groups={FS_GROUP}")])
        .arg(ours.get_program())
        .args(ours.get_args())
        .current_dir(place.path("."))
        .env_clear()
        .envs(ANY_PORTS);
    command
}

fn serve(place: &Place, arguments: &[&str]) -> Server {
    Server::start(&mut as_user(place, &[&["serve"], arguments].concat()))
}

fn refused(place: &Place, arguments: &[&str]) -> String {
    Process::start(&mut as_user(place, &[&["serve"], arguments].concat()), "").ended().refused(1)
}

fn doctor(place: &Place, server: &Server) -> EndedProcess {
    let arguments = ["doctor", "--json", "--server", &server.private];
    Process::start(&mut as_user(place, &arguments), "").ended()
}

/// What the kubelet does to a volume for a pod with an `fsGroup`, before each start.
fn mount_with_fs_group(place: &Place, directory: &str) {
    for entry in fs::read_dir(place.path(directory)).unwrap() {
        let entry = entry.unwrap();
        chown(entry.path(), None, Some(FS_GROUP)).unwrap();
        let name = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        place.set_mode(&name, place.mode(&name) | 0o660);
    }
    chown(place.path(directory), None, Some(FS_GROUP)).unwrap();
    place.set_mode(directory, place.mode(directory) | 0o2770);
}

#[test]
fn volume_with_an_fs_group_survives_restarts() {
    if !is_root() {
        return;
    }
    let place = place();
    fs::create_dir(place.path(DATA)).unwrap();
    place.set_mode(DATA, 0o750);
    for starts in 0..3 {
        mount_with_fs_group(&place, DATA);
        if starts > 0 {
            assert_eq!((place.mode(RING), fs::metadata(place.path(RING)).unwrap().gid()), (0o660, FS_GROUP));
        }
        let server = serve(&place, &[]);
        assert_eq!(server.status(&server.token()), 200);
        let found = read(&doctor(&place, &server));
        assert!(found.has("ok", "files", ""), "{:#?}", found.findings);
        server.print(&place, &["keys", "rotate"]);
        // The new file is for whom the old one was for.
        assert!([0o600, 0o660].contains(&place.mode(RING)), "{:o}", place.mode(RING));
        server.stop();
    }
}

/// A ring, and what stands beside it, as a Kubernetes Secret is mounted: root's, with this mode, for the pod's group.
fn secret_volume(place: &Place, mode: u32) {
    if !place.path("secret").exists() {
        fs::create_dir(place.path("secret")).unwrap();
        place.print(&["keys", "new", "--key-ring", "secret/ring.toml"]);
        place.write("secret/bearer", "s3cret-0f9e8d7c6b5a4321\n");
        fs::create_dir(place.path(DATA)).unwrap();
        chown(place.path(DATA), Some(USER), Some(FS_GROUP)).unwrap();
        place.set_mode(DATA, 0o700);
    }
    for name in ["secret/ring.toml", "secret/bearer"] {
        chown(place.path(name), Some(0), Some(FS_GROUP)).unwrap();
        place.set_mode(name, mode);
    }
}

#[test]
fn kubernetes_secret_mount_is_accepted() {
    if !is_root() {
        return;
    }
    let place = place();
    let settings = ["--key-ring", "secret/ring.toml", "--private-bearer-file", "secret/bearer"];
    // defaultMode: 0440, or 0400, to which an fsGroup adds the group's bit; and 0640.
    for mode in [0o440, 0o640] {
        secret_volume(&place, mode);
        let server = serve(&place, &settings);
        let log = server.process.err.with("INFO ready");
        assert!(!log.contains("WARN"), "{log}");
        let bearer = ["--private-bearer-file", "secret/bearer"];
        let said = server.run(&place, &[&["keys", "rotate"], &bearer[..]].concat()).refused(1);
        assert!(
            said.contains("change it there with the same command and `--offline --key-ring FILE`"),
            "{said}"
        );
        drop(server);
    }
    for (mode, says) in [
        (0o444, "can be read by other users (mode 0444)"),
        (0o644, "can be read by other users (mode 0644)"),
        (0o664, "can be read by other users (mode 0664)"),
        (0o400, "cannot read the key ring secret/ring.toml: Permission denied"),
    ] {
        secret_volume(&place, mode);
        let said = refused(&place, &settings[..2]);
        assert!(said.contains(says), "{mode:o}: {said}");
        assert!(!said.contains("keys new"), "{said}");
    }
}

#[test]
fn file_for_a_group_of_other_people_is_refused() {
    if !is_root() {
        return;
    }
    let place = place();
    secret_volume(&place, 0o600);
    let ring = place.path("secret/ring.toml");
    chown(&ring, Some(USER), Some(USERS)).unwrap();
    place.set_mode("secret/ring.toml", 0o640);
    let said = refused(&place, &["--key-ring", "secret/ring.toml"]);
    assert!(said.contains("can be read by the group users (mode 0640)"), "{said}");
    assert!(said.contains("run `chmod 600 secret/ring.toml`"), "{said}");
    // The remedy is one.
    place.set_mode("secret/ring.toml", 0o600);
    serve(&place, &["--key-ring", "secret/ring.toml"]).stop();

    // Root's file that everybody can read: 0600 would lock the server out, and the remedy does not say so.
    chown(&ring, Some(0), Some(0)).unwrap();
    place.set_mode("secret/ring.toml", 0o644);
    let said = refused(&place, &["--key-ring", "secret/ring.toml"]);
    assert!(said.contains(&format!("`chown {USER} secret/ring.toml`, then `chmod 600")), "{said}");
    chown(&ring, Some(USER), None).unwrap();
    place.set_mode("secret/ring.toml", 0o600);
    serve(&place, &["--key-ring", "secret/ring.toml"]).stop();
}

/// An access control list as the kernel has it: this user may read, the owner read and write, and nobody else.
fn list_for(user: u32) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, user), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    list
}

#[test]
fn access_control_list_says_who_can_read() {
    if !is_root() {
        return;
    }
    let place = place();
    secret_volume(&place, 0o400);
    let ring = place.path("secret/ring.toml");
    let give = |owner, user| {
        chown(&ring, Some(owner), Some(0)).unwrap();
        setxattr(&ring, "system.posix_acl_access", &list_for(user), XattrFlags::empty()).unwrap();
        assert_eq!(place.mode("secret/ring.toml"), 0o640, "the mode shows the list's mask");
    };
    // A credential of systemd's is root's, and one user may read it.
    give(0, USER);
    serve(&place, &["--key-ring", "secret/ring.toml"]).stop();
    // Another user may not read the files of the server's user.
    give(USER, USER + 7);
    let said = refused(&place, &["--key-ring", "secret/ring.toml"]);
    assert!(
        said.contains(&format!("can be read by the user {}, as its access control list", USER + 7)),
        "{said}"
    );
}

#[test]
fn rotation_by_root_leaves_the_server_its_ring() {
    if !is_root() {
        return;
    }
    let place = place();
    secret_volume(&place, 0o640);
    place.print(&["keys", "rotate", "--offline", "--key-ring", "secret/ring.toml"]);
    let metadata = fs::metadata(place.path("secret/ring.toml")).unwrap();
    assert_eq!((place.mode("secret/ring.toml"), metadata.uid(), metadata.gid()), (0o640, 0, FS_GROUP));
    serve(&place, &["--key-ring", "secret/ring.toml"]).stop();
    let list = list_for(USER);
    let ring = place.path("secret/ring.toml");
    // Nothing but the list lets the server in from here on.
    chown(&ring, Some(0), Some(0)).unwrap();
    setxattr(&ring, "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
    place.print(&["keys", "rotate", "--offline", "--key-ring", "secret/ring.toml"]);
    serve(&place, &["--key-ring", "secret/ring.toml"]).stop();
}

/// Run by somebody who may not look at the server's files, `doctor` says so: it neither takes them for missing nor has them
/// replaced.
#[test]
fn ordinary_user_is_told_to_switch_user() {
    let place = place();
    place.serve().stop();
    let look = || {
        if is_root() {
            return Process::start(&mut as_user(&place, &["doctor", "--json", "--offline"]), "").ended();
        }
        place.set_mode(DATA, 0o000);
        let ended = place.run(&["doctor", "--json", "--offline"]);
        place.set_mode(DATA, 0o700);
        ended
    };
    let found = read(&look());
    for check in ["files", "keys", "store"] {
        found.must_have("error", check, "run this as the user that the server runs as, or as root");
    }
    let all = found.findings.join("\n");
    assert!(!all.contains("there is no store") && !all.contains("start the server once"), "{all}");
    if is_root() {
        // The server knows better.
        let server = place.serve();
        let found = read(&doctor(&place, &server));
        found.must_be_well();
        found.must_have("note", "store", "cannot be read by this user, so it was not looked into");
    }
}

#[test]
fn missing_log_advice_keeps_an_open_database() {
    let place = Place::new();
    place.serve().stop();
    place.set_mode("countersign-data/countersign.db", 0o644);
    let server = place.serve();
    let said = place.run(&["doctor", "--json", "--server", &server.private]).out;
    let log = server.stop().err;
    for text in [said, log] {
        let about = text.lines().filter(|line| line.contains("countersign.db")).collect::<String>();
        assert!(about.contains("chmod 600"), "{text}");
        assert!(!about.contains("replace"), "a new one would have forgotten which tokens were used: {text}");
    }
}
