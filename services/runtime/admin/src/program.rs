//! A function's own program, run to be asked something: only its code knows its key and its handler. It needs no
//! server for its manifest; for the rest it is given the same environment as under `oncue up`.
//!
//! A program is found by name in one folder, never in `PATH`, and runs as a child process: one process for each
//! question, killed when the future of the question is dropped. Answers are JSON on stdout. Questions: `--manifest`
//! (what the function is), `--audit` (what became of its events, [`crate::audit`]), and `--try` (what it would do with
//! a dead letter, [`crate::dead_letters::attempt`]), which is a conversation.

pub mod logs;
pub(crate) mod shielded;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStderr, Command};

use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_core::process;
use oncue_core::program::Program;

/// Longest wait for a manifest.
/// A program only prints a constant then, but a machine under load may start a hundred of them at once.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the first line of an answer that may take minutes.
pub(crate) const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that could not be asked, or did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such file in the folder of the programs.
    /// Of [`ask`]; a manifest of a program that is not there is [`Broken`](Self::Broken).
    #[error("no program {function} in {}; name the folder with --bin", bin.display())]
    Missing { function: String, bin: PathBuf },
    /// The system cannot run it: no permission, another machine's binary.
    /// (Not found is [`Missing`](Self::Missing).)
    #[error("{}: {source}", path.display())]
    Run {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The pipe to it broke while it ran.
    #[error(transparent)]
    Broken(#[from] std::io::Error),
    /// Some programs are no functions and wait for input for ever.
    /// Only a manifest has a time limit: an audit may take minutes.
    #[error("no answer within {MANIFEST_TIMEOUT:?}")]
    Silent,
    /// Runs, and says nothing: it is no function, or does not know the question.
    #[error(
        "{function} runs with {verb} and says nothing: is it built with a library of another version?"
    )]
    Deaf { function: String, verb: String },
    /// Exit code other than 0, and not a word on stderr.
    #[error("{0}")]
    Ended(ExitStatus),
    /// Exit code other than 0; the text is what it wrote on stderr.
    /// It is without the function's name.
    #[error("{0}")]
    Refused(String),
    /// The last line it printed is not the JSON that was asked for: it may be of another version.
    #[error("unreadable answer: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Manifest of the function `name`, from its program, which lies in the folder `bin`. No server is needed and none is asked, so
/// this works on a machine that has nothing but the programs.
///
/// Costs one process. The answer tells what the program on this disk is, which need not be what runs: a worker that
/// was started before the last build is of another version.
///
/// # Errors
/// [`ProgramError::Broken`] where it cannot be run, [`Silent`](ProgramError::Silent) after 10 s,
/// [`Refused`](ProgramError::Refused) with any exit code but 0, [`Unreadable`](ProgramError::Unreadable) where
/// stdout is no manifest, as of a program that is no function.
pub async fn manifest(config: &Config, bin: &Path, name: &str) -> Result<Manifest, ProgramError> {
    let asked = Program::of(config, bin, name)
        .command()?
        .arg("--manifest")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(MANIFEST_TIMEOUT, asked)
        .await
        .map_err(|_| ProgramError::Silent)??;
    if !output.status.success() {
        return Err(refusal(name, output.status, &output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs `FUNCTION VERB` with whatever arguments the verb has, as `oncue up` would run it, and reads the JSON of the last line it prints. The other lines of
/// stdout are thrown away.
///
/// The program gets the servers of `config` in `ONCUE_NATS_URL` and `ONCUE_REDIS_URL`, the file in `ONCUE_CONFIG`,
/// and the variables of its own section, which win. It prints a line as soon as it has understood; from then on there is no
/// time limit: whoever does not want to wait drops the future, which kills the program.
///
/// # Errors
/// [`ProgramError::Missing`] without a file of that name, [`Run`](ProgramError::Run) where it cannot be started,
/// [`Deaf`](ProgramError::Deaf) where it prints nothing within 10 s,
/// [`Refused`](ProgramError::Refused) or [`Ended`](ProgramError::Ended) with any exit code but 0,
/// [`Unreadable`](ProgramError::Unreadable) where the last line is not a `T`.
pub async fn ask<T: DeserializeOwned>(
    bin: &Path,
    config: &Config,
    function: &str,
    arguments: &[&str],
) -> Result<T, ProgramError> {
    let mut command = command(bin, config, function)?;
    let spawned = command.args(arguments).stdin(Stdio::null()).spawn();
    let mut child = spawned.map_err(|source| ProgramError::Run {
        path: bin.join(function),
        source,
    })?;
    let said = tokio::spawn(read_whole(child.stderr.take()));
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(no_pipe)?).lines();
    let first = tokio::time::timeout(FIRST_WORD_TIMEOUT, lines.next_line()).await;
    let mut answer = first.map_err(|_| ProgramError::Deaf {
        function: function.to_owned(),
        verb: arguments.first().copied().unwrap_or_default().to_owned(),
    })??;
    while let Some(line) = lines.next_line().await? {
        answer = Some(line);
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(refusal(function, status, &said.await.unwrap_or_default()));
    }
    Ok(serde_json::from_str(&answer.unwrap_or_default())?)
}

/// Error of a child without the pipes it was given.
pub(crate) fn no_pipe() -> ProgramError {
    std::io::Error::other("no pipe to it").into()
}

/// All that a program writes on stderr, to its end.
pub(crate) async fn read_whole(stderr: Option<ChildStderr>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(mut stderr) = stderr {
        // Whatever came until then is what is known of its end.
        let _ = stderr.read_to_end(&mut said).await;
    }
    said
}

/// Words of a program that failed, without its name in front: whoever shows them names it already.
pub(crate) fn refusal(function: &str, status: ExitStatus, stderr: &[u8]) -> ProgramError {
    let why = String::from_utf8_lossy(stderr);
    let mut why = why.trim();
    // A host says once more what its child has said.
    if let Some((said, last)) = why.split_once('\n')
        && last.ends_with(said)
    {
        why = last;
    }
    let why = why.trim_start_matches(function).trim_start_matches(": ");
    if why.is_empty() {
        ProgramError::Ended(status)
    } else {
        ProgramError::Refused(why.to_owned())
    }
}

/// The program with the servers, the configuration and the environment `oncue.toml` gives it.
pub(crate) fn command(
    bin: &Path,
    config: &Config,
    function: &str,
) -> Result<Command, ProgramError> {
    let program = Program::of(config, bin, function);
    if !program.is_there() {
        return Err(ProgramError::Missing {
            function: function.to_owned(),
            bin: bin.to_owned(),
        });
    }
    let mut command = Command::new(absolute(&program.path)?);
    let of_function = config.function(function);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(process::environment(&of_function.inherit))
        .envs(config.servers());
    if let Some(path) = &config.path {
        command.env("ONCUE_CONFIG", absolute(path)?);
    }
    command.envs(of_function.env);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// A command with a relative name would be looked for in `PATH`.
fn absolute(path: &Path) -> Result<PathBuf, ProgramError> {
    std::path::absolute(path).map_err(|source| ProgramError::Run {
        path: path.to_owned(),
        source,
    })
}
