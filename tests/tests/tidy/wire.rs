//! Answers of servers are read in one place, and each foreign crate is named in one.

use crate::ratchet::Table;
use crate::source::{bare, without_tests};
use crate::tree::{Metadata, none, rust_files};

/// Texts of the JetStream and services API, and the way to read numbers out of their JSON; in two parts, so that this file
/// does not hold them.
const WIRE: [(&str, &str); 4] = [
    (".as_u", "64()"),
    ("\"STREAM.", "INFO"),
    ("\"CONSUMER.", "INFO"),
    ("$S", "RV"),
];

/// Folder that reads them; everybody else gets structs.
const READER: &str = "services/runtime/core/src/bus/";

/// Folder that names requests as rights, and reads no answer.
const RIGHTS: &str = "services/runtime/admin/src/stores/rights";

/// Lines that still do, by file. A number out of JSON that is no server's answer is better read into a struct as well.
const RAW_ANSWERS: &str = "
#                                         lines
services/cli/src/up.rs                        1
services/cli/src/up/autoscaler.rs             1
services/cli/src/up/service.rs                1
services/cli/src/verbs/health.rs              2
services/console/src/sample.rs                1
services/runtime/admin/src/functions.rs       1
services/runtime/admin/src/topology.rs        1
";

#[test]
fn answers_of_servers_are_read_in_one_place() {
    let mut today = Table::default();
    for (path, text) in rust_files() {
        if path.starts_with(READER)
            || path.starts_with(RIGHTS)
            || path.starts_with("tests/")
            || path.contains("/tests/")
        {
            continue;
        }
        let lines = raw_answers(without_tests(&text));
        if !lines.is_empty() {
            let places = lines.iter().map(|line| format!("{path}:{line}"));
            today.found(&path, "lines", places.collect());
        }
    }
    let bounds = Table::read(RAW_ANSWERS, &["lines"]);
    let name = "RAW_ANSWERS in tests/tests/tidy/wire.rs";
    bounds.hold(&today, &["lines"], name);
}

fn raw_answers(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = !line.trim_start().starts_with("//");
        if code && WIRE.iter().any(|(a, b)| line.contains(&format!("{a}{b}"))) {
            found.push(number + 1);
        }
    }
    found
}

/// A crate that is wrapped in one place.
struct Wrapped {
    /// As manifests name it.
    package: &'static str,
    /// As code names it; with what follows an underscore, for a family of crates.
    name: &'static str,
    /// Where it is wrapped.
    place: &'static str,
    /// Packages whose manifest may name it.
    packages: &'static [&'static str],
}

const WRAPPED: [Wrapped; 4] = [
    Wrapped {
        package: "async-nats",
        name: "async_nats",
        place: "services/runtime/core/src/bus/",
        packages: &["oncue-core", "oncue-tests"],
    },
    Wrapped {
        package: "redis",
        name: "redis",
        place: "services/runtime/core/src/store/",
        packages: &["oncue-core", "oncue-tests"],
    },
    Wrapped {
        package: "opentelemetry",
        name: "opentelemetry",
        place: "services/runtime/telemetry/",
        packages: &["oncue-telemetry", "oncue-trace-viewer", "oncue-tests"],
    },
    Wrapped {
        package: "tonic",
        name: "tonic",
        place: "services/runtime/telemetry/",
        packages: &["oncue-telemetry", "oncue-trace-viewer", "oncue-tests"],
    },
];

/// Packages that stand apart from the wrapped places, and why.
const APART: [(&str, &str); 2] = [
    (
        "services/trace-viewer/",
        "takes OTLP from anybody, and shares no code with us",
    ),
    (
        "tests/",
        "the hand-written loop that `make bench` measures the runtime against must not go through the runtime, nor a \
         collector that checks what we send through what sends it",
    ),
];

/// Lines elsewhere that name a wrapped crate all the same, by file.
const STRAYS: &str = "
#                                                  lines
services/gateway/src/files/upload.rs                   1
services/gateway/src/observe/mod.rs                    1
services/gateway/src/observe/trace.rs                  2
services/runtime/function/src/worker/counters.rs       1
services/runtime/function/src/worker/spans.rs          1
";

#[test]
fn foreign_crates_are_named_in_one_place_each() {
    let mut today = Table::default();
    for (path, text) in rust_files() {
        if APART.iter().any(|(place, _)| path.starts_with(place)) {
            continue;
        }
        let mut strays = Vec::new();
        let code = bare(&text);
        for wrapped in WRAPPED
            .iter()
            .filter(|wrapped| !path.starts_with(wrapped.place))
        {
            for (number, line) in code.lines().enumerate() {
                if names(line, wrapped.name) {
                    let line = line.trim();
                    strays.push(format!("{path}:{}: {line}", number + 1));
                }
            }
        }
        if !strays.is_empty() {
            today.found(&path, "lines", strays);
        }
    }
    let bounds = Table::read(STRAYS, &["lines"]);
    let name = "STRAYS in tests/tests/tidy/wire.rs";
    bounds.hold(&today, &["lines"], name);
}

/// Manifests outside that ask for a wrapped crate: package and crate.
const ASKED: &str = "
#                            asks
oncue-gateway:opentelemetry     1
oncue:opentelemetry             1
";

#[test]
fn foreign_crates_are_asked_for_in_few_manifests() {
    let mut today = Table::default();
    let metadata = Metadata::read();
    for package in metadata.members() {
        for wrapped in WRAPPED {
            let allowed = wrapped.packages.contains(&package.name.as_str());
            let mut asked = package.asks_for.iter().map(|(name, _)| name.as_str());
            let asks = asked.any(|name| {
                let after = name.strip_prefix(wrapped.package);
                after.is_some_and(|after| after.is_empty() || after.starts_with(['-', '_']))
            });
            if asks && !allowed {
                let row = format!("{}:{}", package.name, wrapped.package);
                today.set(&row, "asks", 1);
            }
        }
    }
    let bounds = Table::read(ASKED, &["asks"]);
    let name = "ASKED in tests/tests/tidy/wire.rs";
    bounds.hold(&today, &["asks"], name);
}

#[test]
fn the_places_that_wrap_are_there() {
    let files = rust_files();
    let mut found = Vec::new();
    for wrapped in &WRAPPED {
        let mut inside = files
            .iter()
            .filter(|(path, _)| path.starts_with(wrapped.place));
        let named = inside.any(|(_, text)| text.lines().any(|line| names(line, wrapped.name)));
        if !named {
            found.push(format!(
                "nothing in {} names {}",
                wrapped.place, wrapped.name
            ));
        }
    }
    none(&found);
}

/// Whether a line of code names the crate or one of its family, not a module or a word that is called the same.
fn names(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
    code.match_indices(name).any(|(at, _)| {
        let before = &code[..at];
        let after = &code[at + name.len()..];
        let after = match after.strip_prefix('_') {
            Some(family) => family.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
            None => after,
        };
        let own = !before.ends_with(word) && (!before.ends_with("::") || before.ends_with(" ::"));
        let imported =
            before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        own && (after.starts_with("::") || (imported && !after.starts_with(word)))
    })
}

#[test]
fn names_are_told_from_modules_and_words() {
    for code in [
        "use cloud::Client;",
        "cloud::cmd(x)",
        "use cloud;",
        "fn f(_: ::cloud::Value)",
        "extern crate cloud;",
        "use cloud_sdk::trace;",
    ] {
        assert!(names(code, "cloud"), "{code}");
    }
    for code in [
        "mod cloud;",
        "pub use self::cloud::CloudStore;",
        "my_cloud::x()",
        "// cloud::x",
        "\"cloud://x\"",
        "cloud_cli()",
    ] {
        assert!(!names(code, "cloud"), "{code}");
    }
}

#[test]
fn raw_answers_are_found() {
    let (a, b) = WIRE[0];
    let text = format!(
        "let n = value[\"x\"]{a}{b};\n// {a}{b}\nfine();\nask(&format!(\"STREAM.{}.{{s}}\"))",
        "INFO"
    );
    assert_eq!(raw_answers(&text), [1, 4]);
}
