//! `docs/keys.md`, command by command: two servers on PostgreSQL after a theft of all keys, in every order of the page's steps,
//! with restarts and a server that cannot reach the database.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use countersign_core::{KeyRing, LoginTokenSet, MAX_LIFETIME, ManualClock, NewToken, OsEntropy, Policy};
use countersign_store::memory::MemoryStore;
use countersign_test_postgres::{Proxy, new_name, shared};
use countersign_testkit::until;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Place, Server};
use crate::process::Process;

const PAGE: &str = include_str!("../../../../docs/keys.md");
const RING: &str = "countersign-data/key-ring.toml";

/// The commands of the blocks between two headings, without `countersign`; what follows `#` is a comment for people.
fn commands(heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2).flat_map(str::lines);
    let lines =
        blocks.map(|line| line.trim_start_matches("$ ").split(" #").next().unwrap().trim().to_owned());
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    lines.filter(|line| line.starts_with("countersign ")).map(|line| words(line)[1..].to_vec()).collect()
}

/// A thief: he has the keys of a file, and makes tokens with each of them.
struct Thief(Vec<(String, LoginTokenSet)>);

impl Thief {
    /// He makes them at the fence, as the servers do: what is older is refused anyway.
    fn of(file: &str, fence: &Value) -> Self {
        let fence = fence.as_str().unwrap().parse().unwrap();
        let (head, keys) = file.split_once("[[key]]").unwrap();
        let one = |key: &str| {
            let ring = KeyRing::parse(&format!("{head}[[key]]{key}")).unwrap();
            let id = ring.keys()[0].id().to_string();
            let clock = Arc::new(ManualClock::at(fence));
            let store = Arc::new(MemoryStore::new(&*clock));
            (id, LoginTokenSet::new(ring, store, clock, Arc::new(OsEntropy), Policy::default()))
        };
        Self(keys.split("[[key]]").map(one).collect())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(id, _)| &**id).collect()
    }

    fn forge(&self, key: &str) -> String {
        let (_, set) = self.0.iter().find(|(id, _)| id == key).unwrap();
        let wanted = NewToken { lifetime: Some(MAX_LIFETIME), ..NewToken::default() };
        set.issue(wanted).unwrap().text.into_exposed()
    }
}

/// Two servers, of which the second one's way to the database can be cut.
struct Cluster {
    runtime: Runtime,
    proxy: Proxy,
    schema: String,
    places: [Place; 2],
    servers: Vec<Server>,
}

impl Cluster {
    /// With three keys in the file, as a server of before has left them.
    fn start() -> (Self, Thief) {
        let runtime = Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::start(&shared()));
        let places = [Place::new(), Place::new()];
        for place in &places {
            std::fs::create_dir(place.path("countersign-data")).unwrap();
            place.set_mode("countersign-data", 0o700);
        }
        places[0].print(&["keys", "new"]);
        for _ in 0..2 {
            places[0].print(&["keys", "rotate", "--offline"]);
        }
        let file = places[0].read(RING);
        places[1].replace(RING, &file, 0o600);
        let mut cluster = Self { runtime, proxy, schema: new_name(), places, servers: Vec::new() };
        for n in 0..2 {
            let server = cluster.serve(n);
            cluster.servers.push(server);
        }
        let stats = cluster.servers[0].json(&cluster.places[0], &["store", "stats", "--json"]);
        let thief = Thief::of(&file, &stats["fence"]);
        (cluster, thief)
    }

    fn store(&self, n: usize) -> Vec<String> {
        let url = if n == 0 { shared() } else { self.proxy.url().to_owned() };
        ["--store", &url, "--store-schema", &self.schema].map(str::to_owned).to_vec()
    }

    fn serve(&self, n: usize) -> Server {
        let store = self.store(n);
        self.places[n].serve_with(&store.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    fn restart(&mut self, n: usize) {
        self.servers.remove(n).stop();
        let server = self.serve(n);
        self.servers.insert(n, server);
    }

    fn cut(&self, cut: bool) {
        let _inside = self.runtime.enter();
        self.proxy.cut_one_in(u64::from(cut));
    }

    /// A command of the page, on a server.
    fn run(&self, n: usize, command: &[String], key: &str) -> Value {
        let command: Vec<&str> =
            command.iter().map(|word| if word == "KEY" { key } else { word }).chain(["--json"]).collect();
        self.servers[n].json(&self.places[n], &command)
    }

    fn status(&self, n: usize, token: &str) -> u16 {
        self.servers[n].status(token)
    }
}

fn sealing(document: &Value) -> String {
    let keys = document["keys"].as_array().unwrap();
    let sealing: Vec<&Value> = keys.iter().filter(|key| key["sealing"] == true).collect();
    assert_eq!(sealing.len(), 1, "{document}");
    sealing[0]["id"].as_str().unwrap().to_owned()
}

/// What happens to the second server meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    /// It is started again after each step.
    Restarts,
    /// It cannot reach the database.
    Partition,
}

fn theft(order: [usize; 3], meanwhile: Meanwhile) {
    let steps = commands("After a theft");
    let [list, replace, revoke, ..] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(replace[..3].join(" "), "keys revoke KEY");
    let (mut cluster, thief) = Cluster::start();
    let stolen = thief.keys();
    let forged = [0, 1].map(|n| cluster.status(n, &thief.forge(stolen[0])));
    assert_eq!(forged, [200, 200], "the thief is anybody he likes");
    cluster.cut(meanwhile == Meanwhile::Partition);
    let mut revoked: Vec<&str> = Vec::new();
    for (step, place) in order.into_iter().enumerate() {
        let key = stolen[place];
        // By turns, as far as both can.
        let on = if meanwhile == Meanwhile::Partition { 0 } else { step % 2 };
        let command = if sealing(&cluster.run(on, list, "")) == key { replace } else { revoke };
        let after = cluster.run(on, command, key);
        revoked.push(key);
        let seals = sealing(&after);
        let rank = |key: &str| stolen.iter().position(|stolen| *stolen == key).unwrap_or(stolen.len());
        assert!(rank(&seals) == stolen.len() || seals == stolen[2], "{order:?}: {seals} seals");
        for key in &stolen {
            let expected = if revoked.contains(key) { 404 } else { 200 };
            assert_eq!(cluster.status(0, &thief.forge(key)), expected, "{order:?}, {meanwhile:?}, {key}");
            if meanwhile != Meanwhile::Partition {
                assert_eq!(cluster.status(1, &thief.forge(key)), expected, "{order:?}, {meanwhile:?}, {key}");
            }
        }
        if meanwhile == Meanwhile::Partition {
            // It has not heard of it, and says nothing.
            assert_eq!(cluster.status(1, &thief.forge(key)), 503);
        } else {
            assert_eq!(cluster.status(1, &cluster.servers[0].token()), 200);
            assert_eq!(cluster.status(0, &cluster.servers[1].token()), 200);
        }
        if meanwhile == Meanwhile::Restarts {
            cluster.restart(1);
        }
    }
    cluster.cut(false);
    // Before the first yes: also of the server that could not hear of it.
    for key in &stolen {
        let token = thief.forge(key);
        let answer = until("an answer other than 503", || {
            Some(cluster.status(1, &token)).filter(|status| *status != 503)
        });
        assert_eq!(answer, 404, "{order:?}, {meanwhile:?}");
    }
    for n in 0..2 {
        cluster.restart(n);
    }
    for key in &stolen {
        assert_eq!(
            [0, 1].map(|n| cluster.status(n, &thief.forge(key))),
            [404, 404],
            "{order:?}, {meanwhile:?}"
        );
    }
    assert_eq!(cluster.status(1, &cluster.servers[0].token()), 200);
    assert_eq!(cluster.status(0, &cluster.servers[1].token()), 200);
}

#[test]
fn steps_after_a_theft_hold_newest_key_first() {
    theft([2, 1, 0], Meanwhile::Nothing);
    theft([2, 0, 1], Meanwhile::Restarts);
}

#[test]
fn steps_after_a_theft_hold_oldest_key_first() {
    theft([0, 1, 2], Meanwhile::Restarts);
    theft([0, 2, 1], Meanwhile::Nothing);
}

#[test]
fn steps_after_a_theft_hold_across_a_partition() {
    theft([1, 2, 0], Meanwhile::Partition);
}

/// The page's other commands: for routine, and for a stolen key file.
#[test]
fn key_file_is_replaced_as_the_page_says() {
    let steps = commands("After a theft");
    let [.., add, rewrap] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((add.join(" "), rewrap.join(" ")), ("keys new --add".to_owned(), "keys rewrap".to_owned()));
    let rotate = &commands("For routine")[0];
    let (mut cluster, thief) = Cluster::start();
    let words = |command: &[String]| command.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!(words(rotate), "keys rotate");
    let before = cluster.servers[0].token();
    let rotated = cluster.run(0, rotate, "");
    assert_eq!(rotated["keys"].as_array().unwrap().len(), 4);

    let added: Vec<&str> = add.iter().map(String::as_str).collect();
    cluster.places[0].print(&added);
    cluster.servers[0].process.err.with("the key file has changed on disk and is in use");
    let early = cluster.servers[0].run(&cluster.places[0], &["keys", "rewrap"]).refused(1);
    assert!(early.contains("copy the key file there first"), "{early}");
    cluster.places[1].replace(RING, &cluster.places[0].read(RING), 0o600);
    cluster.servers[1].process.err.with("the key file has changed on disk and is in use");
    // The other server has said so in the store with its check-in.
    until("a rewrapped ring", || {
        (cluster.servers[0].run(&cluster.places[0], &["keys", "rewrap"]).code == Some(0)).then_some(())
    });
    for n in 0..2 {
        cluster.restart(n);
    }
    assert_eq!(cluster.status(1, &before), 200, "nothing was interrupted");
    // The stolen file does not unlock the ring any more.
    let thiefs = Place::new();
    std::fs::create_dir(thiefs.path("countersign-data")).unwrap();
    thiefs.set_mode("countersign-data", 0o700);
    let old = cluster.places[0].read(RING);
    let (head, keys) = old.split_once("[[key]]").unwrap();
    let stolen: Vec<&str> = keys.split("[[key]]").take(thief.keys().len()).collect();
    thiefs.replace(RING, &format!("{head}[[key]]{}", stolen.join("[[key]]")), 0o600);
    let store = cluster.store(0);
    let list = ["keys", "list", "--offline"].into_iter().chain(store.iter().map(String::as_str));
    let said = thiefs.refusal(&list.collect::<Vec<_>>(), 1);
    assert!(said.contains("is locked with key"), "{said}");
}

/// A file that was lost everywhere.
#[test]
fn lost_key_file_is_replaced_as_the_page_says() {
    let (cluster, thief) = Cluster::start();
    let Cluster { servers, places, schema, .. } = cluster;
    for server in servers {
        server.stop();
    }
    let place = &places[0];
    std::fs::remove_file(place.path(RING)).unwrap();
    let url = shared();
    let flags = ["--store", &url, "--store-schema", &schema];
    let serve = || Process::start(&mut place.serve_command(&flags, &[]), "").ended();
    let said = serve().refused(1);
    assert!(said.contains("there is no key file at") && said.contains("countersign keys import"), "{said}");
    place.print(&["keys", "new"]);
    let said = serve().refused(1);
    assert!(said.contains("is locked with key") && said.contains("nothing is lost"), "{said}");
    place.print(&[&["keys", "import"][..], &flags].concat());
    let server = place.serve_with(&flags, &[]);
    assert_eq!(server.status(&server.token()), 200);
    for key in thief.keys() {
        assert_eq!(server.status(&thief.forge(key)), 404);
    }
    // And without a server: on the store itself.
    server.stop();
    let offline = |command: &[&str]| -> Value {
        let all = [command, &["--offline", "--json"], &flags].concat();
        serde_json::from_str(&place.print(&all)).unwrap()
    };
    let old = sealing(&offline(&["keys", "list"]));
    let new = sealing(&offline(&["keys", "revoke", &old, "--rotate"]));
    assert_ne!(old, new);
    let waits = offline(&["keys", "rotate"]);
    assert_eq!((waits["keys"].as_array().unwrap().len(), sealing(&waits)), (2, new));
}

/// A locked key file, in a store of one server: said within seconds, and no process that lives on.
#[test]
fn locked_key_file_delays_no_shutdown() {
    let place = Place::new();
    let server = place.serve();
    let directory = std::fs::File::open(place.path("countersign-data")).unwrap();
    directory.lock().unwrap();
    let mut asks = place.command(["keys", "rotate", "--server", &server.private]);
    let mut asks = Process::start(&mut asks, "");
    // The change waits for the lock: the kernel lists it.
    let inode = format!(":{} ", directory.metadata().unwrap().ino());
    let waits = |line: &str| line.contains("->") && line.contains(&inode);
    until("a change that waits for the lock", || {
        std::fs::read_to_string("/proc/locks").unwrap().lines().any(waits).then_some(())
    });
    // It ends although the lock is still held; a test that waits in vain fails.
    let ended = server.stop();
    assert!(ended.err.contains("INFO stopped"), "{}", ended.err);
    let said = asks.ended().refused(1);
    assert!(said.contains("holds the lock"), "{said}");
    drop(directory);
}
