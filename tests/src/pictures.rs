//! Test pictures, drawn when asked for: no picture of anyone else's, and no binary file, is in this repository.

use std::io::{Cursor, Write as _};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::codecs::{gif::GifEncoder, jpeg::JpegEncoder, png::PngEncoder};
use image::{DynamicImage, Frame, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

pub const RED: [u8; 3] = [220, 30, 30];
pub const GREEN: [u8; 3] = [30, 180, 30];
pub const BLUE: [u8; 3] = [30, 30, 220];
pub const YELLOW: [u8; 3] = [220, 200, 30];

/// Every picture here by file name, but for the large photograph. The last four are not what they seem.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = (1..=8)
        .map(|n| (format!("orientation-{n}.jpg"), jpeg_with_orientation(n)))
        .collect();
    let others = [
        ("photo.jpg", photo(300, 200)),
        ("see-through.png", png_with_alpha()),
        ("opaque.png", png_opaque_with_alpha_channel()),
        ("deep.png", png_16_bit()),
        ("moving.gif", gif_of_two_frames()),
        ("still.gif", gif_of_one_frame()),
        ("lossless.webp", webp_lossless()),
        ("truncated.jpg", truncated_jpeg()),
        ("bomb.png", png_bomb()),
        ("text.jpg", text_named_jpg()),
        ("png.jpg", png_with_alpha()),
    ];
    all.extend(others.map(|(name, bytes)| (name.to_owned(), bytes)));
    all
}

/// Four quadrants, 120x80 when seen upright: red and green above, blue and yellow below. Stored the way a camera held
/// as `orientation` (1 to 8) says stores it, so upright it always looks the same.
pub fn jpeg_with_orientation(orientation: u8) -> Vec<u8> {
    let (width, height) = (120, 80);
    let (across, down) = if orientation < 5 {
        (width, height)
    } else {
        (height, width)
    };
    let (right, bottom) = (width - 1, height - 1);
    // Where a stored pixel is seen [Exif 2.32 section 4.6.4, tag 274]: 6, say, has row 0 at the right, column 0 at the top.
    let stored = RgbImage::from_fn(across, down, |x, y| {
        let (x, y) = match orientation {
            1 => (x, y),
            2 => (right - x, y),
            3 => (right - x, bottom - y),
            4 => (x, bottom - y),
            5 => (y, x),
            6 => (right - y, x),
            7 => (right - y, bottom - x),
            8 => (y, bottom - x),
            _ => panic!("orientations are 1 to 8, not {orientation}"),
        };
        Rgb(quadrant(x, y, width, height))
    });
    jpeg(&stored, 90, Some(exif(orientation)))
}

fn quadrant(x: u32, y: u32, width: u32, height: u32) -> [u8; 3] {
    match (x < width / 2, y < height / 2) {
        (true, true) => RED,
        (false, true) => GREEN,
        (true, false) => BLUE,
        (false, false) => YELLOW,
    }
}

/// A TIFF header and one directory with one entry: tag 274, one 16-bit number.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// A landscape of soft gradients and grain, the same bytes at every call. `photo(3000, 2000)` stands for a camera's
/// picture and takes less than a megabyte.
pub fn photo(width: u32, height: u32) -> Vec<u8> {
    let mut grain = fastrand::Rng::with_seed(7);
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x as f32 / width as f32, y as f32 / height as f32);
        let hills = 0.6 + 0.08 * (across * 9.0).sin() + 0.03 * (across * 31.0).cos();
        let [r, g, b] = if down < hills {
            [
                90.0 + 120.0 * down,
                140.0 + 80.0 * down,
                235.0 - 40.0 * across,
            ]
        } else {
            [
                60.0 + 50.0 * across,
                120.0 - 60.0 * (down - hills),
                40.0 + 20.0 * (across * 50.0).sin(),
            ]
        };
        let noise = grain.f32() * 20.0 - 10.0;
        Rgb([r, g, b].map(|colour| (colour + noise).clamp(0.0, 255.0) as u8))
    });
    jpeg(&picture, 80, None)
}

/// 64x64, black, with `profile` as its colour profile.
pub fn jpeg_with_profile(profile: Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes);
    encoder
        .set_icc_profile(profile)
        .expect("JPEG holds colour profiles");
    encoder
        .encode_image(&RgbImage::new(64, 64))
        .expect("a picture in memory can be written");
    bytes
}

/// 96x64: a green disc on nothing, where the colour of nothing is a bright red that must never be seen.
pub fn png_with_alpha() -> Vec<u8> {
    let disc = |x: u32, y: u32| x.abs_diff(48).pow(2) + y.abs_diff(32).pow(2) < 24 * 24;
    let picture = RgbaImage::from_fn(96, 64, |x, y| {
        Rgba(if disc(x, y) {
            [0, 200, 0, 255]
        } else {
            [255, 0, 0, 0]
        })
    });
    written(&picture.into(), ImageFormat::Png)
}

/// 80x80 with an alpha channel that hides nothing, as screenshots have it.
pub fn png_opaque_with_alpha_channel() -> Vec<u8> {
    let picture = RgbaImage::from_fn(80, 80, |x, y| {
        let [r, g, b] = quadrant(x, y, 80, 80);
        Rgba([r, g, b, 255])
    });
    written(&picture.into(), ImageFormat::Png)
}

/// 70x50 with 16 bits for each colour.
pub fn png_16_bit() -> Vec<u8> {
    let picture = image::ImageBuffer::from_fn(70, 50, |x, y| {
        Rgb([x as u16 * 900, y as u16 * 1300, 30_000])
    });
    written(&DynamicImage::ImageRgb16(picture), ImageFormat::Png)
}

/// 90x60: a red frame, then a blue one.
pub fn gif_of_two_frames() -> Vec<u8> {
    gif(&[RED, BLUE])
}

/// 90x60, red.
pub fn gif_of_one_frame() -> Vec<u8> {
    gif(&[RED])
}

fn gif(colours: &[[u8; 3]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for [r, g, b] in colours {
        let frame = Frame::new(RgbaImage::from_pixel(90, 60, Rgba([*r, *g, *b, 255])));
        encoder
            .encode_frame(frame)
            .expect("a frame in memory can be written");
    }
    drop(encoder);
    bytes
}

/// The four quadrants, 120x80.
pub fn webp_lossless() -> Vec<u8> {
    let picture = RgbImage::from_fn(120, 80, |x, y| Rgb(quadrant(x, y, 120, 80)));
    written(&picture.into(), ImageFormat::WebP)
}

/// A photograph whose upload broke off half way.
pub fn truncated_jpeg() -> Vec<u8> {
    let mut bytes = photo(300, 200);
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// A sound PNG header of 60000x60000 pixels, 3.6 gigapixels, in well under 200 bytes.
pub fn png_bomb() -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&[0], 1, 1, image::ExtendedColorType::L8)
        .expect("a pixel in memory can be written");
    // Signature 8, length 4, then the name and the 13 bytes of the header, then their checksum.
    let size = 60_000_u32.to_be_bytes();
    bytes[16..20].copy_from_slice(&size);
    bytes[20..24].copy_from_slice(&size);
    let checksum = crc32fast::hash(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    bytes
}

/// A small PNG whose colour profile unpacks to `length` bytes.
pub fn png_with_profile_of(length: usize) -> Vec<u8> {
    let picture = png_with_alpha();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let part = left.min(zeros.len());
        packed.write_all(&zeros[..part]).expect("zeros");
        left -= part;
    }
    let body = [b"iCCP", &b"icc\0\0"[..], &packed.finish().expect("zeros")].concat();
    let chunk = [
        &(body.len() as u32 - 4).to_be_bytes(),
        &*body,
        &crc32fast::hash(&body).to_be_bytes(),
    ]
    .concat();
    // Behind the signature and the header.
    [&picture[..33], &chunk, &picture[33..]].concat()
}

/// What arrives when a letter is renamed to a picture.
pub fn text_named_jpg() -> Vec<u8> {
    b"Dear all,\n\nplease find the picture attached.\n".to_vec()
}

fn jpeg(picture: &RgbImage, quality: u8, exif: Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).expect("JPEG holds Exif");
    }
    encoder
        .encode_image(picture)
        .expect("a picture in memory can be written");
    bytes
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, format)
        .expect("a picture in memory can be written");
    bytes.into_inner()
}
