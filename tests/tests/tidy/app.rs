//! The platform and the demo app are two things: whoever brings an app of their own takes nothing of ours along.

use crate::tree::{files, none};

/// Folders of the platform.
const PLATFORM: [&str; 8] = [
    "services/runtime/",
    "services/gateway/src/",
    "services/console/src/",
    "services/cli/src/",
    "proto/oncue/",
    "proto/src/",
    "proto/codegen/",
    "services/http/",
];

/// Words of the demo app: its event types, its messages, its functions and tables.
const DEMO: [&str; 19] = [
    "web.page",
    "web.trends",
    "page.viewed",
    "page.milestone",
    "file.inspected",
    "file.accepted",
    "file.rejected",
    "PageViewed",
    "PageMilestone",
    "TrendsPublished",
    "FileInspected",
    "FileAccepted",
    "FileRejected",
    "humbnail",
    "oncue_app_events",
    "count-views",
    "count_views",
    "rank-pages",
    "publish-trends",
];

/// Code of a file: without comments, which may show the demo as an example, and without its tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .enumerate()
        .map(|(number, line)| (number + 1, line.trim()))
        .filter(|(_, line)| !line.starts_with("//"))
}

/// A sentence for people may name an event type as an example; it says so with `like`.
fn is_example(line: &str) -> bool {
    line.contains("like web.page.viewed")
}

#[test]
fn names_of_the_demo_stay_out_of_the_platform() {
    let mut found = Vec::new();
    for (path, text) in files() {
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        if is_test || !PLATFORM.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        for (number, line) in code(&text).filter(|(_, line)| !is_example(line)) {
            if let Some(word) = DEMO.iter().find(|word| line.contains(**word)) {
                found.push(format!(
                    "{path}:{number} names {word:?} of the demo app; the platform knows no app: {line}"
                ));
            }
        }
    }
    none(&found);
}

#[test]
fn comments_and_tests_may_name_the_demo() {
    let text =
        "// web.page\nlet a = \"web.page.viewed\";\n#[cfg(test)]\nmod tests { \"web.page\" }\n";
    let lines: Vec<(usize, &str)> = code(text).collect();
    assert_eq!(lines, [(2, "let a = \"web.page.viewed\";")]);
    assert!(is_example("\"three tokens, like web.page.viewed\""));
}
