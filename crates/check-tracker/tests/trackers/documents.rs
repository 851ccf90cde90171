//! What the documentation says about the checks.

use countersign_check_tracker::{API_CHECKS, CHECKS, Check, Weight};

const TRACKERS: &str = include_str!("../../../../docs/trackers.md");

#[test]
fn documented_checks_match_the_code() {
    assert_has_table(CHECKS);
    assert_has_table(API_CHECKS);
}

fn assert_has_table(checks: &[Check]) {
    let rows = checks.iter().map(|check| {
        let advice = if check.weight == Weight::Should { " (advice)" } else { "" };
        format!("| `{}`{advice} | {} | {} |\n", check.name, check.rule, check.risk)
    });
    let table =
        format!("| check | a plugin must | otherwise |\n|---|---|---|\n{}\n", rows.collect::<String>());
    assert!(TRACKERS.contains(&table), "docs/trackers.md must have this table:\n\n{table}");
}
