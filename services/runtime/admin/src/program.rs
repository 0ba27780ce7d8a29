//! A function's own program, asked something: only its code knows its key and its handler.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;

/// Longest wait for a manifest, which needs no server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a function says it is, or why it does not.
pub async fn manifest(bin: &Path, name: &str) -> Result<Manifest, String> {
    let program = std::path::absolute(bin.join(name)).map_err(|e| e.to_string())?;
    let asked = Command::new(program)
        .arg("--manifest")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no answer within {TIMEOUT:?}")),
    };
    if !output.status.success() {
        return Err(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("unreadable answer: {e}"))
}

/// Runs `FUNCTION VERB` as `oncue up` would run it, with `input` on stdin, and reads the JSON it answers.
pub async fn ask<T: DeserializeOwned>(
    bin: &Path,
    config: &Config,
    function: &str,
    verb: &str,
    input: &[u8],
) -> Result<T, String> {
    let program = bin.join(function);
    if !program.is_file() {
        return Err(format!(
            "no program {function} in {}; name the folder with --bin",
            bin.display()
        ));
    }
    let mut child = command(bin, config, function)?
        .arg(verb)
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    // Dropped when all is written: the program reads to the end.
    let mut stdin = child.stdin.take().ok_or("its stdin is closed")?;
    let feed = async move {
        let _ = stdin.write_all(input).await; // one that ended before says why by its exit
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(|e| e.to_string())?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why
            .trim()
            .trim_start_matches(function)
            .trim_start_matches(": ");
        return Err(if why.is_empty() {
            output.status.to_string()
        } else {
            why.to_owned()
        });
    }
    // What the handler itself prints comes before the answer.
    let stdout = String::from_utf8_lossy(&output.stdout);
    let answer = stdout.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(answer).map_err(|e| format!("unreadable answer: {e}"))
}

fn command(bin: &Path, config: &Config, function: &str) -> Result<Command, String> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut command = Command::new(absolute(&bin.join(function))?);
    command
        .env("ONCUE_NATS_URL", config.nats_url.expose())
        .env("ONCUE_REDIS_URL", config.redis_url.expose());
    if let Some(path) = &config.path {
        command.env("ONCUE_CONFIG", absolute(path)?);
    }
    command.envs(config.function(function).env);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}
