//! Exit codes, the same for every verb, and the error that carries one.

use std::fmt;

/// The verb did its work.
pub const OK: u8 = 0;
/// The verb did not work, or found something that must be fixed.
pub const FAILED: u8 = 1;
/// Wrong arguments or configuration; nothing was opened. Clap exits with this code too.
pub const USAGE: u8 = 2;
/// `apply --dry-run` found something to change.
pub const DIFFERENT: u8 = 3;
/// NATS, Redis or the functions asked do not answer.
pub const SILENT: u8 = 4;

/// Table at the end of `oncue --help`.
pub const HELP: &str = "Exit codes:
  0  done
  1  failed, or (doctor, health, audit, check) something must be fixed
  2  wrong arguments or configuration; nothing was opened
  3  apply --dry-run: something would change
  4  NATS, Redis or the functions asked do not answer";

/// Error that ends a verb: exit code, what went wrong, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub what: String,
    pub advice: Option<String>,
}

impl Failure {
    pub fn new(code: u8, what: impl fmt::Display) -> Self {
        Self {
            code,
            what: what.to_string(),
            advice: None,
        }
    }

    pub fn failed(what: impl fmt::Display) -> Self {
        Self::new(FAILED, what)
    }

    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(USAGE, what)
    }

    /// Failure for a server that does not answer, with the usual remedy.
    pub fn silent(what: impl fmt::Display) -> Self {
        Self::new(SILENT, what).advise(
            "start everything with `oncue up`, or name another server with --nats or --redis",
        )
    }

    /// Failure of two things, each with its remedy.
    pub fn and(mut self, other: &Self) -> Self {
        if let Some(advice) = self.advice.take() {
            self.what = format!("{}\n  {advice}", self.what);
        }
        self.what = format!("{}\noncue: {}", self.what, other.what);
        self.advice.clone_from(&other.advice);
        self
    }

    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}
