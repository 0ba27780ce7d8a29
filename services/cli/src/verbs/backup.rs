//! `oncue backup`: copies of both servers that fit together, taken while the app runs.

use std::path::PathBuf;

use oncue_admin::stores::backup::{self, BackupError};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{DIM, GOOD, paint, remark, say};

#[derive(clap::Args)]
pub struct Args {
    /// New or empty folder.
    dir: PathBuf,
    /// Print one JSON object: what the backup holds.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if settings.config.keep_outputs.0.is_zero() {
        return Err(Failure::usage(
            "keep_outputs is 0s, so what is published while the backup goes on would be missing in it",
        )
        .advise("give keep_outputs a time in oncue.toml, such as 5m, which is the default"));
    }
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let taken = backup::take(&bus, &store, &args.dir, &mut |line| {
        remark(paint(DIM, line));
    })
    .await;
    let contents = taken.map_err(failure)?;
    if args.json {
        say(serde_json::json!(contents));
        return Ok(exit::OK);
    }
    let dir = args.dir.display();
    say(paint(
        GOOD,
        format_args!("{dir} holds the app {}.", contents.app),
    ));
    remark(paint(
        DIM,
        "It holds events, rows and the secret of the app: keep it where only operators can read it. `oncue restore` puts it \
         back.",
    ));
    Ok(exit::OK)
}

/// Failure of a backup or a restore: the fault of a server, or that of whoever named the folder.
pub fn failure(error: BackupError) -> Failure {
    match error {
        BackupError::Server(e) => Failure::silent(e),
        BackupError::File { .. } => Failure::failed(error),
        BackupError::Unfit(why) => Failure::usage(why),
    }
}
