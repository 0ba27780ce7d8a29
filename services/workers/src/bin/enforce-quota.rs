//! Keeps each owner's files within `QUOTA_BYTES` (default 100 MiB): a file is accepted or rejected, one after another
//! for each owner.

use std::process::ExitCode;
use std::sync::OnceLock;

use oncue::{Context, Function, Result, State, events};
use oncue_app_events::files::{FileAccepted, FileInspected, FileRejected};
use serde::{Deserialize, Serialize};

events! {
    enum Verdict { Accepted(FileAccepted), Rejected(FileRejected) }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Owner {
    files: u64,
    bytes: u64,
}

impl State for Owner {
    const TABLE: &'static str = "owners";
}

static QUOTA: OnceLock<u64> = OnceLock::new();

async fn enforce_quota(file: FileInspected, owner: &mut Owner, _: &Context) -> Result<Verdict> {
    let quota = *QUOTA.get_or_init(|| 100 << 20);
    let free = quota.saturating_sub(owner.bytes);
    if file.size > free {
        let reason = format!(
            "{} bytes, and {free} of the owner's {quota} are free",
            file.size
        );
        return Ok(FileRejected {
            file: file.file,
            owner: file.owner,
            reason,
        }
        .into());
    }
    owner.files += 1;
    owner.bytes += file.size;
    Ok(FileAccepted {
        file: file.file,
        owner: file.owner,
        size: file.size,
        media_type: file.media_type,
    }
    .into())
}

fn main() -> ExitCode {
    if let Ok(text) = std::env::var("QUOTA_BYTES") {
        let Ok(quota) = text.parse() else {
            eprintln!("enforce-quota: QUOTA_BYTES is {text:?}, not a number of bytes");
            return ExitCode::from(2);
        };
        let _ = QUOTA.set(quota);
    }
    oncue::run(
        Function::new("enforce-quota", enforce_quota)
            .version(env!("CARGO_PKG_VERSION"))
            .keyed_by("owner", |file: &FileInspected| file.owner.clone()),
    )
}
