//! Asks each function's program what it is. The program is the only source: nothing about a function is written twice.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use oncue::manifest::Manifest;
use tokio::process::Command;

use crate::exit::Failure;
use crate::settings::Settings;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Manifests of the named functions; all mistakes at once.
pub async fn of(settings: &Settings, names: &[String]) -> Result<Vec<Manifest>, Failure> {
    let missing: Vec<&str> =
        names.iter().filter(|name| !settings.bin.join(name).is_file()).map(String::as_str).collect();
    if !missing.is_empty() {
        let what = format!("no program for {} in {}", missing.join(", "), settings.bin.display());
        return Err(Failure::usage(what).advise(
            "build them (`cargo build --release --bins`), name their folder with --bin, or remove them from oncue.toml",
        ));
    }
    let (mut manifests, mut mistakes) = (Vec::new(), Vec::new());
    for (name, asked) in names.iter().zip(join_all(names.iter().map(|name| ask(&settings.bin, name))).await) {
        match asked {
            Ok(manifest) if manifest.name == *name => manifests.push(manifest),
            Ok(manifest) => {
                mistakes.push(format!("  {name} calls itself {:?}; the two names must be the same", manifest.name));
            }
            Err(why) => mistakes.push(format!("  {name} --manifest: {why}")),
        }
    }
    if mistakes.is_empty() {
        return Ok(manifests);
    }
    Err(Failure::failed(format_args!("not every function says what it is\n{}", mistakes.join("\n"))))
}

/// Manifest of one function, or why not.
pub async fn ask(bin: &Path, name: &str) -> Result<Manifest, String> {
    let program = std::path::absolute(bin.join(name)).map_err(|e| e.to_string())?;
    let asked = Command::new(program).arg("--manifest").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no answer within {TIMEOUT:?}")),
    };
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("unreadable answer: {e}"))
}
