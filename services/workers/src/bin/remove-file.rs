//! The compensation: the bytes of a rejected file go away.

use std::process::ExitCode;

use oncue::{Context, Function, Result};
use oncue_app_events::files::{FileRejected, FileRemoved};

async fn remove_file(rejected: FileRejected, _: &mut (), context: &Context) -> Result<FileRemoved> {
    context.files().delete(&rejected.file).await?;
    Ok(FileRemoved {
        file: rejected.file,
    })
}

fn main() -> ExitCode {
    oncue::run(
        Function::new("remove-file", remove_file)
            .version(env!("CARGO_PKG_VERSION"))
            .writes_files(),
    )
}
