//! Files of the log: one for each function and server, bounded, for `oncue logs` and the console.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use oncue_admin::program::logs::{self, LogLine, MAX_BYTES};
use parking_lot::Mutex;

/// Writer of log files; a disk that takes no more costs lines and nothing else.
pub struct LogFiles {
    folder: PathBuf,
    /// By name.
    open: Mutex<BTreeMap<String, LogFile>>,
}

struct LogFile {
    file: File,
    bytes: u64,
}

impl LogFiles {
    /// Files in a folder, which is made. Fails where that cannot be.
    pub fn new(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            open: Mutex::default(),
        })
    }

    /// Adds a line to the file of a function or a server.
    pub fn write(&self, name: &str, line: &LogLine) {
        let Ok(mut text) = serde_json::to_string(line) else {
            return;
        };
        text.push('\n');
        let mut open = self.open.lock();
        // One that failed is opened anew with the next line: somebody may have made room, or the folder.
        if self.append(&mut open, name, &text).is_err() {
            open.remove(name);
        }
    }

    fn append(
        &self,
        open: &mut BTreeMap<String, LogFile>,
        name: &str,
        text: &str,
    ) -> std::io::Result<()> {
        let path = logs::file(&self.folder, name);
        let is_full = open
            .get(name)
            .is_some_and(|file| file.bytes + text.len() as u64 > MAX_BYTES);
        if is_full {
            open.remove(name);
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        if !open.contains_key(name) {
            std::fs::create_dir_all(&self.folder)?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            let bytes = file.metadata()?.len();
            open.insert(name.to_owned(), LogFile { file, bytes });
        }
        if let Some(file) = open.get_mut(name) {
            file.file.write_all(text.as_bytes())?;
            file.bytes += text.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_one_before_goes() {
        let folder = std::env::temp_dir().join(format!("oncue-log-files-{}", std::process::id()));
        let files = LogFiles::new(&folder).unwrap();
        let line = LogLine {
            at: 1,
            from: "f.1".into(),
            level: "INFO".into(),
            text: "x".repeat(1 << 20),
            flow: String::new(),
        };
        for _ in 0..20 {
            files.write("f", &line);
        }
        let sizes: Vec<u64> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2, "f.log and f.log.1");
        assert!(
            sizes
                .iter()
                .all(|size| (1 << 20..=MAX_BYTES).contains(size)),
            "{sizes:?}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
