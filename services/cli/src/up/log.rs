//! Log of the supervisor: every line of every process, aligned: name, level, message, fields.

mod files;
mod parse;
mod storm;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anstyle::Style;
use oncue_admin::program::logs::LogLine;
use oncue_proto::event;
use parking_lot::Mutex;
use serde_json::Value;

use self::files::LogFiles;
use self::storm::{Storms, WINDOW};

use self::parse::{LogLevel, parse};
use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, PALETTE, PLAIN, harmless, paint};

pub use self::parse::LogFormat;

/// Printer of log lines on stdout, which keeps them in files too.
pub struct LogPrinter {
    name_width: usize,
    verbose: bool,
    files: Option<LogFiles>,
    storms: Mutex<Storms>,
}

impl LogPrinter {
    /// Printer with a column as wide as the longest name.
    pub fn new<'n>(names: impl Iterator<Item = &'n str>, verbose: bool) -> Self {
        Self {
            name_width: names.map(str::len).max().unwrap_or(0) + 2,
            verbose,
            files: None,
            storms: Mutex::default(),
        }
    }

    /// Keeps all lines in a folder, from now on. A folder that cannot be written is said, and is no reason not to start.
    pub fn keep_in(mut self, folder: &Path) -> Self {
        match LogFiles::new(folder) {
            Ok(files) => self.files = Some(files),
            Err(e) => self.warn(&format!("no logs are kept: {}: {e}", folder.display())),
        }
        self
    }

    /// Says what storms of one line have hidden, for as long as there is a printer.
    pub async fn count_for_ever(log: &Arc<Self>) {
        let weak = Arc::downgrade(log);
        loop {
            tokio::time::sleep(WINDOW / 2).await;
            let Some(log) = weak.upgrade() else { return };
            let over = log.storms.lock().over(Instant::now());
            for hidden in over {
                let seconds = WINDOW.as_secs();
                let name = &hidden.name;
                let said = format!(
                    "{} more lines like this within {seconds} s: {}",
                    hidden.count, hidden.text
                );
                log.keep(name, LogLevel::Warn, &said, "");
                print(&log.row(name, colour(name), LogLevel::Warn, &said));
            }
        }
    }

    /// Last words of a process that ended on its own, as an error of its own.
    pub fn last_words(&self, name: &str, text: &str) {
        self.keep(name, LogLevel::Error, text, "");
        print(&self.row(name, colour(name), LogLevel::Error, text));
    }

    fn keep(&self, name: &str, level: LogLevel, text: &str, flow: &str) {
        let Some(files) = &self.files else { return };
        let function = name.split('.').next().unwrap_or(name);
        let line = LogLine {
            at: event::now_ms(),
            from: name.to_owned(),
            level: level.word().trim().to_owned(),
            text: anstream::adapter::strip_str(text).to_string(),
            flow: flow.to_owned(),
        };
        files.write(function, &line);
    }

    /// Word of our own on what is done and why; always shown.
    pub fn note(&self, text: &str) {
        print(&self.row("oncue", BOLD, LogLevel::Info, text));
    }

    pub fn warn(&self, text: &str) {
        print(&self.row("oncue", BOLD, LogLevel::Warn, text));
    }

    pub fn error(&self, text: &str) {
        print(&self.row("oncue", BOLD, LogLevel::Error, text));
    }

    /// Prints a line that a process wrote. Servers say a lot that is of use only when something is wrong.
    pub fn line(&self, name: &str, format: LogFormat, line: &str) {
        let (level, text) = parse(format, line);
        let function = name.split('.').next().unwrap_or(name);
        let is_trouble = level >= LogLevel::Warn;
        let plain = anstream::adapter::strip_str(&text).to_string();
        if is_trouble && !self.storms.lock().shows(Instant::now(), function, &plain) {
            return;
        }
        self.keep(name, level, &plain, &flow_of(format, line));
        if format == LogFormat::Json || self.verbose || level >= LogLevel::Warn {
            print(&self.row(name, colour(name), level, &text));
        }
    }

    fn row(&self, name: &str, style: Style, level: LogLevel, text: &str) -> String {
        let word = level.word();
        let colour = match level {
            LogLevel::Debug => DIM,
            LogLevel::Info => PLAIN,
            LogLevel::Warn => CHANGED,
            LogLevel::Error => BAD,
        };
        // Padded without the codes of colours, which take no column.
        let padding = " ".repeat(self.name_width.saturating_sub(name.len()));
        format!(
            "{}{padding}{} {text}",
            paint(style, name),
            paint(colour, word)
        )
    }
}

/// Flow that a line of ours belongs to; empty for none.
fn flow_of(format: LogFormat, line: &str) -> String {
    if format != LogFormat::Json || !line.contains("\"flow_id\"") {
        return String::new();
    }
    let fields: Value = serde_json::from_str(line).unwrap_or_default();
    fields["flow_id"].as_str().unwrap_or_default().to_owned()
}

/// Prints to stdout. A terminal that has gone must not keep the processes from being stopped, so failing is ignored.
pub fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{}", harmless(text));
}

/// Colour of a name: one in every run and for all workers of a function; neighbours in the alphabet differ as a rule.
fn colour(name: &str) -> Style {
    let function = name.split('.').next().unwrap_or(name);
    PALETTE[oncue_proto::event::partition(function) as usize % PALETTE.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_aligned() {
        let log = LogPrinter::new(["count-views", "nats"].into_iter(), false);
        let row = |name| {
            anstream::adapter::strip_str(&log.row(name, PLAIN, LogLevel::Info, "x")).to_string()
        };
        assert_eq!(row("nats"), "nats          INFO x");
        assert_eq!(row("count-views"), "count-views   INFO x");
    }
}
