//! Faults on demand: a C library in front of the C library. See `shim.c`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What can be set, in `shim.c`'s order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dial {
    /// Seconds added to the wall clock.
    ClockOffset,
    /// The error number of every write to the store's files; 0 for none.
    WriteError,
    /// The same for fsync.
    SyncError,
    /// The same for opening a file to write.
    OpenError,
    /// 1 while fsync shall not return.
    Hang,
    /// To read: how many calls do not return.
    Hanging,
    /// To read: how often the store's files were read, written, synced or opened.
    Touches,
    /// 1 while reading a file of an issuer's keys shall not return.
    HangKeys,
}

/// The shim of one server.
#[derive(Debug)]
pub(crate) struct Shim {
    place: PathBuf,
    path: PathBuf,
    control: File,
}

impl Shim {
    /// A shim in front of the files in `place`, with everything in order.
    pub(crate) fn new(place: &Path, path: PathBuf) -> Self {
        fs::write(&path, [0; 64]).unwrap();
        let control = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self { place: place.to_owned(), path, control }
    }

    /// The variables that put it in front of a program.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", library().to_owned()),
            ("SHIM_CONTROL", self.path.clone()),
            ("SHIM_PLACE", self.place.clone()),
        ]
    }

    pub(crate) fn set(&self, dial: Dial, value: i64) {
        self.control.write_all_at(&value.to_ne_bytes(), 8 * dial as u64).unwrap();
    }

    pub(crate) fn read(&self, dial: Dial) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * dial as u64).unwrap();
        i64::from_ne_bytes(bytes)
    }
}

/// Compiles it once. A C compiler is needed to build the server, too.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim.so");
        let made = library.with_extension(std::process::id().to_string());
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .args([&made, &source])
            .arg("-ldl")
            .status();
        assert!(done.expect("a C compiler").success(), "shim.c does not compile");
        // At once, because other runs of these tests may use it.
        fs::rename(&made, &library).unwrap();
        library
    })
}
