//! `oncue dlq`: events that were set aside. Letters of one cause are a group, so that a thousand failures of one line
//! of code are one thing to decide on.

mod drop;
mod dry_run;
mod edit;
mod list;
mod owner;
mod redrive;
mod show;
mod target;

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List dead letters in groups of one cause.
    Ls(list::Args),
    /// Show one letter whole, with its payload and the link to its trace.
    Show(show::Args),
    /// See to a group from now on, so that nobody else begins the same; or let it go.
    Take(owner::Args),
    /// Give letters back to the function that set them aside, and to no other.
    Redrive(redrive::Args),
    /// Send the event of one letter again with another payload, to its function alone; the letter goes, on record.
    Edit(edit::Args),
    /// Give letters up, leaving a record of who did and why.
    Drop(drop::Args),
    /// List the letters that were given up.
    Dropped(drop::ListArgs),
}

impl Verb {
    /// Whether it changes what an app has on the servers.
    pub fn changes_an_app(&self) -> bool {
        matches!(
            self,
            Self::Take(_) | Self::Redrive(_) | Self::Edit(_) | Self::Drop(_)
        )
    }
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    match verb {
        Verb::Ls(args) => list::run(&args, settings).await,
        Verb::Show(args) => show::run(&args, settings).await,
        Verb::Take(args) => owner::run(&args, settings).await,
        Verb::Redrive(args) => redrive::run(&args, settings).await,
        Verb::Edit(args) => edit::run(&args, settings).await,
        Verb::Drop(args) => drop::run(&args, settings).await,
        Verb::Dropped(args) => drop::list(&args, settings).await,
    }
}
