//! Reader of log files that goes on where it has come to, so that no line is shown twice and none is left out, whatever its
//! time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use oncue_admin::program::logs::{self, LogLine, LogQuery};

/// Files of a folder, with how far each was read.
pub struct LogReader {
    folder: PathBuf,
    /// By name; one that is not there was never read.
    places: BTreeMap<String, Place>,
}

/// End of what was read of a file.
#[derive(Default)]
struct Place {
    /// Number of the file, which it keeps when it is put aside; 0 for none.
    inode: u64,
    offset: u64,
}

impl LogReader {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            places: BTreeMap::new(),
        }
    }

    /// Lines that are wanted and were written since the last call, oldest first; with the first call all there are. A file
    /// that cannot be read has none.
    pub fn next(&mut self, query: &LogQuery<'_>) -> Vec<LogLine> {
        let names = match query.name {
            Some(name) => vec![name.to_owned()],
            None => logs::names(&self.folder),
        };
        let mut lines = Vec::new();
        for name in names {
            let path = logs::file(&self.folder, &name);
            let place = self.places.entry(name).or_default();
            let text = place.read_on(&path).unwrap_or_default();
            lines.extend(logs::parse(&text).filter(|line| query.wants(line)));
        }
        lines.sort_by_key(|line| line.at);
        let from = lines.len().saturating_sub(query.most);
        lines.split_off(from)
    }
}

impl Place {
    /// Whole lines behind this place, which moves to their end.
    fn read_on(&mut self, path: &Path) -> io::Result<String> {
        let current = File::open(path)?;
        let found = current.metadata()?;
        let mut text = Vec::new();
        if found.ino() != self.inode {
            // Put aside since, perhaps with lines that nobody has read.
            if let Ok(aside) = File::open(path.with_extension("log.1")) {
                let was_begun = aside.metadata()?.ino() == self.inode;
                text = behind(aside, if was_begun { self.offset } else { 0 })?;
            }
            self.inode = found.ino();
            self.offset = 0;
        } else if found.len() < self.offset {
            self.offset = 0; // somebody has emptied it
        }
        let mut new = behind(current, self.offset)?;
        // Of a line that is being written, the rest comes with it.
        let whole = new.iter().rposition(|byte| *byte == b'\n');
        new.truncate(whole.map_or(0, |end| end + 1));
        self.offset += new.len() as u64;
        text.extend(new);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Bytes of a file from an offset on.
fn behind(mut file: File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(at: u64) -> String {
        let line = LogLine {
            at,
            from: "f.1".into(),
            level: "INFO".into(),
            text: "x".into(),
            flow: String::new(),
        };
        serde_json::to_string(&line).unwrap() + "\n"
    }

    fn append(path: &Path, text: &str) {
        let file = File::options().create(true).append(true).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn times(reader: &mut LogReader, most: usize) -> Vec<u64> {
        let query = LogQuery {
            most,
            ..LogQuery::default()
        };
        reader.next(&query).iter().map(|line| line.at).collect()
    }

    #[test]
    fn every_line_is_read_once() {
        let folder = std::env::temp_dir().join(format!("oncue-reader-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("f.log");
        append(&folder.join("f.log.1"), &line(1));
        append(&path, &line(2));
        let mut all = LogReader::new(folder.clone());
        let mut new = LogReader::new(folder.clone());
        assert_eq!(times(&mut all, 10), [1, 2]);
        assert_eq!(times(&mut new, 0), [0; 0], "no old line was asked for");
        assert_eq!(times(&mut new, 10), [0; 0]);
        // The same words in the same millisecond are another line, and an earlier time is no reason to leave one out.
        append(&path, &(line(2) + &line(1)));
        assert_eq!(times(&mut all, 10), [1, 2]);
        // Half a line waits for its end.
        let third = line(3);
        append(&path, &third[..10]);
        assert_eq!(times(&mut all, 10), [0; 0]);
        append(&path, &(third[10..].to_owned() + &line(4)));
        std::fs::rename(&path, path.with_extension("log.1")).unwrap();
        append(&path, &line(5));
        append(&folder.join("g.log"), &line(6));
        assert_eq!(times(&mut all, 10), [3, 4, 5, 6]);
        assert_eq!(times(&mut new, 10), [1, 2, 3, 4, 5, 6]);
        assert_eq!(times(&mut all, 10), [0; 0]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
