//! The errors of opening and backing up a store. Every text says what to do.

use std::io;
use std::path::PathBuf;

use countersign_core::StoreError;

/// Why a store cannot be opened. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL.
    #[error(
        "a store is named by a URL such as `sqlite:/var/lib/countersign/countersign.db`, \
         `postgres://countersign@db.example.org/countersign` or `memory:`"
    )]
    NoScheme,
    /// No store of that name.
    #[error(
        "the store's URL begins with none of the names that there are: `sqlite:` (or `sqlite:PATH`), \
         `postgres://USER@HOST/DATABASE` and `memory:`"
    )]
    UnknownScheme,
    /// The URL says more than it may.
    #[error("this store's URL takes no options: write `sqlite:`, `sqlite:PATH` or `memory:`")]
    Options,
    /// The URL of a PostgreSQL store cannot be understood.
    #[error(
        "the store's URL cannot be understood ({0}); write postgres://USER@HOST:PORT/DATABASE, with options behind a ?, \
         and write other characters than letters and digits as %XX"
    )]
    PostgresUrl(String),
    /// A character that ends a part of the URL stands inside a part.
    #[error(
        "the store's URL has more than one `@`, so that it is not clear where its password ends; write an `@` in the password \
         as %40 (and / as %2F, ? as %3F, # as %23, % as %25), or put the password into a file and name that with \
         store_password_file"
    )]
    UnescapedUrl,
    /// An option of the URL, or a variable of libpq, that says something else than it can.
    #[error("{option} must {must}")]
    PostgresOption {
        /// The option, or the variable.
        option: String,
        /// What it must be.
        must: &'static str,
    },
    /// Not the name of a schema.
    #[error(
        "store_schema must be lower-case letters, digits and _, at most 63, must not begin with a digit or with pg_"
    )]
    SchemaName,
    /// The authorities' file cannot be used.
    #[error("the authorities of the store's certificate cannot be read from {}: {reason}", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tables have not been created yet.
    #[error(
        "there is no store in {place}; check the store's URL and store_schema, or make one with `countersign store \
         migrate`"
    )]
    NoSchema {
        /// The database.
        place: String,
    },
    /// The tables were made by a newer version.
    #[error(
        "the tables in {place} were made by a newer version of Countersign (schema {found}, this version knows up to \
         {known}); install that version"
    )]
    NewerSchema {
        /// The database.
        place: String,
        /// Its schema's version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The tables are old or not there, and this role may not change that.
    #[error(
        "{place} has schema {found}, this version needs {known}, and its role may not change that ({reason}); run \
         `countersign store migrate --grant-to ROLE` with a role that may, where ROLE is the one that serves"
    )]
    MayNotMigrate {
        /// The database.
        place: String,
        /// The version that is there; 0: none.
        found: u32,
        /// The version that is needed.
        known: u32,
        /// What the database says.
        reason: String,
    },
    /// What is in a database server is saved by its own means.
    #[error(
        "a PostgreSQL store is backed up by PostgreSQL's own means: pg_dump, or a base backup with its log (PITR). After \
         restoring one, run `countersign store fence --offline` before you serve"
    )]
    BackupElsewhere,
    /// There is nothing to administrate.
    #[error("a `memory:` store lives and dies with its server; there is nothing to open from outside")]
    OnlyInMemory,
    /// The file is not there.
    #[error("there is no store at {}; check the path, or start the server once to make it", .0.display())]
    Missing(PathBuf),
    /// Another process has it.
    #[error(
        "the data directory {} is in use by {}; stop that process, or give this one another --data-dir",
        .dir.display(), process_name(*.pid)
    )]
    InUse {
        /// The directory with the database.
        dir: PathBuf,
        /// The process that has it, if it has said so.
        pid: Option<u32>,
    },
    /// Another process has it by another name.
    #[error(
        "the database {} is in use by another server in another directory (it is a hard link, or the file is mounted in two \
         places): both would accept the same token; stop that server, or give this one a database of its own",
        .0.display()
    )]
    InUseElsewhere(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("{} cannot be {doing}: {error}; check that it is a place on a local disk that this user may write", .path.display())]
    Files {
        /// What was being done: `made`, `read`, ...
        doing: &'static str,
        /// To which.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A database of some other program.
    #[error("{} is not a Countersign store but some other program's database; name another path", .0.display())]
    Foreign(PathBuf),
    /// Another store has taken its place, or is to.
    #[error(
        "{place} was handed over to {to}: serve from there, with --store. If {to} says that it was handed over to this one, \
         complete the move by running `countersign store move` again with the same --from and --to. To come back, move in the \
         other direction"
    )]
    HandedOver {
        /// The database.
        place: String,
        /// What has taken its place.
        to: String,
    },
    /// Written by a newer version.
    #[error(
        "{} was written by a newer version of Countersign (schema {found}, this version knows up to {known}); \
         install that version again",
        .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// Damaged, or no database at all.
    #[error(
        "{} is damaged or not a database ({detail}); put a backup in its place, or move it away together with its \
         -wal and -shm files. Then start again: tokens issued before that moment will be refused",
        .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system lacks what the database needs.
    #[error(
        "{} is on a file system on which SQLite cannot keep a write-ahead log (shared memory is missing there, as on \
         network file systems); use a local disk",
        .0.display()
    )]
    NoWal(PathBuf),
    /// Something else went wrong; the text names the remedy.
    #[error("{0}")]
    Unusable(String),
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is in the way.
    #[error("{} exists already; name a new file", .0.display())]
    Exists(PathBuf),
    /// `SQLite` needs file names in UTF-8.
    #[error("the name {} is not UTF-8; name another file", .0.display())]
    Name(PathBuf),
    /// The file cannot be made or written.
    #[error("{} cannot be written: {error}; check that there is room and that this user may write there", .path.display())]
    Files {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// The copy failed.
    #[error("the backup failed: {0}")]
    Copy(String),
    /// The process is ending.
    #[error("the backup was cut short: {0}")]
    CutShort(String),
}

/// How to call the process that has the lock.
fn process_name(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this very process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// What a store answers once it has been closed.
pub(crate) fn closed() -> StoreError {
    StoreError::unavailable("it has been closed")
}
