//! `oncue demo`: the demo app that came with an installed `oncue`, in a folder of its own, to run and to play with.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::{self, Failure};
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
    copy(&source, folder)
        .and_then(|()| name_programs(folder, &source.join(PROGRAMS)))
        .map_err(|e| Failure::failed(format_args!("{shown}: {e}")))?;
    say(format_args!(
        "{} Then:\n\n    cd {shown}\n    oncue up\n",
        paint(GOOD, format_args!("{shown} is made."))
    ));
    Ok(exit::OK)
}

/// Copies all but the programs, which stay where they were installed.
fn copy(source: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in source.read_dir()? {
        let entry = entry?;
        let from = entry.path();
        let to = folder.join(entry.file_name());
        if from.is_file() {
            // Written, not copied: what was installed may be read-only, and this is to be changed.
            fs::write(to, fs::read(from)?)?;
        } else if entry.file_name() != PROGRAMS {
            copy(&from, &to)?;
        }
    }
    Ok(())
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
