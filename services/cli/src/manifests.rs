//! Manifests of functions, from their programs. The program is the only source: nothing about a function is written
//! twice.

use futures::future::join_all;
use oncue_admin::program;
use oncue_core::model::manifest::Manifest;

use crate::exit::Failure;
use crate::settings::Settings;

/// Manifests of the named functions; all mistakes at once.
/// Asks all programs at once; a missing one is told before any is started.
pub async fn of(settings: &Settings, names: &[String]) -> Result<Vec<Manifest>, Failure> {
    let missing: Vec<&str> = names
        .iter()
        .filter(|name| !settings.program(name).is_there())
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let what = format!(
            "no program for {} in {}",
            missing.join(", "),
            settings.bin.display()
        );
        return Err(Failure::usage(what).advise(
            "build them (`cargo build --release --bins`), name their folder with --bin, or remove them from oncue.toml",
        ));
    }
    let asked = names
        .iter()
        .map(|name| program::manifest(&settings.config, &settings.bin, name));
    let mut manifests = Vec::new();
    let mut mistakes = Vec::new();
    for (name, asked) in names.iter().zip(join_all(asked).await) {
        match asked {
            Ok(manifest) if manifest.name == *name => manifests.push(manifest),
            Ok(manifest) => {
                mistakes.push(format!(
                    "  {name} calls itself {:?}; the two names must be the same",
                    manifest.name
                ));
            }
            Err(why) => mistakes.push(format!("  {name} --manifest: {why}")),
        }
    }
    if mistakes.is_empty() {
        return Ok(manifests);
    }
    Err(Failure::failed(format_args!(
        "not every function says what it is\n{}",
        mistakes.join("\n")
    )))
}
