//! The outline of a picture file, walked without decoding any of it: facts the decoders tell too late or not at all.

use std::borrow::Cow;

use image::ImageFormat;

/// Facts that the outline of a file says.
#[derive(Default)]
pub(super) struct Outline {
    /// Whether the file holds all of its first frame.
    pub complete: bool,
    /// Whether there is a second frame.
    pub animated: bool,
    /// Bytes the decoder holds for each pixel beside the picture it returns.
    pub beside: u64,
}

pub(super) fn outline(format: ImageFormat, bytes: &[u8]) -> Outline {
    match format {
        ImageFormat::Jpeg => jpeg(bytes),
        ImageFormat::Png => png(bytes),
        ImageFormat::Gif => gif(bytes),
        _ => webp(bytes),
    }
}

/// Walks the markers up to the first scan, then looks for the end marker.
///
/// The walk is needed because the metadata may hold a preview, a whole JPEG with an end marker of its own. Within a
/// scan an `FF` byte is always escaped, so the bytes `FF D9` are the marker.
fn jpeg(bytes: &[u8]) -> Outline {
    let mut outline = Outline::default();
    let mut at = 2;
    while let Some(&[first, marker, high, low]) = bytes.get(at..at + 4) {
        match (first, marker) {
            (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, 0xDA) => {
                outline.complete = bytes[at..].windows(2).any(|pair| pair == [0xFF, 0xD9]);
                return outline;
            }
            (0xFF, 0..=0xFE) => {
                // A progressive picture is kept as 16-bit coefficients until its last scan is read.
                if matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE) {
                    outline.beside = 8;
                }
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => at += 1, // padding
        }
    }
    outline
}

/// Walks the chunks up to the end.
fn png(bytes: &[u8]) -> Outline {
    let mut outline = Outline::default();
    let mut at = 8;
    while let Some((length, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<4>) {
        outline.animated |= rest.starts_with(b"acTL");
        at += 12 + u32::from_be_bytes(*length) as usize;
    }
    outline.complete = at <= bytes.len();
    outline
}

/// Longest chunk with a colour profile that is decoded. Deflate makes a thousand bytes of one, and all of them would be
/// held; a profile small enough for a thumbnail fits well.
const MAX_PROFILE_CHUNK: usize = 8 << 10;

/// A PNG without colour profiles too large to be of use here, which the decoder would unpack whole.
pub(super) fn png_without_large_profile(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !png_chunks(bytes).any(is_large_profile) {
        return bytes.into();
    }
    let mut kept = bytes[..8].to_vec();
    for chunk in png_chunks(bytes).filter(|chunk| !is_large_profile(chunk)) {
        kept.extend_from_slice(chunk);
    }
    kept.into()
}

fn is_large_profile(chunk: &[u8]) -> bool {
    chunk.len() > MAX_PROFILE_CHUNK && chunk[4..].starts_with(b"iCCP")
}

/// Chunks as they stand, with length and checksum; the last one may be cut off.
fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
        let (chunk, after) = rest.split_at(rest.len().min(12 + length));
        rest = after;
        Some(chunk)
    })
}

/// Walks the blocks up to the second frame.
fn gif(bytes: &[u8]) -> Outline {
    let mut frames = 0;
    let walked = walk_gif(bytes, &mut frames);
    Outline {
        complete: walked.is_some() || frames > 0,
        animated: frames > 1,
        beside: 0,
    }
}

/// Bytes of the colour table that these flags announce.
fn palette_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

/// `None` when the bytes run out within a block. A frame counts once it is all there, the second once it begins.
fn walk_gif(bytes: &[u8], frames: &mut u32) -> Option<()> {
    let mut at = 13 + palette_bytes(*bytes.get(10)?);
    loop {
        match bytes.get(at)? {
            0x21 => at = after_sub_blocks(bytes, at + 2)?,
            0x2C if *frames > 0 => {
                *frames += 1;
                return Some(());
            }
            0x2C => {
                at = after_sub_blocks(bytes, at + 11 + palette_bytes(*bytes.get(at + 9)?))?;
                *frames += 1;
            }
            _ => return Some(()),
        }
    }
}

fn after_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// Walks the chunks. The decoder allocates whatever length a chunk claims, up to 4 GiB, so none may claim to reach
/// beyond the file.
fn webp(bytes: &[u8]) -> Outline {
    let file = webp_alone(bytes);
    let mut at = 12;
    while let Some(length) = little_endian(file, at + 4) {
        at += 8 + length.next_multiple_of(2);
    }
    Outline {
        // The padding of the last chunk may be missing.
        complete: at <= file.len() + 1 && webp_end(bytes) <= bytes.len(),
        animated: file.get(12..16) == Some(b"VP8X")
            && file.get(20).is_some_and(|flags| flags & 2 != 0),
        beside: 4, // lossless is decoded with alpha, lossy as planes of brightness and colour
    }
}

/// A WebP without what follows it, where the decoder would look for a further chunk.
pub(super) fn webp_alone(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(webp_end(bytes))]
}

fn webp_end(bytes: &[u8]) -> usize {
    8 + little_endian(bytes, 4).unwrap_or(0)
}

fn little_endian(bytes: &[u8], at: usize) -> Option<usize> {
    let (number, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
    Some(u32::from_le_bytes(*number) as usize)
}
