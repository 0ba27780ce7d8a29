//! Program of a function: its own, called as the function; or `oncue-host` with the function's name, where `oncue.toml` says
//! how its handler is run.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::config::Config;

/// Program that is the worker of functions whose handlers are other programs.
pub const HOST: &str = "oncue-host";

/// Variable with the path of the host, for what makes types of the contract or tests functions, and asks it for the contract.
pub const HOST_VARIABLE: &str = "ONCUE_HOST";

/// The host beside this very program, if it is there.
pub fn host() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let host = own.parent()?.join(HOST);
    host.is_file().then_some(host)
}

/// Program, and the arguments that make it the function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it lies, or would.
    pub path: PathBuf,
    /// Arguments in front of all others.
    pub arguments: Vec<String>,
    /// Configuration that says what it runs; `None` for a program that is the function itself.
    config: Option<PathBuf>,
}

impl Program {
    /// Program of a function, in the folder `bin`; the host may lie beside this very program as well.
    pub fn of(config: &Config, bin: &Path, function: &str) -> Self {
        if !config.function(function).is_hosted() {
            return Self {
                path: bin.join(function),
                arguments: Vec::new(),
                config: None,
            };
        }
        let among = bin.join(HOST);
        let beside = host();
        Self {
            path: match beside {
                Some(beside) if !among.is_file() => beside,
                _ => among,
            },
            arguments: vec![function.to_owned()],
            config: config.path.clone(),
        }
    }

    /// Whether the program is there.
    pub fn is_there(&self) -> bool {
        self.path.is_file()
    }

    /// Command that asks it something.
    ///
    /// # Errors
    /// There is no current folder to which its path is relative.
    pub fn command(&self) -> std::io::Result<Command> {
        // A command with a relative name would be looked for in `PATH`.
        let mut command = Command::new(std::path::absolute(&self.path)?);
        command.args(&self.arguments);
        if let Some(config) = &self.config {
            command.env("ONCUE_CONFIG", std::path::absolute(config)?);
        }
        Ok(command)
    }
}
