//! Small copies of a picture, all from one decoding.

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::imageops::FilterType;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageEncoder, ImageError, Pixel, RgbaImage};

use super::{Refused, decode, open, orientation};

/// JPEG quality: below this, edges begin to ring; above it, files grow faster than anyone can see.
const QUALITY: u8 = 82;
/// Largest colour profile copied into a thumbnail. Those of cameras and phones take a few hundred bytes.
const MAX_PROFILE: usize = 4096;

/// A copy of a picture that fits into a square.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumb {
    /// The edge asked for; the longer of `width` and `height` unless the picture is smaller.
    pub edge: u32,
    pub width: u32,
    pub height: u32,
    /// `image/png` when anything shines through the picture, `image/jpeg` otherwise.
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

/// Copies of `bytes` that fit into squares of `edges` pixels, smallest first.
///
/// Each is upright, keeps its proportions and colour profile, and carries no other metadata (no place, no camera). Of
/// a moving picture it is the first frame.
///
/// Nothing is enlarged: the first edge the picture fits into gives it at its own size, and larger edges give nothing,
/// since they would repeat it. A picture of 200x100 and the edges 64, 256 and 1024 give 64x32 for 64 and 200x100 for
/// 256. An edge of 0 gives nothing. Edges come from the one who wrote the function, not from the sender: they have no
/// limit.
pub fn thumbnails(bytes: &[u8], edges: &[u32]) -> Result<Vec<Thumb>, Refused> {
    let (mut decoder, _) = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let orientation = orientation(&mut decoder);
    let profile = decoder
        .icc_profile()
        .ok()
        .flatten()
        .filter(|profile| is_small_rgb(profile));
    let mut pixels = plain(decode(decoder)?);
    let opaque = is_opaque(&pixels);
    if let (false, Some(pixels)) = (opaque, pixels.as_mut_rgba8()) {
        weigh(pixels);
    }

    let mut thumbs = Vec::new();
    for edge in fitting(edges, width.max(height)) {
        // Each is made from the next larger one, which has few pixels left to read.
        pixels = shrink(pixels, fit(width, height, edge));
        let mut copy = if opaque {
            pixels.to_rgb8().into()
        } else {
            pixels.clone()
        };
        if let Some(copy) = copy.as_mut_rgba8() {
            unweigh(copy);
        }
        copy.apply_orientation(orientation);
        thumbs.push(encode(edge, &copy, profile.as_ref())?);
    }
    thumbs.reverse();
    Ok(thumbs)
}

/// The edges that give a copy of their own, largest first.
fn fitting(edges: &[u32], longest: u32) -> Vec<u32> {
    let mut edges: Vec<u32> = edges.iter().copied().filter(|edge| *edge > 0).collect();
    edges.sort_unstable();
    edges.dedup();
    edges.truncate(edges.partition_point(|edge| *edge < longest) + 1);
    edges.reverse();
    edges
}

fn fit(width: u32, height: u32, edge: u32) -> (u32, u32) {
    let longest = u64::from(width.max(height));
    let edge = u64::from(edge).min(longest);
    (scale(width, edge, longest), scale(height, edge, longest))
}

/// `length` times `edge / longest`, rounded, and at least a pixel.
fn scale(length: u32, edge: u64, longest: u64) -> u32 {
    ((u64::from(length) * edge + longest / 2) / longest).max(1) as u32
}

/// Halves while that leaves enough, then filters what is left. Beside the filter alone this takes half the time or
/// less, and no copy of the picture in floating point; the results are 48 dB apart, which nobody sees.
fn shrink(mut pixels: DynamicImage, (width, height): (u32, u32)) -> DynamicImage {
    while pixels.width() / 2 >= width && pixels.height() / 2 >= height {
        pixels = match pixels {
            DynamicImage::ImageRgba8(pixels) => halve::<_, 4>(&pixels).into(),
            pixels => halve::<_, 3>(&pixels.into_rgb8()).into(),
        };
    }
    if (pixels.width(), pixels.height()) == (width, height) {
        return pixels;
    }
    pixels.resize_exact(width, height, FilterType::CatmullRom)
}

/// Each pixel is the mean of four. The last of an odd number of rows or columns is left out.
fn halve<P: Pixel<Subpixel = u8>, const CHANNELS: usize>(
    pixels: &ImageBuffer<P, Vec<u8>>,
) -> ImageBuffer<P, Vec<u8>> {
    let width = pixels.width() / 2;
    let height = pixels.height() / 2;
    let row = pixels.width() as usize * CHANNELS;
    let mut halved = Vec::with_capacity(width as usize * height as usize * CHANNELS);
    for rows in pixels.as_raw().chunks_exact(2 * row) {
        let (upper, lower) = rows.split_at(row);
        for (upper, lower) in upper
            .chunks_exact(2 * CHANNELS)
            .zip(lower.chunks_exact(2 * CHANNELS))
        {
            for c in 0..CHANNELS {
                let four = [upper[c], upper[c + CHANNELS], lower[c], lower[c + CHANNELS]];
                halved.push(((four.map(u16::from).iter().sum::<u16>() + 2) / 4) as u8);
            }
        }
    }
    ImageBuffer::from_raw(width, height, halved).expect("as many pixels as were counted")
}

fn encode(edge: u32, pixels: &DynamicImage, profile: Option<&Vec<u8>>) -> Result<Thumb, Refused> {
    let mut bytes = Vec::new();
    let (media_type, written) = if pixels.color().has_alpha() {
        (
            "image/png",
            write(pixels, PngEncoder::new(&mut bytes), profile),
        )
    } else {
        (
            "image/jpeg",
            write(
                pixels,
                JpegEncoder::new_with_quality(&mut bytes, QUALITY),
                profile,
            ),
        )
    };
    written.map_err(|error| Refused {
        reason: "too-large",
        message: format!("no {media_type} of {edge}: {error}"),
    })?;
    Ok(Thumb {
        edge,
        width: pixels.width(),
        height: pixels.height(),
        media_type,
        bytes,
    })
}

fn write(
    pixels: &DynamicImage,
    mut encoder: impl ImageEncoder,
    profile: Option<&Vec<u8>>,
) -> image::ImageResult<()> {
    if let Some(profile) = profile {
        encoder
            .set_icc_profile(profile.clone())
            .map_err(ImageError::Unsupported)?;
    }
    pixels.write_with_encoder(encoder)
}

/// Every picture ends as RGB, so a profile for grey or for printing inks would be read wrongly.
fn is_small_rgb(profile: &[u8]) -> bool {
    profile.len() <= MAX_PROFILE && profile.get(16..20) == Some(b"RGB ")
}

/// RGB or RGBA of 8 bits, the two layouts worked on here.
fn plain(picture: DynamicImage) -> DynamicImage {
    if picture.color().has_alpha() {
        picture.into_rgba8().into()
    } else {
        picture.into_rgb8().into()
    }
}

/// Whether nothing shines through, which a picture with an alpha channel may still say of itself.
fn is_opaque(pixels: &DynamicImage) -> bool {
    pixels
        .as_rgba8()
        .is_none_or(|pixels| pixels.pixels().all(|pixel| pixel[3] == u8::MAX))
}

/// Weights colours by alpha, so that the colour of what cannot be seen does not bleed into what can.
fn weigh(pixels: &mut RgbaImage) {
    each_colour(pixels, |colour, alpha| (colour * alpha + 127) / 255);
}

fn unweigh(pixels: &mut RgbaImage) {
    each_colour(pixels, |colour, alpha| {
        (colour * 255 + alpha / 2)
            .checked_div(alpha)
            .unwrap_or(0)
            .min(255)
    });
}

fn each_colour(pixels: &mut RgbaImage, change: impl Fn(u32, u32) -> u32) {
    for pixel in pixels.pixels_mut() {
        let [colours @ .., alpha] = &mut pixel.0;
        for colour in colours {
            *colour = change(u32::from(*colour), u32::from(*alpha)) as u8;
        }
    }
}
