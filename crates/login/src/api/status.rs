//! The statuses and resolutions that Launchpad has a status of its own for. It takes every other for unknown.

use super::Bug;
use crate::Tracker;

/// In a Trac the resolution counts, and the status where there is none.
const TRAC: [&str; 12] = [
    "accepted",
    "assigned",
    "closed",
    "duplicate",
    "fixed",
    "fixverified",
    "invalid",
    "new",
    "open",
    "reopened",
    "wontfix",
    "worksforme",
];

/// In a Bugzilla the status of an open bug counts ...
const OPEN: [&str; 20] = [
    "ASSIGNED",
    "DEFERRED",
    "FAILS_QA",
    "MODIFIED",
    "NEEDINFO",
    "NEEDINFO_REPORTER",
    "NEEDSINFO",
    "NEW",
    "ON_DEV",
    "ON_QA",
    "PENDINGUPLOAD",
    "PLEASETEST",
    "REJECTED",
    "RELEASE_PENDING",
    "REOPENED",
    "STARTED",
    "SUSPENDED",
    "UNCONFIRMED",
    "UPSTREAM",
    "WAITING",
];

/// ... and with one of these the resolution.
const CLOSED: [&str; 3] = ["CLOSED", "RESOLVED", "VERIFIED"];

const RESOLUTIONS: [&str; 24] = [
    "CANTFIX",
    "CODE_FIX",
    "CURRENTRELEASE",
    "DEFERRED",
    "DOCUMENTED",
    "DUPLICATE",
    "EOL",
    "ERRATA",
    "EXPIRED",
    "FIXED",
    "INCOMPLETE",
    "INSUFFICIENT_DATA",
    "INVALID",
    "NEXTRELEASE",
    "NOTABUG",
    "NOTOURBUG",
    "OBSOLETE",
    "PATCH_ALREADY_AVAILABLE",
    "RAWHIDE",
    "UNREPRODUCIBLE",
    "UPSTREAM",
    "WILL_NOT_FIX",
    "WONTFIX",
    "WORKSFORME",
];

/// Whether Launchpad knows what this status and this resolution mean.
pub fn is_known_to_launchpad(tracker: Tracker, bug: &Bug) -> bool {
    let (status, resolution) = (bug.status.as_str(), bug.resolution.as_str());
    match tracker {
        Tracker::Trac => TRAC.contains(&if resolution.is_empty() { status } else { resolution }),
        Tracker::Bugzilla => {
            OPEN.contains(&status) || (CLOSED.contains(&status) && RESOLUTIONS.contains(&resolution))
        }
    }
}
