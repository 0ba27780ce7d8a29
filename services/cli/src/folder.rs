//! Copies of folders.

use std::fs;
use std::io;
use std::path::Path;

/// Copies a file, or a folder with all in it but what has the name `skipped`.
///
/// Written, not copied: what was installed may be read-only, and this is to be changed.
pub fn copy(from: &Path, to: &Path, skipped: &str) -> io::Result<()> {
    if from.is_file() {
        return fs::write(to, fs::read(from)?);
    }
    fs::create_dir_all(to)?;
    for entry in from.read_dir()? {
        let name = entry?.file_name();
        if name != skipped {
            copy(&from.join(&name), &to.join(&name), skipped)?;
        }
    }
    Ok(())
}
