//! Reads an uploaded file to find out what it really is. One that lies about itself, or would be a bomb to whoever
//! opens it, is rejected with its reason.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use oncue::{Context, Function, Result, events, reject};
use oncue_app_events::files::{FileInspected, FileRejected};
use oncue_proto::files::FileUploaded;
use oncue_workers::picture::{self, Inspection, Refused};
use sha2::{Digest, Sha256};

events! {
    enum Verdict { Inspected(FileInspected), Rejected(FileRejected) }
}

async fn inspect_file(upload: FileUploaded, _: &mut (), context: &Context) -> Result<Verdict> {
    let Some(parts) = context.files().open(&upload.file).await? else {
        return Err(reject(format!("there is no file {:?}", upload.file)));
    };
    let content = read(parts).await?;
    let lies = !upload.sha256.is_empty() && !upload.sha256.eq_ignore_ascii_case(&content.sha256);
    let inspection = match &content.bytes {
        _ if lies => Err(format!(
            "its SHA-256 is {}, not {} as announced",
            content.sha256, upload.sha256
        )),
        Some(bytes) => examine(&upload.name, bytes).map_err(|refused| refused.to_string()),
        None => Err(format!(
            "more than {} bytes, too large for a picture",
            picture::MAX_BYTES
        )),
    };
    Ok(match inspection {
        Ok(found) => Verdict::Inspected(FileInspected {
            file: upload.file,
            name: upload.name,
            owner: upload.owner,
            size: content.size,
            sha256: content.sha256,
            media_type: found.media_type.into(),
            width: found.width,
            height: found.height,
            orientation: if found.width > 0 {
                found.orientation.into()
            } else {
                0
            },
        }),
        Err(reason) => Verdict::Rejected(FileRejected {
            file: upload.file,
            owner: upload.owner,
            reason,
        }),
    })
}

struct Content {
    size: u64,
    sha256: String,
    /// Kept only while the file may be a picture we can open; its head, if it is none. Nothing for an oversized
    /// picture.
    bytes: Option<Vec<u8>>,
}

/// Enough to tell every media type.
const HEAD: usize = 8 << 10;

async fn read(
    parts: impl futures_util::Stream<Item = std::io::Result<impl AsRef<[u8]>>>,
) -> Result<Content> {
    let mut parts = std::pin::pin!(parts);
    let mut sha = Sha256::new();
    let mut size = 0u64;
    let mut bytes = Vec::new();
    let mut oversized = false;
    while let Some(part) = parts.next().await {
        let part = part?;
        let part = part.as_ref();
        sha.update(part);
        size += part.len() as u64;
        let picture = bytes.is_empty() || picture::sniff(&bytes).starts_with("image/");
        oversized |= picture && bytes.len() + part.len() > picture::MAX_BYTES;
        if bytes.len() < HEAD || (picture && !oversized) {
            bytes.extend_from_slice(part);
        }
    }
    let sha256 = sha
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Content {
        size,
        sha256,
        bytes: (!oversized).then_some(bytes),
    })
}

fn examine(name: &str, bytes: &[u8]) -> Result<Inspection, Refused> {
    let inspection = picture::inspect(bytes)?;
    picture::check_name(name, inspection.media_type)?;
    Ok(inspection)
}

fn main() -> ExitCode {
    // Each file in hand may take as much memory as the largest picture.
    oncue::run(
        Function::new("inspect-file", inspect_file)
            .version(env!("CARGO_PKG_VERSION"))
            .reads_files()
            .concurrency(4)
            .timeout(Duration::from_mins(5)),
    )
}
