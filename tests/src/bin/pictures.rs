//! Writes the test pictures to a directory, to try things by hand: `cargo run -p oncue-tests --bin pictures -- DIR`.

use std::path::PathBuf;

use oncue_tests::pictures;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "pictures".into()));
    std::fs::create_dir_all(&dir)?;
    let mut all = vec![
        ("photo.jpg".to_owned(), pictures::photo(3000, 2000)),
        ("alpha.png".to_owned(), pictures::png_with_alpha()),
        ("two-frames.gif".to_owned(), pictures::gif_of_two_frames()),
        ("lossless.webp".to_owned(), pictures::webp_lossless()),
        ("truncated.jpg".to_owned(), pictures::truncated_jpeg()),
        ("bomb.png".to_owned(), pictures::png_bomb()),
        ("text.jpg".to_owned(), pictures::text_named_jpg()),
    ];
    all.extend((1..=8).map(|o| {
        (
            format!("orientation-{o}.jpg"),
            pictures::jpeg_with_orientation(o),
        )
    }));
    for (name, bytes) in all {
        println!("{:>9} bytes  {}", bytes.len(), dir.join(&name).display());
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}
