//! `oncue completions SHELL`: the completion script of a shell, for example `oncue completions bash >
//! /etc/bash_completion.d/oncue`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::exit;
use crate::terminal::paint::say;

#[derive(clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> u8 {
    say(script(args.shell).trim_end());
    exit::OK
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut crate::Cli::command(), "oncue", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_shell_can_read_its_script() {
        let shells = [
            (Shell::Bash, "bash"),
            (Shell::Zsh, "zsh"),
            (Shell::Fish, "fish"),
        ];
        for (shell, program) in shells {
            let script = script(shell);
            assert!(script.contains("redrive"), "{program}: verbs are missing");
            // A shell that is not on this machine cannot be asked; bash is on all.
            match Command::new(program).args(["-n", "-c", &script]).status() {
                Ok(status) => assert!(status.success(), "{program} cannot read its script"),
                Err(e) => assert_ne!(program, "bash", "{e}"),
            }
        }
    }
}
