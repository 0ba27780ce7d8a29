//! Server programs on this machine: the first that is found and new enough.

use std::path::{Path, PathBuf};

use super::{SERVER_TIMEOUT, ServerKind};
use crate::exit::Failure;
use crate::settings::{Settings, own_folder};

/// Name a program prints in front of its version, and the oldest version that will do.
pub struct OldestVersion {
    pub name: &'static str,
    pub major: u64,
    pub minor: u64,
}

/// Program on PATH, in the data folder's `bin`, or beside this program; the error lists those that are too old.
pub async fn find(kind: &ServerKind, data: &Path, settings: &Settings) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain([data.join("bin"), settings.bin.clone()])
        .chain(own_folder().iter().flat_map(|own| with_checkout(own)))
        .collect();
    let mut refused = Vec::new();
    // Every folder for the usual name before any for the other: Valkey only where there is no fit Redis.
    for program in kind.programs {
        for folder in &folders {
            let candidate = folder.join(program);
            if !candidate.is_file() {
                continue;
            }
            match fits(kind, &candidate).await {
                Ok(()) => return std::path::absolute(candidate).map_err(Failure::failed),
                Err(why) => refused.push(format!("  {}: {why}", candidate.display())),
            }
        }
    }
    let wanted = kind.programs[0];
    let what = if refused.is_empty() {
        format!("{wanted} is not installed")
    } else {
        format!("no {wanted} that can be used\n{}", refused.join("\n"))
    };
    Err(Failure::failed(what).advise(kind.advice))
}

/// A folder of programs, and where `deploy/install.sh` puts servers if the folder is of a checkout: `target/PROFILE`.
fn with_checkout(own: &Path) -> Vec<PathBuf> {
    let checkout = own.ancestors().nth(2);
    let servers = checkout.map(|checkout| checkout.join(".oncue/bin"));
    [Some(own.to_owned()), servers]
        .into_iter()
        .flatten()
        .collect()
}

async fn fits(kind: &ServerKind, program: &Path) -> Result<(), String> {
    let asked = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(SERVER_TIMEOUT, asked).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => {
            return Err(format!(
                "--version does not answer within {SERVER_TIMEOUT:?}"
            ));
        }
    };
    check_version(kind.oldest, &String::from_utf8_lossy(&output.stdout))
}

/// Judges the answer to `--version`: `nats-server: v2.15.1`, `Redis server v=7.0.15 sha=...`, `Valkey server v=8.0.1
/// ...`
fn check_version(oldest: &[OldestVersion], text: &str) -> Result<(), String> {
    let known = oldest.iter().find(|oldest| text.starts_with(oldest.name));
    let Some((oldest, version)) = known.zip(version_in(text)) else {
        let first = text.lines().next().unwrap_or_default();
        return Err(format!("does not say its version ({first:?})"));
    };
    let OldestVersion { name, major, minor } = oldest;
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u64>().unwrap_or(0));
    let found = [parts.next().unwrap_or(0), parts.next().unwrap_or(0)];
    if found < [*major, *minor] {
        return Err(format!(
            "{name} is {version}; {major}.{minor} or later is needed"
        ));
    }
    Ok(())
}

/// Version behind the first `v` or `v=`.
fn version_in(text: &str) -> Option<&str> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix("v=").or_else(|| word.strip_prefix('v')))
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::super::{NATS, REDIS};
    use super::*;

    fn judged(kind: &ServerKind, text: &str) -> Result<(), String> {
        check_version(kind.oldest, text)
    }

    #[test]
    fn versions_are_judged() {
        assert_eq!(judged(&NATS, "nats-server: v2.15.1\n"), Ok(()));
        assert_eq!(
            judged(&NATS, "nats-server: v2.9.10\n").unwrap_err(),
            "nats-server is 2.9.10; 2.14 or later is needed"
        );
        let redis = "Redis server v=7.0.15 sha=0:0 malloc=jemalloc bits=64";
        assert_eq!(judged(&REDIS, redis), Ok(()));
        assert!(judged(&REDIS, "Redis server v=6.2.1 sha=0").is_err());
        assert!(judged(&REDIS, "Valkey server v=7.1.0 sha=0").is_err());
        assert!(judged(&REDIS, "").unwrap_err().contains("does not say"));
    }
}
