//! Makes small upright copies of accepted pictures. Their object names follow from the file, so a second run writes
//! the same objects again and leaves nothing behind.

use std::process::ExitCode;
use std::time::Duration;

use oncue::{Context, Function, Result, reject};
use oncue_app_events::files::{FileAccepted, ThumbnailMade};
use oncue_workers::picture;

const EDGES: [u32; 3] = [64, 256, 1024];
const PICTURES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

async fn make_thumbnails(
    file: FileAccepted,
    _: &mut (),
    context: &Context,
) -> Result<Vec<ThumbnailMade>> {
    if !PICTURES.contains(&file.media_type.as_str()) {
        return Ok(Vec::new());
    }
    let Some(bytes) = context
        .files()
        .read(&file.file, picture::MAX_BYTES as u64)
        .await?
    else {
        return Err(reject(format!("there is no file {:?}", file.file)));
    };
    // Decoding takes a whole core for a while; on a thread of its own the worker goes on talking to the server.
    let thumbnails =
        tokio::task::spawn_blocking(move || picture::thumbnails(&bytes, &EDGES)).await?;
    let mut made = Vec::new();
    for thumbnail in thumbnails.map_err(reject)? {
        let object = format!("{}.{}", file.file, thumbnail.edge);
        let size = thumbnail.bytes.len() as u64;
        context
            .files()
            .put(
                &object,
                &[("media_type", thumbnail.media_type)],
                thumbnail.bytes,
            )
            .await?;
        made.push(ThumbnailMade {
            file: file.file.clone(),
            edge: thumbnail.edge,
            width: thumbnail.width,
            height: thumbnail.height,
            media_type: thumbnail.media_type.into(),
            size,
            object,
        });
    }
    Ok(made)
}

fn main() -> ExitCode {
    // One at a time: a decoded picture may take half a gigabyte. More pictures per second are more replicas.
    oncue::run(
        Function::new("make-thumbnails", make_thumbnails)
            .version(env!("CARGO_PKG_VERSION"))
            .writes_files()
            .concurrency(1)
            .timeout(Duration::from_mins(2)),
    )
}
