//! Log files that `oncue up` keeps, one for each function and server: read from their ends, since they may be long.
//!
//! A file is `FOLDER/NAME.log`, a JSON object a line ([`LogLine`]). When it has [`MAX_BYTES`] it becomes `NAME.log.1`, in place
//! of the one before, so that a name takes twice that at most.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes of a file before it is put aside.
pub const MAX_BYTES: u64 = 8 << 20;
/// Variable that names the folder to processes of `oncue up`.
pub const FOLDER_VARIABLE: &str = "ONCUE_LOGS";

/// Line of a process, and when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Unix milliseconds.
    pub at: u64,
    /// Process that wrote it, `count-views.2`; `oncue` for the supervisor's own words on it.
    pub from: String,
    /// `DEBUG`, `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// Text for people, with its fields.
    pub text: String,
    /// Flow that it belongs to; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flow: String,
}

/// Lines that somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct LogQuery<'q> {
    /// Function, or `nats`, `redis`, `gateway`, `console`, `traces`; `None` for all.
    pub name: Option<&'q str>,
    /// Only lines of this flow.
    pub flow: Option<&'q str>,
    /// Only lines of then or later, Unix milliseconds.
    pub since: u64,
    /// Most lines, the newest.
    pub most: usize,
    /// Most bytes that are read of each file, from its end.
    pub bytes: u64,
}

impl LogQuery<'_> {
    /// Whether a line is wanted.
    pub fn wants(&self, line: &LogLine) -> bool {
        line.at >= self.since && self.flow.is_none_or(|flow| line.flow == flow)
    }
}

/// File of a name.
pub fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// Names of which there is a file, sorted. A folder that is not there has none.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let files = entries.filter_map(Result::ok);
    let names = files.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".log")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Lines that are wanted, oldest first. A file that cannot be read has none.
pub fn read(folder: &Path, query: &LogQuery<'_>) -> Vec<LogLine> {
    let all = match query.name {
        Some(name) => vec![name.to_owned()],
        None => names(folder),
    };
    let mut lines = Vec::new();
    for name in all {
        let current = file(folder, &name);
        let before = current.with_extension("log.1");
        for path in [before, current] {
            let text = end_of(&path, query.bytes).unwrap_or_default();
            lines.extend(parse(&text).filter(|line| query.wants(line)));
        }
    }
    lines.sort_by_key(|line| line.at);
    let from = lines.len().saturating_sub(query.most);
    lines.split_off(from)
}

/// Lines of a text; what is none, such as one that was cut at its beginning, is passed over.
pub fn parse(text: &str) -> impl Iterator<Item = LogLine> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// Last bytes of a file.
fn end_of(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, flow: &str) -> LogLine {
        LogLine {
            at,
            from: "f.1".into(),
            level: "INFO".into(),
            text: format!("line {at}"),
            flow: flow.into(),
        }
    }

    #[test]
    fn lines_of_both_files_are_read_in_order_and_chosen() {
        let folder = std::env::temp_dir().join(format!("oncue-logs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = |lines: &[LogLine]| {
            let lines = lines
                .iter()
                .map(|line| serde_json::to_string(line).unwrap() + "\n");
            lines.collect::<String>()
        };
        std::fs::write(folder.join("f.log.1"), text(&[line(1, ""), line(2, "x")])).unwrap();
        let cut = format!("half a line\n{}", text(&[line(5, "x"), line(6, "")]));
        std::fs::write(folder.join("f.log"), cut).unwrap();
        std::fs::write(folder.join("nats.log"), text(&[line(4, "")])).unwrap();
        assert_eq!(names(&folder), ["f", "nats"]);
        let all = LogQuery {
            most: 100,
            bytes: 1 << 20,
            ..LogQuery::default()
        };
        let times = |query: &LogQuery<'_>| {
            read(&folder, query)
                .iter()
                .map(|line| line.at)
                .collect::<Vec<_>>()
        };
        assert_eq!(times(&all), [1, 2, 4, 5, 6]);
        assert_eq!(
            times(&LogQuery {
                flow: Some("x"),
                ..all.clone()
            }),
            [2, 5]
        );
        assert_eq!(
            times(&LogQuery {
                name: Some("nats"),
                ..all.clone()
            }),
            [4]
        );
        assert_eq!(
            times(&LogQuery {
                since: 5,
                ..all.clone()
            }),
            [5, 6]
        );
        assert_eq!(times(&LogQuery { most: 2, ..all }), [5, 6]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
