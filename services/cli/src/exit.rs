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

/// Words of servers and their clients to whoever has shown no credentials, or wrong ones.
const LOCKED_OUT: [&str; 5] = [
    "there are no credentials for it",
    "authorization violation",
    "NOAUTH",
    "WRONGPASS",
    "AuthenticationFailed",
];
/// Remedy for whoever is locked out. Starting servers is none: they run.
const CREDENTIALS: &str = "work in the folder of the app whose `oncue up` has started the servers, with their keys in .oncue/keys; \
                           elsewhere name [nats] credentials and [redis] password_file";

/// Remedy for an error of a server: credentials where those are missing, else `usual`.
pub fn remedy<'u>(error: &str, usual: &'u str) -> &'u str {
    if LOCKED_OUT.iter().any(|words| error.contains(words)) {
        CREDENTIALS
    } else {
        usual
    }
}

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
        let failure = Self::new(SILENT, what);
        let advice = remedy(
            &failure.what,
            "start everything with `oncue up`, or name another server with --nats or --redis",
        );
        failure.advise(advice)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_locked_out_is_told_of_credentials_alone() {
        for words in [
            "streams: this NATS is locked, and there are no credentials for it: name some (401/0)",
            "cannot reach NATS at nats://n: authorization violation: nats: authorization violation",
            "Redis: \"NOAUTH\": Authentication required.",
            "cannot reach Redis at redis://r: Password authentication failed - AuthenticationFailed",
        ] {
            let failure = Failure::silent(words);
            assert_eq!(failure.advice.as_deref(), Some(CREDENTIALS), "{words}");
        }
        let away = Failure::silent("cannot reach NATS at nats://n: Connection refused");
        assert!(
            away.advice
                .is_some_and(|advice| advice.contains("`oncue up`,"))
        );
    }
}
