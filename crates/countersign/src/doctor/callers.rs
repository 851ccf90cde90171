//! The callers of the private API that have names.

use std::path::Path;

use countersign_server::{CallerDocument, CallersFile};

use super::context::Context;
use super::finding::{Finding, Level};

/// Whether each of them is needed, and can call.
pub(super) fn named(context: &Context) -> Vec<Finding> {
    let settings = context.settings.as_ref().ok();
    let Some(path) = settings.and_then(|settings| settings.callers_file.as_deref()) else {
        return Vec::new();
    };
    let has_default = settings.is_some_and(|settings| settings.private_bearer_file.is_some());
    let callers = match context.report().and_then(|report| report.callers.as_ref()) {
        // What is wrong with the file is told where the files are.
        Some(callers) => callers.iter().map(Caller::of).collect(),
        None => match read(path) {
            Ok(callers) => callers,
            Err(finding) => return vec![finding],
        },
    };
    judge(path, &callers, has_default)
}

/// What is known of a caller.
struct Caller {
    name: String,
    secrets: usize,
    /// Whether it has called; nobody knows without a server.
    is_used: Option<bool>,
}

impl Caller {
    fn of(document: &CallerDocument) -> Self {
        let is_used = Some(document.last_seen.is_some());
        Self { name: document.name.clone(), secrets: document.secrets, is_used }
    }
}

fn read(path: &Path) -> Result<Vec<Caller>, Finding> {
    let callers = CallersFile::new(path.to_owned()).callers().map_err(|error| {
        Finding::error(
            error.to_string(),
            "mend it; a server cannot be started with it, and a running one goes on with what it has read",
        )
    })?;
    let callers = callers.iter().map(|caller| Caller {
        name: caller.name.to_string(),
        secrets: caller.secrets.len(),
        is_used: None,
    });
    Ok(callers.collect())
}

fn judge(path: &Path, callers: &[Caller], has_default: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if callers.is_empty() && !has_default {
        findings.push(Finding::warning(
            format!("{} names nobody, so that nobody can use the private API", path.display()),
            "add a caller with `countersign callers new`",
        ));
    }
    let names = |is_meant: fn(&&Caller) -> bool| {
        callers.iter().filter(is_meant).map(|caller| caller.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let rotating = names(|caller| caller.secrets > 1);
    if !rotating.is_empty() {
        findings.push(Finding::note(
            format!("callers with two secrets, whose rotation is not finished: {rotating}"),
            "when they all show the new one: `countersign callers rotate NAME --finish`",
        ));
    }
    let unused = names(|caller| caller.is_used == Some(false));
    if !unused.is_empty() {
        findings.push(Finding::note(
            format!("callers that have not called since this server was started: {unused}"),
            "remove those that are not needed any more: `countersign callers remove NAME`",
        ));
    }
    if findings.iter().all(|finding| finding.level < Level::Warning) {
        let how_many = match callers.len() {
            1 => "one caller".to_owned(),
            many => format!("{many} callers"),
        };
        findings.push(Finding::ok(format!("{} names {how_many}", path.display())));
    }
    findings
}
