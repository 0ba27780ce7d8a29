//! `oncue completions SHELL`: for example `oncue completions bash > /etc/bash_completion.d/oncue`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::exit;

#[derive(clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> u8 {
    let mut script = Vec::new();
    generate(args.shell, &mut crate::Cli::command(), "oncue", &mut script);
    crate::paint::say(String::from_utf8_lossy(&script).trim_end());
    exit::OK
}
