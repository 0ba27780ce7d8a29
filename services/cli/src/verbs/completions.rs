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
    let mut script = Vec::new();
    generate(args.shell, &mut crate::Cli::command(), "oncue", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    exit::OK
}
