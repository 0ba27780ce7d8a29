//! `oncue demo`: the demo app that came with an installed `oncue`, in a folder of its own, to run and to play with.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::{self, Failure};
use crate::folder::copy;
use crate::settings;
use crate::terminal::paint::{GOOD, paint, say};

/// Folder of the programs, in that of the demo as it was installed.
const PROGRAMS: &str = "bin";

#[derive(clap::Args)]
pub struct Args {
    /// Folder to make.
    #[arg(default_value = "demo", value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: &Args) -> Result<u8, Failure> {
    let Some(source) = settings::installed("demo") else {
        return Err(Failure::usage(
            "the demo comes with an installed `oncue`, and this one is of a checkout",
        )
        .advise("`make up` runs the demo of a checkout"));
    };
    let folder = &args.folder;
    let shown = folder.display();
    if folder.exists() {
        return Err(
            Failure::usage(format_args!("{shown} is there already")).advise("name another folder")
        );
    }
    // Programs stay where they were installed.
    copy(&source, folder, PROGRAMS)
        .and_then(|()| name_programs(folder, &source.join(PROGRAMS)))
        .map_err(|e| Failure::failed(format_args!("{shown}: {e}")))?;
    say(format_args!(
        "{} Then:\n\n    cd {shown}\n    oncue up\n",
        paint(GOOD, format_args!("{shown} is made."))
    ));
    Ok(exit::OK)
}

/// Says in `oncue.toml` where the programs are.
fn name_programs(folder: &Path, programs: &Path) -> io::Result<()> {
    let programs = programs.display().to_string();
    let build = format!("\n# Built already.\n[build]\ncommand = []\nprograms = {programs:?}\n");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(folder.join("oncue.toml"))?;
    file.write_all(build.as_bytes())
}
