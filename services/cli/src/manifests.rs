//! Manifests of functions, from their programs. The program is the only source: nothing about a function is written
//! twice.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::future::join_all;
use oncue_admin::program;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;

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
    programs_are_there(settings, names)?;
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
    let failure = Failure::failed(format_args!(
        "not every function says what it is\n{}",
        mistakes.join("\n")
    ));
    // As Python and Node have it.
    let is_not_installed = mistakes
        .iter()
        .any(|why| why.contains("No module named") || why.contains("ERR_MODULE_NOT_FOUND"));
    let command = names
        .iter()
        .find_map(|name| settings.config.function(name).run?.into_iter().next());
    let folder = settings.config.beside(Path::new("."));
    match command.and_then(|command| installation(&command, &folder)) {
        Some(advice) if is_not_installed => Err(failure.advise(advice)),
        _ => Err(failure),
    }
}

/// Manifests of all functions of the file: of the named ones, or of all where none is named, from their programs; of the others
/// as they were let in last.
pub async fn anew(
    settings: &Settings,
    named: &[String],
    store: &Store,
) -> Result<Vec<Manifest>, Failure> {
    let mut names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let mut kept = Vec::new();
    if !named.is_empty() {
        let known = store.functions().await.map_err(Failure::silent)?;
        let known = known.into_iter().map(|registered| registered.manifest);
        kept.extend(
            known.filter(|manifest| {
                names.contains(&manifest.name) && !named.contains(&manifest.name)
            }),
        );
        names.retain(|name| kept.iter().all(|manifest| manifest.name != *name));
    }
    kept.extend(of(settings, &names).await?);
    Ok(kept)
}

/// Refuses functions whose `run` names a program in the app's folder that is not there, since it comes with an installation.
fn programs_are_there(settings: &Settings, names: &[String]) -> Result<(), Failure> {
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        let run = settings.config.function(name).run.unwrap_or_default();
        let Some(program) = run.into_iter().next() else {
            continue;
        };
        // A name alone is looked for on PATH.
        if program.contains('/') && !settings.config.beside(Path::new(&program)).is_file() {
            missing.entry(program).or_default().push(name);
        }
    }
    let Some((program, functions)) = missing.first_key_value() else {
        return Ok(());
    };
    let failure = Failure::usage(format_args!(
        "{program} is not there, with which oncue.toml runs {}",
        functions.join(", ")
    ));
    let folder = settings.config.beside(Path::new("."));
    let advice = installation(program, &folder).unwrap_or_else(|| {
        let function = functions[0];
        format!("install it, or name another program in `run` of [functions.{function}]")
    });
    Err(failure.advise(advice))
}

/// How to install what a program in an app's folder belongs to, by the conventions of its language.
pub fn installation(program: &str, folder: &Path) -> Option<String> {
    let command = match Path::new(program)
        .components()
        .next()?
        .as_os_str()
        .to_str()?
    {
        ".venv" => "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        "node_modules" => "npm install",
        _ => return None,
    };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    Some(format!("run {command} in {}", folder.display()))
}
