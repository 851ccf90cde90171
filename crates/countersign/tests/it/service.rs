//! As a service: sockets that a service manager hands over, and what it is told.

use std::fmt::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::Signal;

use crate::fixture::{Place, Server};
use crate::http;
use crate::process::{PATIENCE, Process};

const PUBLIC_URL: (&str, &str) = ("COUNTERSIGN_PUBLIC_URL", "http://127.0.0.1:1");

/// Above the descriptors that a service manager hands over in these tests.
const FIRST_FREE: i32 = 10;

/// `countersign serve` as a service manager starts it: `sockets` from descriptor 3 on, and their `names`.
/// The values returned beside the command must live until it has started.
fn activated(
    place: &Place,
    sockets: &[BorrowedFd<'_>],
    names: &str,
    arguments: &[&str],
) -> (Command, Vec<OwnedFd>) {
    handed(&place.serve_command(arguments, &[PUBLIC_URL]), sockets, names)
}

/// The same of any of its commands.
pub(crate) fn handed(server: &Command, sockets: &[BorrowedFd<'_>], names: &str) -> (Command, Vec<OwnedFd>) {
    let mut handed = Vec::new();
    let mut script = "LISTEN_PID=$$ exec \"$0\" \"$@\"".to_owned();
    for (n, socket) in sockets.iter().enumerate() {
        // Out of the way of the numbers that they get; and what the shell hands on, it must have got.
        let copy = fcntl_dupfd_cloexec(socket, FIRST_FREE).unwrap();
        fcntl_setfd(&copy, FdFlags::empty()).unwrap();
        write!(script, " {}<&{}", n + 3, copy.as_raw_fd()).unwrap();
        handed.push(copy);
    }
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(server.get_program()).args(server.get_args());
    command.current_dir(server.get_current_dir().unwrap());
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    (command, handed)
}

const BOTH: [&str; 4] = ["--public-listen", "systemd:public", "--private-listen", "systemd:private"];

fn fd(socket: &impl AsFd) -> BorrowedFd<'_> {
    socket.as_fd()
}

#[test]
fn activated_sockets_are_served() {
    let place = Place::new();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let private = TcpListener::bind("127.0.0.1:0").unwrap();
    // The order is the service manager's, so names decide.
    let (mut command, _handed) = activated(&place, &[fd(&private), fd(&public)], "private:public", &BOTH);
    let server = Server::start(&mut command);
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    assert_eq!((&server.public, &server.private), (&url(&public), &url(&private)));
    let token = server.token();
    assert_eq!((server.status(&token), server.status(&token)), (200, 401));
    server.stop();
}

#[test]
fn every_socket_of_a_name_is_served() {
    let place = Place::new();
    let public = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let private = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let sockets = [fd(&public[0]), fd(&private[0]), fd(&public[1]), fd(&private[1]), fd(&public[2])];
    let (mut command, _handed) = activated(&place, &sockets, "public:private:public:private:public", &BOTH);
    let server = Server::start(&mut command);
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    assert_eq!((&server.public, &server.private), (&url(&public[0]), &url(&private[0])));
    for listener in public.iter().chain(&private) {
        assert_eq!(http::get(&format!("{}/readyz", url(listener))).status, 200);
    }
    server.stop();
}

#[test]
fn second_private_socket_for_everybody_is_refused() {
    let place = Place::new();
    let [public, private] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let sockets = [fd(&public), fd(&private), fd(&open)];
    let (mut command, _handed) = activated(&place, &sockets, "public:private:private", &BOTH);
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(said.contains("so that anybody could issue tokens") && said.contains("0.0.0.0:"), "{said}");
}

#[test]
fn activated_unix_socket_survives_the_server() {
    let place = Place::new();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = place.path("private.sock");
    let private = UnixListener::bind(&path).unwrap();
    let (mut command, _handed) = activated(&place, &[fd(&public), fd(&private)], "public:private", &BOTH);
    let server = Server::start(&mut command);
    assert_eq!(server.private, format!("unix:{}", path.display()));
    let token = place.print(&["token", "new", "--server", &server.private]);
    assert_eq!(server.status(&token), 200);
    server.stop();
    assert!(path.exists(), "it belongs to the service manager");
}

#[test]
fn socket_open_to_anybody_needs_a_credential() {
    let place = Place::new();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let private = TcpListener::bind("0.0.0.0:0").unwrap();
    let (mut command, _handed) = activated(&place, &[fd(&public), fd(&private)], "public:private", &BOTH);
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(said.contains("so that anybody could issue tokens") && said.contains("0.0.0.0:"), "{said}");
}

#[test]
fn missing_activated_socket_is_named() {
    let place = Place::new();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut command, _handed) = activated(&place, &[fd(&public)], "public", &BOTH);
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(
        said.contains("cannot listen on systemd:private") && said.contains("FileDescriptorName=private"),
        "{said}"
    );

    let said = place.refusal(&["serve", "--public-listen", "systemd:public"], 2);
    assert!(said.contains("public_url has to say it"), "{said}");
}

#[test]
fn one_socket_is_not_given_to_two_listeners() {
    let place = Place::new();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let twice = ["--public-listen", "systemd:public", "--private-listen", "systemd:public"];
    let (mut command, _handed) = activated(&place, &[fd(&public)], "public", &twice);
    let said = Process::start(&mut command, "").ended().refused(1);
    assert!(said.contains("cannot listen on systemd:public"), "{said}");
}

#[test]
fn service_manager_is_notified_of_ready_and_stop() {
    let place = Place::new();
    let path = place.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut message = [0; 512];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut server = place.serve_with(&[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(heard().trim_end(), "READY=1");
    assert_eq!(http::get(&format!("{}/readyz", server.public)).status, 200, "and so it is");
    server.process.signal(Signal::TERM);
    assert_eq!(heard().trim_end(), "STOPPING=1");
    assert_eq!(server.process.ended().code, Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn service_manager_with_an_abstract_socket_is_told() {
    use std::os::linux::net::SocketAddrExt;

    let place = Place::new();
    let name = format!("countersign-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = place.serve_with(&[], &[("NOTIFY_SOCKET", &format!("@{name}"))]);
    let mut message = [0; 512];
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    server.stop();
}

#[test]
fn signals_of_other_servers_end_nothing() {
    let place = Place::new();
    let server = place.serve();
    for signal in [Signal::USR1, Signal::USR2] {
        server.process.signal(signal);
        assert_eq!(server.status(&server.token()), 200);
    }
    server.stop();
}

#[test]
fn missing_service_manager_stops_nothing() {
    let place = Place::new();
    let server = place.serve_with(&[], &[("NOTIFY_SOCKET", "/nonexistent/notify.sock")]);
    assert_eq!(server.status(&server.token()), 200);
    let log = server.stop().err;
    assert!(log.contains("cannot send this server's state to the service manager"), "{log}");
}
