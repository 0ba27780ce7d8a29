//! Log of the supervisor: every line of every process, aligned: name, level, message, fields.

mod parse;

use std::io::Write as _;

use anstyle::Style;

use self::parse::{LogLevel, parse};
use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, PALETTE, PLAIN, harmless, paint};

pub use self::parse::LogFormat;

/// Printer of log lines on stdout.
pub struct LogPrinter {
    name_width: usize,
    verbose: bool,
}

impl LogPrinter {
    /// Printer with a column as wide as the longest name.
    pub fn new<'n>(names: impl Iterator<Item = &'n str>, verbose: bool) -> Self {
        Self {
            name_width: names.map(str::len).max().unwrap_or(0) + 2,
            verbose,
        }
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
        if format == LogFormat::Json || self.verbose || level >= LogLevel::Warn {
            print(&self.row(name, colour(name), level, &text));
        }
    }

    fn row(&self, name: &str, style: Style, level: LogLevel, text: &str) -> String {
        let (word, colour) = match level {
            LogLevel::Debug => ("DEBUG", DIM),
            LogLevel::Info => (" INFO", PLAIN),
            LogLevel::Warn => (" WARN", CHANGED),
            LogLevel::Error => ("ERROR", BAD),
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
