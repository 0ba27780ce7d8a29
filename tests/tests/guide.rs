//! The author's guide holds: its Rust and its contract compile (the build script makes a module of each block), its TOML is
//! read, its commands are there.

use oncue_core::config::Config;

/// The crate of events that the guide's functions use.
#[allow(dead_code)]
pub mod shop {
    include!(concat!(env!("OUT_DIR"), "/events.rs"));
}

include!(concat!(env!("OUT_DIR"), "/guide.rs"));

const GUIDE: &str = include_str!("../../deploy/GUIDE.md");

#[test]
fn there_is_something_to_compile() {
    const { assert!(BLOCKS >= 8, "too few blocks of Rust") }
}

#[test]
fn its_settings_are_read() {
    let blocks: Vec<&str> = GUIDE
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        if let Err(mistakes) = Config::parse(block, None, |_| None) {
            panic!("{block}\n{mistakes}");
        }
    }
}

/// With `--help` behind it a line is only read: a verb or a flag that is not there fails.
#[test]
fn its_commands_are_there() {
    let mut tried = 0;
    for line in GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("    oncue "))
    {
        let line = line.split('#').next().unwrap_or_default();
        for command in format!("oncue {line}").split("&&") {
            let Some(arguments) = command.trim().strip_prefix("oncue ") else {
                continue;
            };
            let words = arguments.split_whitespace().chain(["--help"]);
            let program = oncue_tests::cluster::built("oncue");
            let output = std::process::Command::new(program).args(words).output();
            let output = output.expect("oncue is built");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "oncue {arguments}: {said}");
            tried += 1;
        }
    }
    assert!(tried >= 12, "{tried} commands");
}
