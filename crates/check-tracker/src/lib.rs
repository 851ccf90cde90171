//! Plays the issuer against a bug tracker, and says what its plugin for login tokens does wrong.
//!
//! A tracker is configured with the address of an [`Issuer`] that this crate runs. A [`Checker`] then brings tokens that it
//! made up to the tracker, as an issuer's worker would, while its issuer answers rightly, wrongly, late, or not at all. It
//! compares the tracker's requests and answers with what a plugin must do: each comparison is a [`Check`], and [`CHECKS`] has
//! them all. **To add a check, add it there.** [`API_CHECKS`] has those of the plugin API, which Launchpad's worker calls.
//!
//! ```no_run
//! # async fn example() -> Result<(), countersign_check_tracker::CheckError> {
//! use std::sync::Arc;
//!
//! use countersign_check_tracker::{Checker, Issuer, Subject, Tracker};
//! use countersign_core::{OsEntropy, SystemClock};
//!
//! let issuer = Issuer::listen("127.0.0.1:8099".parse().unwrap()).await?;
//! println!("configure the tracker with auth_server = {}", issuer.auth_server());
//! let subject = Subject::new(Tracker::Trac, "http://127.0.0.1:8000/trac", None)?;
//! let checker = Checker::new(issuer, subject, Arc::new(SystemClock), Arc::new(OsEntropy))?;
//! checker.reach().await?;
//! let report = checker.run(&[], |finding| println!("{finding}")).await?;
//! assert!(report.passed());
//! # Ok(())
//! # }
//! ```

mod api;
mod check;
mod checker;
mod cookies;
mod error;
mod issuer;
mod issuer_request;
mod judge;
mod list;
mod observation;
mod pace;
mod report;
mod step;
mod tls;
mod worker;

pub use countersign_login::Tracker;

pub use self::api::API_CHECKS;
pub use self::check::{Check, Weight};
pub use self::checker::{Checker, DEFAULT_TIMEOUT, Subject};
pub use self::error::CheckError;
pub use self::issuer::Issuer;
pub use self::list::CHECKS;
pub use self::report::{Finding, Grade, Report};
