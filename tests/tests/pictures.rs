//! What the picture functions promise: real types, upright copies, and an answer to whatever arrives.

use std::io::Cursor;

use image::ImageDecoder;
use oncue_tests::pictures::{self, BLUE, GREEN, RED, YELLOW};
use oncue_workers::picture::{self, Refused, Thumb, check_name, inspect, sniff, thumbnails};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const EDGES: [u32; 3] = [64, 256, 1024];

#[test]
fn the_first_bytes_tell_the_type() {
    for (name, bytes) in pictures::all() {
        let wanted = match name.as_str() {
            "text.jpg" => "text/plain",
            "png.jpg" => "image/png",
            other => match other
                .rsplit_once('.')
                .expect("test pictures have extensions")
                .1
            {
                "jpg" => "image/jpeg",
                "png" => "image/png",
                "gif" => "image/gif",
                _ => "image/webp",
            },
        };
        assert_eq!(sniff(&bytes), wanted, "{name}");
    }
    assert_eq!(sniff(b"%PDF-1.7\n"), "application/pdf");
    assert_eq!(sniff(b"PK\x03\x04\x14\0"), "application/zip");
    assert_eq!(sniff(b"\x1F\x8B\x08\0"), "application/gzip");
    assert_eq!(sniff(b"\0\0\0\x18ftypmp42\0\0\0\0"), "video/mp4");
    assert_eq!(sniff(b"\0\0\0\x18ftypheic\0\0\0\0"), "image/heic");
    assert_eq!(sniff(b"BM is how this note begins"), "text/plain");
    assert_eq!(sniff(b"NUL is not text\0"), "application/octet-stream");
    assert_eq!(sniff(b"\xFF\xFE\xFD"), "application/octet-stream");
}

/// A file of the ISO base media family with these brands, and nothing in it.
fn media(brands: &[&[u8; 4]]) -> Vec<u8> {
    let others = brands[1..].iter().flat_map(|brand| brand.iter());
    let length = 12 + 4 * brands.len() as u32;
    let mut file = [length.to_be_bytes(), *b"ftyp", *brands[0], [0; 4]].concat();
    file.extend(others);
    file.extend(b"\0\0\0\x08free\0\0\0\x0Cmdatavif");
    file
}

#[test]
fn brands_tell_what_a_media_file_is() {
    for (brands, wanted) in [
        (&[b"MSNV", b"MSNV", b"mp42", b"isom"][..], "video/mp4"),
        (&[b"mif1", b"mif1", b"avif", b"miaf"], "image/avif"),
        (&[b"mif1", b"miaf", b"heic"], "image/heic"),
        (&[b"mif1", b"miaf"], "image/heic"),
        (&[b"msf1", b"avis"], "image/avif"),
        (&[b"hevc", b"hevc", b"mif1", b"heic"], "image/heic"),
        (&[b"heim"], "image/heic"),
        (&[b"3gp5", b"3gp5", b"isom"], "video/3gpp"),
        (&[b"qt  "], "video/quicktime"),
        (&[b"M4A ", b"mp42"], "audio/mp4"),
        // One that nobody knows, and others that it goes by.
        (&[b"XAVC", b"XAVC", b"mp42", b"iso2"], "video/mp4"),
        (&[b"xxxx", b"yyyy"], "application/octet-stream"),
    ] {
        assert_eq!(sniff(&media(brands)), wanted, "{brands:?}");
    }
    let long: Vec<_> = std::iter::repeat_n(b"junk", 60).chain([b"mp42"]).collect();
    assert_eq!(sniff(&media(&long)), "video/mp4");
    // A length that lies does not reach beyond the file.
    assert_eq!(
        sniff(b"\xFF\xFF\xFF\xFFftypxxxx"),
        "application/octet-stream"
    );
    assert_eq!(sniff(b"\0\0\0\0ftypavif\0"), "image/avif");
    for kind in ["video/3gpp", "video/quicktime", "audio/mp4", "video/mp4"] {
        assert_eq!(check_name("a.mp4", kind), Ok(()));
    }
    let lie = check_name("a.jpg", sniff(&media(&[b"heic", b"mif1"]))).unwrap_err();
    assert_eq!(lie.message, "named .jpg but holds image/heic");
}

#[test]
fn a_pdf_may_begin_later() {
    let pdf = b"%PDF-1.4\n1 0 obj<<>>endobj\n";
    for before in [
        &b"\xEF\xBB\xBF"[..],
        b"From: a\nTo: b\n",
        b"\r\n",
        &[b'\n'; 1024],
    ] {
        assert_eq!(sniff(&[before, pdf].concat()), "application/pdf");
    }
    let too_late = [&[b'\n'; 1025], &pdf[..]].concat();
    assert_eq!(sniff(&too_late), "text/plain");
    assert_eq!(
        sniff(b"A file that begins with %PDF-1.4 is a PDF.\n"),
        "text/plain"
    );
    // What is something else first stays that.
    assert_eq!(sniff(b"PK\x03\x04\n%PDF-1.4\n"), "application/zip");
}

#[test]
fn text_is_told_in_other_encodings() {
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    };
    let text = "\u{feff}Grüße aus Köln \u{1F600}\r\n";
    assert_eq!(sniff(&utf16(text, u16::to_le_bytes)), "text/plain");
    assert_eq!(sniff(&utf16(text, u16::to_be_bytes)), "text/plain");
    let long = "\u{feff}".to_owned() + &"\u{1F600}".repeat(3000);
    assert_eq!(sniff(&utf16(&long, u16::to_le_bytes)), "text/plain");
    assert_eq!(sniff(b"Gr\xFC\xDFe \x96 5 \x80\r\n"), "text/plain"); // Windows-1252
    assert_eq!(sniff(b"\xEF\xF0\xE8\xE2\xE5\xF2\n"), "text/plain"); // Windows-1251
    let nul = utf16("\u{feff}a\0b", u16::to_le_bytes);
    assert_eq!(sniff(&nul), "application/octet-stream");
    let half = [0xFF, 0xFE, 0x00, 0xDC, b'a', 0];
    assert_eq!(sniff(&half), "application/octet-stream");
    assert_eq!(sniff(b"\xFF\xFE"), "application/octet-stream");
    assert_eq!(sniff(b"Gr\xFC\xDFe\0"), "application/octet-stream");
}

#[test]
fn a_profile_is_not_unpacked_without_bound() {
    let picture = pictures::png_with_profile_of(200 << 20);
    assert!(picture.len() < 300 << 10, "{}", picture.len());
    MEMORY.reset_peak_usage();
    assert_eq!(
        inspect(&picture).map(|seen| seen.media_type),
        Ok("image/png")
    );
    assert_eq!(
        thumbnails(&picture, &EDGES).map(|thumbs| thumbs.len()),
        Ok(2)
    );
    let peak = MEMORY.peak_usage() >> 20;
    assert!(peak < 64, "{peak} MiB");
}

#[test]
fn text_stays_text_when_the_head_ends_within_a_character() {
    for extra in 0..4 {
        let text = "x".repeat(4092 + extra) + "\u{1F600}\u{1F600}";
        assert_eq!(sniff(text.as_bytes()), "text/plain", "{extra}");
    }
}

#[test]
fn names_that_lie_are_refused() {
    let lie = check_name("holiday.jpg", sniff(&pictures::text_named_jpg())).unwrap_err();
    assert_eq!(
        (lie.reason, lie.message.as_str()),
        ("name-lies", "named .jpg but holds text/plain")
    );
    let lie = check_name("holiday.JPG", sniff(&pictures::png_with_alpha())).unwrap_err();
    assert_eq!(lie.message, "named .jpg but holds image/png");
    for name in ["a.jpg", "a.JPEG", "a.b.jpg", "a", "jpg", "a.unknown", ""] {
        assert_eq!(check_name(name, "image/jpeg"), Ok(()), "{name}");
    }
}

#[test]
fn inspection_reads_size_orientation_and_movement() {
    for orientation in 1..=8 {
        let seen = inspect(&pictures::jpeg_with_orientation(orientation)).unwrap();
        let stored = if orientation < 5 {
            (120, 80)
        } else {
            (80, 120)
        };
        assert_eq!(
            ((seen.width, seen.height), seen.orientation),
            (stored, orientation)
        );
    }
    let moving = |bytes: &[u8]| inspect(bytes).unwrap().animated;
    assert!(moving(&pictures::gif_of_two_frames()));
    assert!(!moving(&pictures::gif_of_one_frame()));
    assert!(!moving(&pictures::webp_lossless()));
    let text = inspect(&pictures::text_named_jpg()).unwrap();
    assert_eq!(
        (text.media_type, text.width, text.height, text.orientation),
        ("text/plain", 0, 0, 1)
    );
}

#[test]
fn every_orientation_comes_out_upright() {
    for orientation in 1..=8 {
        let thumbs = thumbnails(&pictures::jpeg_with_orientation(orientation), &EDGES).unwrap();
        assert_eq!(
            sizes(&thumbs),
            [(64, 64, 43), (256, 120, 80)],
            "orientation {orientation}"
        );
        for thumb in &thumbs {
            assert_quadrants(
                thumb,
                &format!("orientation {orientation}, edge {}", thumb.edge),
            );
        }
    }
}

#[test]
fn nothing_is_enlarged_and_nothing_repeated() {
    let picture = pictures::photo(200, 100);
    let made = |edges: &[u32]| sizes(&thumbnails(&picture, edges).unwrap());
    assert_eq!(made(&EDGES), [(64, 64, 32), (256, 200, 100)]);
    assert_eq!(made(&[1024, 64, 64, 0, 256]), made(&EDGES));
    assert_eq!(made(&[200, 300]), [(200, 200, 100)]);
    assert_eq!(made(&[199]), [(199, 199, 100)]);
    assert_eq!(made(&[1]), [(1, 1, 1)]);
    assert_eq!(made(&[]), []);
    assert_eq!(
        sizes(&thumbnails(&pictures::photo(3001, 1), &EDGES).unwrap()),
        [(64, 64, 1), (256, 256, 1), (1024, 1024, 1)]
    );
}

#[test]
fn a_photograph_gives_all_three() {
    let thumbs = thumbnails(&pictures::photo(1500, 1000), &EDGES).unwrap();
    assert_eq!(
        sizes(&thumbs),
        [(64, 64, 43), (256, 256, 171), (1024, 1024, 683)]
    );
    assert!(
        thumbs
            .iter()
            .all(|thumb| sniff(&thumb.bytes) == "image/jpeg" && thumb.media_type == "image/jpeg")
    );
}

#[test]
fn what_shines_through_stays_and_hidden_colour_does_not_bleed() {
    let thumbs = thumbnails(&pictures::png_with_alpha(), &[16, 64, 256]).unwrap();
    assert_eq!(sizes(&thumbs), [(16, 16, 11), (64, 64, 43), (256, 96, 64)]);
    for thumb in &thumbs {
        assert_eq!(
            (thumb.media_type, sniff(&thumb.bytes)),
            ("image/png", "image/png")
        );
        let pixels = image::load_from_memory(&thumb.bytes).unwrap().into_rgba8();
        assert_eq!(pixels.get_pixel(0, 0)[3], 0, "the corner stays clear");
        assert_eq!(
            pixels.get_pixel(thumb.width / 2, thumb.height / 2)[3],
            255,
            "the disc stays solid"
        );
        let bled = pixels
            .pixels()
            .filter(|pixel| pixel[3] > 0 && pixel[0] > 8)
            .count();
        assert_eq!(
            bled, 0,
            "red of the clear part shows at edge {}",
            thumb.edge
        );
    }
}

#[test]
fn an_alpha_channel_that_hides_nothing_gives_jpeg() {
    for picture in [
        pictures::png_opaque_with_alpha_channel(),
        pictures::webp_lossless(),
    ] {
        for thumb in thumbnails(&picture, &[20, 64]).unwrap() {
            assert_eq!(thumb.media_type, "image/jpeg");
            assert_quadrants(&thumb, "opaque");
        }
    }
    assert_eq!(
        thumbnails(&pictures::png_16_bit(), &[64]).unwrap()[0].media_type,
        "image/jpeg"
    );
}

#[test]
fn colours_keep_their_profile() {
    let mut profile = vec![0; 128];
    profile[16..20].copy_from_slice(b"RGB ");
    let kept = |profile: &[u8]| {
        let thumbs = thumbnails(&pictures::jpeg_with_profile(profile.to_vec()), &[32]).unwrap();
        let jpeg = image::ImageReader::with_format(
            Cursor::new(&thumbs[0].bytes),
            image::ImageFormat::Jpeg,
        );
        jpeg.into_decoder().unwrap().icc_profile().unwrap()
    };
    assert_eq!(kept(&profile), Some(profile.clone()));
    profile[16..20].copy_from_slice(b"CMYK");
    assert_eq!(kept(&profile), None);
}

#[test]
fn of_a_moving_picture_the_first_frame_is_taken() {
    let thumbs = thumbnails(&pictures::gif_of_two_frames(), &EDGES).unwrap();
    assert_eq!(sizes(&thumbs), [(64, 64, 43), (256, 90, 60)]);
    let pixels = image::load_from_memory(&thumbs[0].bytes)
        .unwrap()
        .into_rgb8();
    assert_near(pixels.get_pixel(30, 20).0, RED, "first frame");
}

#[test]
fn bombs_fragments_and_strangers_are_refused_with_a_reason() {
    let refused = |bytes: &[u8]| thumbnails(bytes, &EDGES).unwrap_err();
    let bomb = pictures::png_bomb();
    assert!(bomb.len() < 200);
    let reason = "too-many-pixels: 60000x60000 is 3600000000 pixels, the limit is 100000000";
    assert_eq!(refused(&bomb).to_string(), reason);
    assert_eq!(inspect(&bomb).unwrap_err().to_string(), reason);

    assert_eq!(refused(&pictures::truncated_jpeg()).reason, "truncated");
    assert_eq!(refused(&half(&pictures::png_16_bit())).reason, "truncated");
    assert_eq!(
        refused(&half(&pictures::gif_of_one_frame())).reason,
        "truncated"
    );
    assert_eq!(
        refused(&half(&pictures::webp_lossless())).reason,
        "truncated"
    );
    assert_eq!(refused(&pictures::text_named_jpg()).reason, "not-a-picture");
    assert_eq!(refused(b"").reason, "not-a-picture");

    let mut long = pictures::gif_of_one_frame();
    long.resize(picture::MAX_BYTES + 1, 0);
    assert_eq!(refused(&long).reason, "too-large");
}

#[test]
fn any_damage_gives_an_answer() {
    let mut random = fastrand::Rng::with_seed(20_260_101);
    let (mut taken, mut refused) = (0, 0);
    let mut tried = |name: &str, bytes: &[u8]| {
        let answers = [inspect(bytes).err(), thumbnails(bytes, &[16, 64]).err()];
        for answer in answers {
            match answer {
                None => taken += 1,
                Some(Refused { reason, message }) => {
                    refused += 1;
                    assert!(!reason.is_empty() && !message.is_empty(), "{name}");
                }
            }
        }
    };
    for (name, bytes) in pictures::all() {
        for length in (0..bytes.len()).step_by(97) {
            tried(&name, &bytes[..length]);
        }
        for _ in 0..40 {
            let mut bytes = bytes.clone();
            for _ in 0..random.usize(1..8) {
                // Half of the damage goes to the header, where it does most harm.
                let end = if random.bool() {
                    bytes.len()
                } else {
                    bytes.len().min(64)
                };
                bytes[random.usize(..end)] = random.u8(..);
            }
            tried(&name, &bytes);
        }
    }
    assert!(
        taken > 100 && refused > 100,
        "too little was tried: {taken} taken, {refused} refused"
    );
}

fn half(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// Edge, width and height as told, after checking them against the bytes.
fn sizes(thumbs: &[Thumb]) -> Vec<(u32, u32, u32)> {
    let size = |thumb: &Thumb| {
        let seen = inspect(&thumb.bytes).unwrap();
        assert_eq!(
            (seen.media_type, seen.width, seen.height),
            (thumb.media_type, thumb.width, thumb.height)
        );
        assert_eq!(seen.orientation, 1, "an upright copy asks for no turning");
        (thumb.edge, thumb.width, thumb.height)
    };
    thumbs.iter().map(size).collect()
}

fn assert_quadrants(thumb: &Thumb, what: &str) {
    let pixels = image::load_from_memory(&thumb.bytes).unwrap().into_rgb8();
    let (left, top) = (thumb.width / 4, thumb.height / 4);
    let (right, bottom) = (thumb.width - left, thumb.height - top);
    for (at, wanted) in [
        ((left, top), RED),
        ((right, top), GREEN),
        ((left, bottom), BLUE),
        ((right, bottom), YELLOW),
    ] {
        assert_near(pixels.get_pixel(at.0, at.1).0, wanted, what);
    }
}

/// JPEG does not keep colours exactly.
fn assert_near(seen: [u8; 3], wanted: [u8; 3], what: &str) {
    let near = seen
        .iter()
        .zip(wanted)
        .all(|(seen, wanted)| seen.abs_diff(wanted) < 24);
    assert!(near, "{what}: saw {seen:?} instead of {wanted:?}");
}
