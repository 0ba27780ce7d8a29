//! Event types come from the platform, from files, and from the programs beside us; one that fails is named and no more.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oncue_core::config::Config;
use oncue_core::contract;

/// The platform's contract with its uploads under another domain, as a foreign program would print it.
fn shops() -> Vec<u8> {
    let mut set = oncue_proto::DESCRIPTORS.to_vec();
    let ours = b"files.file.uploaded";
    let at = set
        .windows(ours.len())
        .position(|window| window == ours)
        .expect("an event type");
    set[at..at + 5].copy_from_slice(b"shops");
    set
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("oncue-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn program(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
}

fn config(text: &str) -> Config {
    // Nobody listens there.
    let text = format!("{text}\n[nats]\nurl = \"nats://127.0.0.1:1\"\n");
    Config::parse(&text, None, |_| None).expect("a configuration")
}

#[tokio::test]
async fn programs_say_their_types_and_those_that_fail_are_named() {
    let folder = folder("contract-programs");
    let set = folder.join("shops.bin");
    std::fs::write(&set, shops()).expect("written");
    let print = format!("[ \"$1\" = --contract ] && exec cat {}", set.display());
    program(&folder, "sell", &print);
    program(&folder, "old", "echo 'old: unknown argument' >&2; exit 2");
    program(&folder, "odd", "echo no descriptor set");
    program(&folder, "silent", "exit 0");
    let config = config(
        "[functions.sell]\n[functions.old]\n[functions.odd]\n[functions.silent]\n[functions.gone]\n\
         [[schedule]]\ntype = \"shops.file.uploaded\"\ndata = { file = \"f\" }\nevery = \"1s\"\n",
    );

    let found = contract::load(&config, &folder).await.expect("contracts");
    assert!(found.catalog.get("shops.file.uploaded").is_ok());
    assert!(found.catalog.get("files.file.uploaded").is_ok());
    let warnings = found.warnings;
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        warnings[0].starts_with("no program for gone in "),
        "{warnings:#?}"
    );
    assert!(
        warnings[1].starts_with("odd --contract: not a descriptor set"),
        "{warnings:#?}"
    );
    assert!(
        warnings[2].starts_with("old --contract: ") && warnings[2].contains("unknown argument"),
        "{warnings:#?}"
    );
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[tokio::test]
async fn a_schedule_nobody_can_fire_is_a_mistake() {
    let folder = folder("contract-schedule");
    let config =
        config("[functions.gone]\n[[schedule]]\ntype = \"shops.file.uploaded\"\nevery = \"1s\"\n");
    let refused = contract::load(&config, &folder).await.expect_err("unknown");
    assert!(
        refused
            .to_string()
            .starts_with("oncue.toml:2: [[schedule]] unknown event type \"shops.file.uploaded\""),
        "{refused}"
    );
    std::fs::remove_dir_all(&folder).expect("removed");
}
