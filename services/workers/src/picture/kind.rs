//! Media types told from first bytes, held against names.

use super::{Refused, refused};

/// Bytes looked at when telling text from anything else.
const HEAD: usize = 4096;
/// Bytes within which a PDF begins, whatever stands before [ISO 32000-1 Annex H.3, implementation note 13].
const PDF_START: usize = 1024;

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
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => "application/zip",
        [0x1F, 0x8B, 8, ..] => "application/gzip",
        [_, _, _, _, b'f', b't', b'y', b'p', _, _, _, _, ..] => boxed(head),
        _ if is_pdf(head) => "application/pdf",
        _ if is_text(&head[..head.len().min(HEAD)]) => "text/plain",
        _ => "application/octet-stream",
    }
}

/// Files of the ISO base media family share a layout and tell their kind by brands: first the one they follow best, then
/// all that they are compatible with [ISO/IEC 14496-12 section 4.3]. `head` begins with the box that lists them.
fn boxed(head: &[u8]) -> &'static str {
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let brands = &head[8..head.len().min(length.max(12))];
    // Behind the first brand stands its version.
    let compatible = brands.chunks_exact(4).skip(2);
    let mut known = std::iter::once(&brands[..4])
        .chain(compatible)
        .filter_map(of_brand);
    let first = known.next();
    // A general brand leaves it to the others to say which coding is meant.
    match first {
        Some("image/heif") => known
            .find(|kind| matches!(*kind, "image/avif" | "image/heic"))
            .unwrap_or("image/heic"),
        Some(kind) => kind,
        None => "application/octet-stream",
    }
}

/// Kind of files that follow a brand, as registered at mp4ra.org.
fn of_brand(brand: &[u8]) -> Option<&'static str> {
    Some(match brand {
        b"avif" | b"avis" => "image/avif",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => {
            "image/heic"
        }
        b"mif1" | b"mif2" | b"msf1" | b"miaf" => "image/heif",
        b"qt  " => "video/quicktime",
        b"M4A " | b"M4B " | b"M4P " => "audio/mp4",
        [b'3', b'g', ..] => "video/3gpp",
        [b'i', b's', b'o', b'm' | b'2'..=b'9' | b'a'..=b'c']
        | b"mp41"
        | b"mp42"
        | b"mp71"
        | b"avc1"
        | b"av01"
        | b"hvc1"
        | b"dash"
        | b"cmfc"
        | b"cmf2"
        | b"MSNV"
        | b"mmp4"
        | b"f4v "
        | b"F4V "
        | b"M4V "
        | b"M4VH"
        | b"M4VP"
        | [b'N', b'D', ..] => "video/mp4",
        _ => return None,
    })
}

/// Whether the mark of a PDF stands near the start, at the beginning of a line: a byte order mark or the header of a mail
/// may come before it, while a text that speaks of PDF has it within one.
fn is_pdf(head: &[u8]) -> bool {
    const MARK: &[u8] = b"%PDF-";
    let head = &head[..head.len().min(PDF_START + MARK.len())];
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let mut windows = head.windows(MARK.len() + 1);
    head.starts_with(MARK)
        || windows.any(|window| matches!(window[0], b'\n' | b'\r') && window[1..] == *MARK)
}

/// Text in UTF-8, in UTF-16 with a byte order mark, or in a code page of eight bits, such as Windows-1252, where every
/// byte but the control characters of ASCII may stand for something.
fn is_text(head: &[u8]) -> bool {
    match head {
        [0xFF, 0xFE, units @ ..] => is_utf16(units, u16::from_le_bytes),
        [0xFE, 0xFF, units @ ..] => is_utf16(units, u16::from_be_bytes),
        _ => head
            .iter()
            .all(|byte| !byte.is_ascii() || is_text_char(char::from(*byte))),
    }
}

/// At least one character, and nothing that is none. The head may end within one of two units.
fn is_utf16(bytes: &[u8], read: fn([u8; 2]) -> u16) -> bool {
    let mut units: Vec<u16> = bytes.as_chunks().0.iter().map(|unit| read(*unit)).collect();
    units.pop_if(|last| matches!(last, 0xD800..=0xDBFF));
    !units.is_empty() && char::decode_utf16(units).all(|c| c.is_ok_and(is_text_char))
}

/// No control character but tab, line and page breaks.
fn is_text_char(c: char) -> bool {
    !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0C')
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
        "heic" | "heif" => "image/heic",
        "avif" => "image/avif",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "mp4" => "video/mp4",
        "txt" => "text/plain",
        _ => return Ok(()),
    };
    // One container under several names: telephones call all of them .mp4.
    let is_mp4 = matches!(media_type, "video/3gpp" | "video/quicktime" | "audio/mp4");
    if claimed == media_type || (claimed == "video/mp4" && is_mp4) {
        return Ok(());
    }
    refused(
        "name-lies",
        format!("named .{extension} but holds {media_type}"),
    )
}
