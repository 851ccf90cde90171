//! Classifies failures: whether the batch may have been written, and what the operator can do.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use countersign_core::Unusable;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// Why a request was not answered as it should have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no connection, so nothing was sent.
    Unreachable {
        /// A sentence for the operator.
        reason: String,
    },
    /// No connection was free in time, so nothing was sent.
    Overdue {
        /// A sentence for the operator.
        reason: String,
    },
    /// The server refused it, and has kept nothing of it.
    Refused {
        /// A sentence for the operator.
        reason: String,
        /// What the server says.
        error: Box<DbError>,
    },
    /// It was sent and no answer came. It may have been carried out, or may still be.
    Lost {
        /// A sentence for the operator.
        reason: String,
    },
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { reason, error } => Self::because(reason, *error),
            other => other.into_reason().into(),
        }
    }
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Unreachable { reason }
            | Self::Overdue { reason }
            | Self::Refused { reason, .. }
            | Self::Lost { reason } => reason,
        }
    }

    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Unreachable { reason }
            | Self::Overdue { reason }
            | Self::Refused { reason, .. }
            | Self::Lost { reason } => reason,
        }
    }

    /// Whether the same request may succeed at the next attempt, because two transactions were in each other's way.
    pub(super) fn is_contention(&self) -> bool {
        self.is(&[&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED])
    }

    /// Whether something held a lock for longer than was waited for.
    pub(super) fn is_locked(&self) -> bool {
        self.is(&[&SqlState::LOCK_NOT_AVAILABLE])
    }

    /// Whether the server refused it with this code.
    pub(super) fn is(&self, wanted: &[&SqlState]) -> bool {
        matches!(self, Self::Refused { error, .. } if wanted.contains(&error.code()))
    }

    /// A request was sent, and this came back. `place` says where the database is, without a password.
    pub(super) fn of_request(error: &Error, place: &str) -> Self {
        match error.as_db_error() {
            Some(refusal) if is_certain(refusal) => {
                Self::Refused { reason: sentence(refusal, place), error: Box::new(refusal.clone()) }
            }
            Some(refusal) => Self::Lost { reason: sentence(refusal, place) },
            None => {
                let reason =
                    format!("the connection to {place} broke ({}); it goes on by itself", causes(error));
                Self::Lost { reason }
            }
        }
    }

    /// No connection came about. `password` says where the password is, or why there is none; it may be empty.
    pub(super) fn of_connecting(error: &Error, place: &str, password: &str) -> Self {
        let causes = causes(error);
        let reason = match error.as_db_error() {
            Some(refusal) if is_about_the_password(refusal) => format!(
                "{place} does not let this user in with the password {password} ({}, {}); correct it there, or the user in \
                 the store's URL",
                refusal.message(),
                refusal.code().code()
            ),
            Some(refusal) => sentence(refusal, place),
            None if causes.contains("password missing") => {
                let passed_over = if password.is_empty() { String::new() } else { format!(" ({password})") };
                format!(
                    "{place} asks for a password, and none was given{passed_over}: put it into a file and name that with \
                     store_password_file, or give it as PGPASSWORD or in ~/.pgpass"
                )
            }
            None if causes.starts_with("authentication error") => format!(
                "{place} does not let this program in ({causes}); check the user and the password of the store, and let \
                 pg_hba.conf ask for scram-sha-256"
            ),
            None if error.to_string().contains("TLS") => format!(
                "TLS to {place} cannot be set up ({causes}); if its certificate is from an authority of your own, name that \
                 with store_ca_file; if it has none, only sslmode=disable or sslmode=prefer in the store's URL will do"
            ),
            None => format!(
                "{place} cannot be reached ({causes}); start it, or check the store's URL and the network"
            ),
        };
        Self::Unreachable { reason }
    }

    /// The host's name has no address.
    pub(super) fn unknown_name(error: &io::Error, place: &str) -> Self {
        Self::Unreachable {
            reason: format!(
                "{place} cannot be reached (its name has no address: {error}); check the store's URL and the name service"
            ),
        }
    }

    /// The URL names no user, and the system does not say which one this is.
    pub(super) fn no_user(error: &impl std::fmt::Display, place: &str) -> Self {
        Self::Unreachable {
            reason: format!("{place} is asked by no user ({error}); name one in the store's URL"),
        }
    }

    /// No connection came about in time.
    pub(super) fn slow(place: &str, waited: Duration) -> Self {
        Self::Unreachable {
            reason: format!(
                "{place} cannot be reached (it has not answered for {} s); check it and the network, or give it more time with \
                 connect_timeout in the store's URL",
                waited.as_secs()
            ),
        }
    }

    /// It is not the server that `target_session_attrs` asks for.
    pub(super) fn takes_no_writes(place: &str) -> Self {
        Self::Unreachable {
            reason: format!(
                "{place} is read-only, and target_session_attrs asks for a server that takes writes: it is a standby, or \
                 default_transaction_read_only is set; name the primary in the store's URL, and it goes on by itself"
            ),
        }
    }

    /// Why none of several hosts will do.
    pub(super) fn of_all(failures: Vec<Self>) -> Self {
        let several = failures.len() > 1;
        let reasons = failures.into_iter().enumerate().map(|(n, failure)| {
            let reason = failure.into_reason();
            if several { format!("({}) {reason}", n + 1) } else { reason }
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let reason = if several { format!("none of the store's hosts will do: {reasons}") } else { reasons };
        Self::Unreachable { reason }
    }

    /// Nothing that matters was sent.
    pub(super) fn or_unreachable(self) -> Self {
        Self::Unreachable { reason: self.into_reason() }
    }

    /// It was done, and with a warning that says that it may not be kept.
    pub(super) fn warned(warning: &str, place: &str) -> Self {
        Self::Lost {
            reason: format!(
                "{place} does not vouch for a commit ({warning}); see whether its synchronous standby is there; it is asked again"
            ),
        }
    }

    /// The attempt before was refused; whether this one was carried out is unknown.
    pub(super) fn or_lost(self) -> Self {
        match self {
            Self::Refused { reason, .. } => Self::Lost { reason },
            other => other,
        }
    }

    /// The server has not answered in time.
    pub(super) fn silence(place: &str) -> Self {
        Self::Lost {
            reason: format!("{place} does not answer; check it and the network, and it goes on by itself"),
        }
    }
}

/// Whether it was the password. `PgBouncer` says so in words alone.
fn is_about_the_password(refusal: &DbError) -> bool {
    *refusal.code() == SqlState::INVALID_PASSWORD
        || (*refusal.code() == SqlState::PROTOCOL_VIOLATION
            && refusal.message().contains("authentication failed"))
}

/// Whether a refusal means that nothing was kept. Only what is known to mean it: a session that was ended may have
/// committed before, and distributed databases say by 40003 that they cannot tell.
fn is_certain(refusal: &DbError) -> bool {
    let is_error = match refusal.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => refusal.severity() == "ERROR",
    };
    let code = refusal.code().code();
    // 08P01: parameters that do not fit the statement.
    let is_about_the_line = code.starts_with("08") && code != "08P01";
    is_error && code != "40003" && !is_about_the_line && !code.starts_with("57")
}

/// The cause, and the remedy.
fn sentence(refusal: &DbError, place: &str) -> String {
    let says = format!("{}, {}", refusal.message(), refusal.code().code());
    let code = refusal.code();
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        format!(
            "{place} is read-only ({says}): a standby, or default_transaction_read_only is set; name the primary in the \
             store's URL (with several hosts, add target_session_attrs=read-write), and it goes on by itself"
        )
    } else if *code == SqlState::PROTOCOL_VIOLATION && refusal.message().contains("statement pooling") {
        format!(
            "the pooler at {place} gives each statement another session ({says}); without transactions nothing can be promised: \
             set pool_mode = transaction there, or session"
        )
    } else if *code == SqlState::DISK_FULL {
        format!("the disk of {place} is full ({says}); make room, and it goes on by itself")
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        format!(
            "the role that serves may not do what it must in {place} ({says}); run `countersign store migrate \
             --grant-to ROLE` with the role that owns the schema"
        )
    } else if [&SqlState::UNDEFINED_TABLE, &SqlState::UNDEFINED_COLUMN, &SqlState::INVALID_SCHEMA_NAME]
        .contains(&code)
    {
        format!(
            "{place} has not the tables that it had ({says}); put them back, or restart the server to begin with an \
             empty store, which refuses the tokens issued so far"
        )
    } else if *code == SqlState::INVALID_COLUMN_REFERENCE {
        format!(
            "a table in {place} has lost its primary key ({says}), by which the database decides who redeems a token; if a \
             backup is being put back, wait until it is there; else add the key again (`PRIMARY KEY (id)`), and it goes on by \
             itself"
        )
    } else if [&SqlState::INVALID_PASSWORD, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(&code) {
        format!(
            "{place} does not let this user in ({says}); check the user in the store's URL, its password \
             (store_password_file), and the server's pg_hba.conf"
        )
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        format!("{place} is not there ({says}); create that database, or name another in the store's URL")
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        format!("{place} takes no more connections ({says}); raise its max_connections, or close some")
    } else if [&SqlState::ADMIN_SHUTDOWN, &SqlState::CRASH_SHUTDOWN, &SqlState::CANNOT_CONNECT_NOW]
        .contains(&code)
    {
        format!("{place} is stopping or starting ({says}); it goes on by itself")
    } else {
        format!("{place} does not work as it should: {says}")
    }
}

/// An error and its causes in one line.
fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
