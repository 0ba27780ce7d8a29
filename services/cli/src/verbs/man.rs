//! `oncue man`: the manual page, made of the text of `--help`; `oncue man DIR` writes it there, and a page for each verb.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::exit::{self, Failure};
use crate::terminal::paint::say;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for the page of `oncue` and of each verb. Default: the page of `oncue` alone, on stdout.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<u8, Failure> {
    let command = crate::Cli::command().disable_help_subcommand(true);
    if let Some(folder) = &args.folder {
        return std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map(|()| exit::OK)
            .map_err(|e| Failure::failed(format_args!("{}: {e}", folder.display())));
    }
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .map_err(Failure::failed)?;
    say(String::from_utf8_lossy(&page).trim_end());
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page() {
        let folder = std::env::temp_dir().join(format!("oncue-man-{}", std::process::id()));
        let args = Args {
            folder: Some(folder.clone()),
        };
        assert_eq!(run(&args).unwrap(), exit::OK);
        for command in crate::Cli::command().get_subcommands() {
            let page = folder.join(format!("oncue-{}.1", command.get_name()));
            assert!(page.is_file(), "{} is missing", page.display());
        }
        let page = std::fs::read_to_string(folder.join("oncue.1")).unwrap();
        assert!(page.contains(env!("CARGO_PKG_VERSION")));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
