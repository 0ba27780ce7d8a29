//! Follows each file through its flow: the row a page shows.
//!
//! Events of one file may come in any order (a retry overtakes), so the row keeps the furthest stage it has heard of
//! and fills in whatever each event knows.

use std::process::ExitCode;

use oncue::{Context, Function, Result, State, events};
use oncue_app_events::files::{
    FileAccepted, FileInspected, FileRejected, FileRemoved, ThumbnailMade,
};
use oncue_proto::files::FileUploaded;
use serde::{Deserialize, Serialize};

events! {
    enum FileEvent {
        Uploaded(FileUploaded),
        Inspected(FileInspected),
        Accepted(FileAccepted),
        Rejected(FileRejected),
        Removed(FileRemoved),
        Thumbnail(ThumbnailMade),
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct File {
    name: String,
    owner: String,
    size: u64,
    sha256: String,
    media_type: String,
    width: u32,
    height: u32,
    status: Status,
    reason: Option<String>,
    thumbnails: Vec<Thumbnail>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[default]
    Uploaded,
    Inspected,
    Accepted,
    Rejected,
    Removed,
}

#[derive(Clone, Serialize, Deserialize)]
struct Thumbnail {
    edge: u32,
    width: u32,
    height: u32,
    media_type: String,
    object: String,
}

impl State for File {
    const TABLE: &'static str = "files";
}

async fn track_file(event: FileEvent, file: &mut File, _: &Context) -> Result<()> {
    let reached = match event {
        FileEvent::Uploaded(upload) => {
            (file.name, file.owner, file.size, file.sha256) =
                (upload.name, upload.owner, upload.size, upload.sha256);
            Status::Uploaded
        }
        FileEvent::Inspected(found) => {
            (file.media_type, file.width, file.height) =
                (found.media_type, found.width, found.height);
            Status::Inspected
        }
        FileEvent::Accepted(_) => Status::Accepted,
        FileEvent::Rejected(rejected) => {
            file.reason = Some(rejected.reason);
            Status::Rejected
        }
        FileEvent::Removed(_) => Status::Removed,
        FileEvent::Thumbnail(made) => {
            let ThumbnailMade {
                edge,
                width,
                height,
                media_type,
                object,
                ..
            } = made;
            file.thumbnails.retain(|thumbnail| thumbnail.edge != edge);
            file.thumbnails.push(Thumbnail {
                edge,
                width,
                height,
                media_type,
                object,
            });
            file.thumbnails.sort_by_key(|thumbnail| thumbnail.edge);
            Status::Accepted
        }
    };
    file.status = file.status.max(reached);
    Ok(())
}

fn main() -> ExitCode {
    oncue::run(Function::new("track-file", track_file).version(env!("CARGO_PKG_VERSION")))
}
