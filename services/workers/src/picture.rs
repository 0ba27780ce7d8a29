//! Pictures sent by strangers: what a file really is, how large it would be, and small copies of it.
//!
//! Everything here is a pure function on bytes. Nothing trusts what the sender said about the file, and nothing is
//! decoded before its header has been held against the limits below: a few hundred bytes can claim to be gigabytes.

mod headers;
mod kind;
mod thumbnails;

use std::fmt;
use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use headers::Outline;
pub use kind::{check_name, sniff};
pub use thumbnails::{Thumb, thumbnails};

/// Largest picture file read, in bytes.
pub const MAX_BYTES: usize = 64 << 20;
/// Most pixels a picture may have. Cameras of 100 megapixels exist; those of 200 are refused.
pub const MAX_PIXELS: u64 = 100_000_000;
/// Longest edge a picture may have, in pixels. No decoder here is meant for scanner strips.
pub const MAX_EDGE: u32 = 30_000;
/// Most memory one picture may take while it is decoded: its pixels and what the decoder holds beside them.
pub const MAX_MEMORY: u64 = 512 << 20;

/// Nature of a file, told from its first bytes and its picture header alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The type the bytes show, whatever name they came under.
    pub media_type: &'static str,
    /// Pixels per row as stored, before `orientation` is applied; 0 when the file is no picture.
    pub width: u32,
    /// Rows as stored, before `orientation` is applied; 0 when the file is no picture.
    pub height: u32,
    /// How to turn the stored picture upright: 1 to 8 as in [Exif 2.32 section 4.6.4, tag 274], 1 when absent.
    pub orientation: u8,
    /// Whether there is more than one frame.
    pub animated: bool,
}

/// Why a file was not taken. Asking again with the same bytes gives the same answer, so this is never worth a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A stable word for programs: `too-large`, `too-many-pixels`, `not-a-picture`, `truncated`, `corrupt` or
    /// `name-lies`.
    pub reason: &'static str,
    /// Finding and, where there is one, the limit it broke.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Refused {}

fn refused<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        reason,
        message: message.into(),
    })
}

/// Says what `bytes` are. Reads no pixels, so damage among them goes unseen; a file that stops early does not.
///
/// A file that is no picture this module reads (JPEG, PNG, GIF, WebP) passes with its type and no size.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Refused> {
    let media_type = sniff(bytes);
    if format_of(media_type).is_none() {
        return Ok(Inspection {
            media_type,
            width: 0,
            height: 0,
            orientation: 1,
            animated: false,
        });
    }
    let (mut decoder, animated) = open(bytes)?;
    let (width, height) = decoder.dimensions();
    Ok(Inspection {
        media_type,
        width,
        height,
        orientation: orientation(&mut decoder).to_exif(),
        animated,
    })
}

fn format_of(media_type: &str) -> Option<ImageFormat> {
    match media_type {
        "image/jpeg" => Some(ImageFormat::Jpeg),
        "image/png" => Some(ImageFormat::Png),
        "image/gif" => Some(ImageFormat::Gif),
        "image/webp" => Some(ImageFormat::WebP),
        _ => None,
    }
}

/// A decoder that has read the header and found it within the limits, and whether the picture moves.
fn open(bytes: &[u8]) -> Result<(impl ImageDecoder, bool), Refused> {
    if bytes.len() > MAX_BYTES {
        return refused(
            "too-large",
            format!("{} bytes, the limit is {MAX_BYTES}", bytes.len()),
        );
    }
    let media_type = sniff(bytes);
    let Some(format) = format_of(media_type) else {
        return refused(
            "not-a-picture",
            format!("{media_type} is not JPEG, PNG, GIF or WebP"),
        );
    };
    let Outline {
        complete,
        animated,
        beside,
    } = headers::outline(format, bytes);
    // Asked here because the JPEG decoder fills what is missing with grey instead of failing.
    if !complete {
        return refused(
            "truncated",
            format!("{media_type} of {} bytes stops before its end", bytes.len()),
        );
    }
    let bytes = match format {
        ImageFormat::WebP => headers::webp_alone(bytes).into(),
        ImageFormat::Png => headers::png_without_large_profile(bytes),
        _ => bytes.into(),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let decoder = reader.into_decoder().map_err(|error| unreadable(&error))?;
    guard(&decoder, beside)?;
    Ok((decoder, animated))
}

/// Unreadable metadata does not spoil a picture; it is then taken as upright.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// The pixels of the first frame, as stored.
fn decode(mut decoder: impl ImageDecoder) -> Result<DynamicImage, Refused> {
    let mut limits = limits();
    limits.max_image_width = Some(MAX_EDGE);
    limits.max_image_height = Some(MAX_EDGE);
    limits
        .reserve(decoder.total_bytes())
        .and_then(|()| decoder.set_limits(limits))
        .and_then(|()| DynamicImage::from_decoder(decoder))
        .map_err(|error| unreadable(&error))
}

/// Holds a header against the limits. The decoders' own limits come second: they say neither number.
fn guard(decoder: &impl ImageDecoder, beside: u64) -> Result<(), Refused> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return refused("corrupt", format!("{width}x{height} has no pixels"));
    }
    if pixels > MAX_PIXELS {
        return refused(
            "too-many-pixels",
            format!("{width}x{height} is {pixels} pixels, the limit is {MAX_PIXELS}"),
        );
    }
    if width.max(height) > MAX_EDGE {
        return refused(
            "too-many-pixels",
            format!("{width}x{height} has an edge over the limit of {MAX_EDGE}"),
        );
    }
    // Any other layout is copied once into one of these two.
    let copy = if matches!(decoder.color_type(), ColorType::Rgb8 | ColorType::Rgba8) {
        0
    } else {
        4
    };
    let memory = decoder.total_bytes() + pixels * (beside + copy);
    if memory > MAX_MEMORY {
        return refused(
            "too-many-pixels",
            format!("{width}x{height} takes {memory} bytes to decode, the limit is {MAX_MEMORY}"),
        );
    }
    Ok(())
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    limits
}

fn unreadable(error: &ImageError) -> Refused {
    let reason = match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => "truncated",
        ImageError::Limits(_) => "too-many-pixels",
        ImageError::Unsupported(_) => "not-a-picture",
        _ => "corrupt",
    };
    Refused {
        reason,
        message: error.to_string(),
    }
}
