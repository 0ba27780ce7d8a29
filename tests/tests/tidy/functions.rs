//! A function is one file, one line in `oncue.toml`, one stanza in `docker-compose.yml`, all of the same name.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{none, root, text};

const COMPOSE: &str = "docker-compose.yml";

/// The services of the compose file that are functions, each with its lines. The file is ours and plainly written, so
/// indentation tells all: services stand at two columns below `services:`, what they hold further in.
fn stanzas(compose: &str) -> BTreeMap<String, Vec<String>> {
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut inside, mut name) = (false, String::new());
    for line in compose.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let indent = line.len() - line.trim_start().len();
        if line.is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match indent {
            0 => inside = line == "services:",
            2 if inside => {
                line.trim().trim_end_matches(':').clone_into(&mut name);
                services.insert(name.clone(), Vec::new());
            }
            _ if inside => services
                .entry(name.clone())
                .or_default()
                .push(line.trim().to_owned()),
            _ => {}
        }
    }
    // Our other programs are called oncue-something; what is not built on the function anchor is no program of ours.
    let own = |lines: &Vec<String>| lines.iter().any(|line| line.starts_with("command: [oncue"));
    services.retain(|_, lines| lines.iter().any(|line| line == "<<: *function") && !own(lines));
    services
}

fn files() -> BTreeSet<String> {
    let folder = root().join("services/workers/src/bin");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let names = entries.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8")
    });
    names
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect()
}

/// Environment of each function, by function, from `oncue.toml`.
fn configured() -> BTreeMap<String, BTreeMap<String, String>> {
    let config: toml::Table = text("oncue.toml")
        .parse()
        .unwrap_or_else(|e| panic!("oncue.toml: {e}"));
    let functions = config["functions"].as_table().expect("[functions.NAME]");
    let env = |function: &toml::Value| match function.get("env").and_then(toml::Value::as_table) {
        Some(env) => env
            .iter()
            .map(|(key, v)| (key.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect(),
        None => BTreeMap::new(),
    };
    functions
        .iter()
        .map(|(name, function)| (name.clone(), env(function)))
        .collect()
}

#[test]
fn every_function_is_whole() {
    let (configured, composed) = (configured(), stanzas(&text(COMPOSE)));
    let mut found = Vec::new();
    for name in files() {
        let path = format!("services/workers/src/bin/{name}.rs");
        if !text(&path).contains(&format!("Function::new(\"{name}\"")) {
            found.push(format!(
                "{path} must run the function of its own name: Function::new(\"{name}\", ...)"
            ));
        }
        match configured.get(&name) {
            None => found.push(format!(
                "oncue.toml does not run {name}: add\n    [functions.{name}]"
            )),
            Some(env) => {
                let stanza = composed.get(&name).map_or(&[][..], Vec::as_slice);
                let missing = env
                    .iter()
                    .map(|(key, value)| format!("{key}: \"{value}\""))
                    .filter(|pair| !stanza.contains(pair));
                found.extend(missing.map(|pair| {
                    format!("{COMPOSE} and oncue.toml differ: the stanza {name} lacks `{pair}`")
                }));
            }
        }
        // Its credentials, in a volume of its own.
        let volume = format!("volumes: [*app, \"key-{name}:/etc/oncue/.oncue/keys:ro\"]");
        let runs = |lines: &Vec<String>| {
            lines.contains(&format!("command: [{name}]")) && lines.contains(&volume)
        };
        let made = format!("      - key-{name}:/keys/fn.{name}\n");
        if !text(COMPOSE).contains(&made) {
            found.push(format!("{COMPOSE}: the service keys lacks\n{made}"));
        }
        if !composed.get(&name).is_some_and(runs) {
            let stanza = format!(
                "{name}:\n        <<: *function\n        command: [{name}]\n        {volume}"
            );
            found.push(format!(
                "{COMPOSE} does not run {name}: add under services:\n      {stanza}"
            ));
        }
    }
    none(&found);
}

#[test]
fn nothing_runs_a_function_that_is_not_there() {
    let files = files();
    assert!(!files.is_empty(), "no functions at all");
    let places = [
        ("oncue.toml", configured().into_keys().collect::<Vec<_>>()),
        (COMPOSE, stanzas(&text(COMPOSE)).into_keys().collect()),
    ];
    let mut found = Vec::new();
    for (place, names) in places {
        assert!(
            !names.is_empty(),
            "{place} runs no function, or is written in a way this test cannot read"
        );
        for name in names.into_iter().filter(|name| !files.contains(name)) {
            found.push(format!(
                "{place} runs {name}, but there is no services/workers/src/bin/{name}.rs"
            ));
        }
    }
    none(&found);
}

#[test]
fn stanzas_are_read_as_they_are_written() {
    let compose = "x-function: &function\n  command: [none]\nservices:\n  nats:\n    image: nats\n\n  # A comment.\n  gateway:\n    <<: *function\n    \
                   command: [oncue-gateway]\n  one:\n    <<: *function\n    command: [one] # why\n    environment:\n      A: \"1\"\nvolumes:\n  data:\n";
    let read = stanzas(compose);
    assert_eq!(read.keys().collect::<Vec<_>>(), ["one"]);
    assert_eq!(
        read["one"],
        [
            "<<: *function",
            "command: [one]",
            "environment:",
            "A: \"1\""
        ]
    );
}
