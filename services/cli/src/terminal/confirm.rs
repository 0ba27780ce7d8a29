//! Confirmation of a change that cannot be taken back.

use std::io::{self, IsTerminal, Write};

use super::paint::{BOLD, paint};
use crate::exit::Failure;

/// Asks y/N on a terminal. Elsewhere nobody can answer, so `--yes` must have been given: a script that forgot it
/// changes nothing, rather than all of it.
pub fn ask(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(
            Failure::usage(format_args!("{question} Nobody can be asked here"))
                .advise("nothing was done; if you mean it, say so with --yes"),
        );
    }
    // On stderr, so that stdout holds the result alone, also where it is piped.
    let _ = write!(anstream::stderr(), "{} [y/N] ", paint(BOLD, question));
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::failed("not done, as you said"))
}
