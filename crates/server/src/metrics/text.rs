//! The older text format of Prometheus (0.0.4), for scrapers that do not read `OpenMetrics`.

use std::fmt::Write;

/// Rewrites `OpenMetrics`, as this server writes it. The samples are the same; the older format calls a counter by the
/// name of its sample, and has neither information, nor units, nor an end.
pub(super) fn from_open_metrics(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut rewritten = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        // Writing into a string does not fail.
        let _ = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => Ok(()),
            (Some("#"), Some("TYPE"), Some(name), Some("info")) => {
                writeln!(rewritten, "# TYPE {name}_info gauge")
            }
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                let suffix = if counters.contains(&name) {
                    "_total"
                } else if text.contains(&format!("# TYPE {name} info\n")) {
                    "_info"
                } else {
                    ""
                };
                writeln!(rewritten, "# {what} {name}{suffix} {rest}")
            }
            _ => writeln!(rewritten, "{line}"),
        };
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_samples() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total{b=\"c d\"} 1\n# HELP b What it is.\n# TYPE b info\n\
                    b_info{version=\"1\"} 1\n# HELP c_seconds Time.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\n\
                    c_seconds 2.5\n# EOF\n";
        let text = "# HELP a_total Things.\n# TYPE a_total counter\na_total{b=\"c d\"} 1\n# HELP b_info What it is.\n\
                    # TYPE b_info gauge\nb_info{version=\"1\"} 1\n# HELP c_seconds Time.\n# TYPE c_seconds gauge\n\
                    c_seconds 2.5\n";
        assert_eq!(from_open_metrics(open), text);
    }
}
