//! Rules, dashboard and runbooks in `deploy/monitoring` and `deploy/runbooks` belong together.

use std::process::Command;

use oncue_tests::skip::skip;

use crate::tree::{none, root, text};

const RULES: &str = "deploy/monitoring/rules.yml";
const TESTS: &str = "deploy/monitoring/rules.test.yml";

/// Names behind `key: ` in a file.
fn values(file: &str, key: &str) -> Vec<String> {
    let text = text(file);
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '-']));
    let found = lines.filter_map(|line| line.strip_prefix(key));
    found.map(|value| value.trim().to_owned()).collect()
}

#[test]
fn every_alert_has_its_runbook_and_its_test() {
    let alerts = values(RULES, "alert:");
    assert!(alerts.len() > 10, "{alerts:?}");
    let tested = values(TESTS, "alertname:");
    let links = values(RULES, "runbook_url:");
    let mut found = Vec::new();
    for alert in &alerts {
        let page = format!("deploy/runbooks/{alert}.md");
        if !root().join(&page).is_file() {
            found.push(format!("{page} is missing"));
        }
        if !links.iter().any(|link| link.ends_with(&page)) {
            found.push(format!("{RULES}: {alert} does not link to {page}"));
        }
        if !tested.contains(alert) {
            found.push(format!("{TESTS} does not try {alert}"));
        }
    }
    let pages = std::fs::read_dir(root().join("deploy/runbooks")).expect("runbooks");
    for page in pages {
        let name = page
            .expect("a file")
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !alerts.iter().any(|alert| name == format!("{alert}.md")) {
            found.push(format!("deploy/runbooks/{name} belongs to no alert"));
        }
    }
    none(&found);
}

#[test]
fn recorded_series_are_recorded() {
    let recorded = values(RULES, "record:");
    let text = text(RULES) + &text("deploy/monitoring/dashboard.json");
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let used = words.filter(|word| word.starts_with("oncue:"));
    let found: Vec<String> = used
        .filter(|word| !recorded.iter().any(|name| name == word))
        .map(|word| format!("{word} is recorded nowhere"))
        .collect();
    none(&found);
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    let folder = root().join("deploy/monitoring");
    for arguments in [
        ["check", "rules", "rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "rules.test.yml"],
    ] {
        let mut promtool = Command::new("promtool");
        let Ok(output) = promtool.args(arguments).current_dir(&folder).output() else {
            return skip(
                "promtool",
                "it is not here, so the alert rules are not tried; it is in the Debian package prometheus",
            );
        };
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "promtool {}: {said}",
            arguments.join(" ")
        );
    }
}
