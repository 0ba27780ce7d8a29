//! `deploy/CONFIG.md` has every field that `oncue.toml` may have and every variable that a program reads, and no other; those
//! of OpenTelemetry stand in `deploy/TELEMETRY.md`.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::config::Config;

use crate::tree::{files, none, text};

const PAGE: &str = "deploy/CONFIG.md";
const TELEMETRY: &str = "deploy/TELEMETRY.md";
/// Heading of the fields that stand in no section.
const TOP: &str = "Top of the file";
/// Name that nothing has, so that the reader says which there are in its place.
const NOTHING: &str = "nothing";
/// Folders whose programs read the environment.
const PROGRAMS: &str = "services/";

/// Fields by section, as the reader of the file and the page have them.
type Fields = BTreeSet<(String, String)>;

/// Takes down what the reader knows of the section with this `header`, below the `opening` of the one around it, and of those
/// in it. Whether there is such a section.
fn walk(opening: &str, header: &str, found: &mut Fields) -> bool {
    let opening = format!("{opening}{header}\n");
    let Some(fields) = expected(&opening) else {
        return false;
    };
    let inner = header.trim_matches(['[', ']']);
    for field in fields {
        // A section within is a table or a list of tables.
        walk(&opening, &format!("[{inner}.{field}]"), found);
        walk(&opening, &format!("[[{inner}.{field}]]"), found);
        found.insert((header.to_owned(), field));
    }
    true
}

/// Fields of the section that a text opens last; `None` where it is none.
fn expected(opening: &str) -> Option<Vec<String>> {
    let said = Config::parse(&format!("{opening}{NOTHING} = 1\n"), None, |_| None).err()?;
    let said = said.to_string();
    let (_, names) = said.split_once(&format!("unknown field `{NOTHING}`, expected "))?;
    let names = names.lines().next()?.split('`').skip(1).step_by(2);
    Some(names.map(str::to_owned).collect())
}

/// Fields that the reader takes.
fn taken() -> Fields {
    let said = Config::parse(&format!("{NOTHING} = 1\n"), None, |_| None);
    let said = said.expect_err("a section that is not there").to_string();
    let sections = said.split_once("known: ").expect("the sections").1;
    let mut fields = Fields::new();
    for section in sections.trim().split(", ") {
        let ways = [
            format!("[{section}]"),
            format!("[{section}.NAME]"),
            format!("[[{section}]]"),
        ];
        let mut is_section = false;
        for header in ways {
            is_section |= walk("", &header, &mut fields);
        }
        if !is_section {
            fields.insert((TOP.to_owned(), section.to_owned()));
        }
    }
    fields
}

/// Text between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Fields that the page has: those in the first cells of the tables below each heading.
fn written(page: &str) -> Fields {
    let mut sections: Vec<&str> = Vec::new();
    let mut found = Fields::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            let heading = heading.trim_start_matches('#').trim();
            sections = quoted(heading)
                .filter(|name| name.starts_with('['))
                .collect();
            if heading == TOP {
                sections.push(TOP);
            }
        } else if line.starts_with("| `") {
            let cell = line.split('|').nth(1).unwrap_or_default();
            let rows = sections
                .iter()
                .flat_map(|section| quoted(cell).map(move |field| (*section, field)));
            found.extend(rows.map(|(section, field)| (section.to_owned(), field.to_owned())));
        }
    }
    found
}

#[test]
fn every_field_of_the_file_stands_on_the_page() {
    let page = text(PAGE);
    let taken = taken();
    let written = written(&page);
    // Whoever finds nothing has not looked.
    for (section, field) in [
        ("[streams.NAME]", "duplicate_window"),
        ("[gateway.cors]", "max_age"),
        ("[[route.failure]]", "status"),
        ("[notice.NAME.mail]", "server"),
    ] {
        let known = (section.to_owned(), field.to_owned());
        assert!(taken.contains(&known), "{section} {field}");
    }
    let missing = taken.difference(&written);
    let mut found: Vec<String> = missing
        .map(|(section, field)| format!("{PAGE}: {section} has no row for `{field}`"))
        .collect();
    let unknown = written.difference(&taken);
    found.extend(
        unknown.map(|(section, field)| format!("{PAGE}: {section} has no field `{field}`")),
    );
    none(&found);
}

/// Names of variables that stand as a whole text in a source, by the file.
fn variables() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (path, text) in files() {
        let is_source = [".rs", ".py", ".ts"].iter().any(|end| path.ends_with(end));
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        if !is_source || is_test || !path.starts_with(PROGRAMS) || path.contains("/vendor/") {
            continue;
        }
        for word in text.split(['"', '\'']).filter(|word| is_variable(word)) {
            found.insert(word.to_owned(), path.clone());
        }
    }
    found
}

fn is_variable(word: &str) -> bool {
    let is_ours = word.starts_with("ONCUE_") || word.starts_with("OTEL_");
    // One that is put together from parts ends in the middle.
    is_ours
        && !word.ends_with('_')
        && word
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_variable_stands_on_its_page() {
    let read = variables();
    assert!(read.len() > 60, "only {} variables", read.len());
    let config = text(PAGE);
    let telemetry = text(TELEMETRY);
    let config: BTreeSet<&str> = quoted(&config).collect();
    let telemetry: BTreeSet<&str> = quoted(&telemetry).collect();
    let mut found = Vec::new();
    for (name, path) in &read {
        // Those of one signal are told of with those of all.
        let general = name
            .replace("_OTLP_TRACES_", "_OTLP_")
            .replace("_OTLP_METRICS_", "_OTLP_");
        let ours = name.starts_with("ONCUE_");
        let page = if ours { PAGE } else { TELEMETRY };
        let names = if ours { &config } else { &telemetry };
        if !names.contains(&**name) && !names.contains(&*general) {
            found.push(format!("{path} reads {name}, of which {page} says nothing"));
        }
    }
    let unknown = config.iter().filter(|name| is_variable(name));
    let unknown = unknown.filter(|name| name.starts_with("ONCUE_") && !read.contains_key(**name));
    found.extend(unknown.map(|name| format!("{PAGE}: nobody reads {name}")));
    none(&found);
}

#[test]
fn rows_belong_to_the_sections_of_their_heading() {
    let page = "## `[a.tls]`, `[b.tls]`\n\n| field | |\n|---|---|\n| `ca` | `no field` |\n\n## Variables\n\n| `X` | |\n";
    let rows = written(page);
    let rows: Vec<String> = rows.iter().map(|(a, b)| format!("{a} {b}")).collect();
    assert_eq!(rows, ["[a.tls] ca", "[b.tls] ca"]);
}
