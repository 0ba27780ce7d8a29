//! Media types told from first bytes, held against names.

use super::{Refused, refused};

/// Bytes looked at when telling text from anything else.
const HEAD: usize = 4096;

/// The media type the first bytes show; `application/octet-stream` when they show none.
///
/// Any longer input is fine, only its head is read. A table of our own, because the crates that know hundreds of
/// types do so by two-byte signatures: to them a note that begins with "BM" is a bitmap.
pub fn sniff(head: &[u8]) -> &'static str {
    match head {
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => "image/png",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "image/webp",
        [b'%', b'P', b'D', b'F', b'-', ..] => "application/pdf",
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => "application/zip",
        [0x1F, 0x8B, 8, ..] => "application/gzip",
        [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] => boxed([*a, *b, *c, *d]),
        _ if is_text(&head[..head.len().min(HEAD)]) => "text/plain",
        _ => "application/octet-stream",
    }
}

/// Files of the ISO base media family share a layout and tell their kind by brand [ISO/IEC 14496-12 section 4.3].
fn boxed(brand: [u8; 4]) -> &'static str {
    match &brand {
        b"heic" | b"heix" | b"mif1" => "image/heic",
        b"avif" => "image/avif",
        b"isom" | b"iso2" | b"iso4" | b"iso5" | b"iso6" | b"mp41" | b"mp42" | b"avc1" | b"dash"
        | b"M4V " => "video/mp4",
        _ => "application/octet-stream",
    }
}

/// UTF-8 without control characters but tab, line and page breaks. The head may end within a character.
fn is_text(head: &[u8]) -> bool {
    let text = match str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0C'))
}

/// Refuses a file whose name ends in a known extension and whose bytes are something else; `media_type` is what
/// [`sniff`] said. A name without an extension, or with one not known here, claims nothing and passes.
pub fn check_name(name: &str, media_type: &str) -> Result<(), Refused> {
    let extension = name
        .rsplit_once('.')
        .map_or("", |(_, extension)| extension)
        .to_ascii_lowercase();
    let claimed = match extension.as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "avif" => "image/avif",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "mp4" => "video/mp4",
        "txt" => "text/plain",
        _ => return Ok(()),
    };
    if claimed == media_type {
        return Ok(());
    }
    refused(
        "name-lies",
        format!("named .{extension} but holds {media_type}"),
    )
}
