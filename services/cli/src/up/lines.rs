//! What the parts say, one aligned line each: name, level, message, fields.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::Style;
use serde_json::{Map, Value};

use crate::paint::{BAD, BOLD, CHANGED, DIM, PALETTE, PLAIN, paint};

/// Where every line goes.
pub struct Screen {
    width: usize,
    verbose: bool,
}

/// How important a line is, as its writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Who writes in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Ours: a JSON object a line.
    Json,
    /// `[pid] date time [INF] message`
    Nats,
    /// `pid:role date * message`
    Redis,
}

/// Fields that every line has or that the name in front says already.
const USUAL: [&str; 8] = [
    "time", "level", "service", "function", "target", "message", "span_id", "trace_id",
];

impl Screen {
    /// As wide as the longest name.
    pub fn new<'n>(names: impl Iterator<Item = &'n str>, verbose: bool) -> Self {
        Self {
            width: names.map(str::len).max().unwrap_or(0) + 2,
            verbose,
        }
    }

    pub fn note(&self, text: &str) {
        print(&self.row("oncue", BOLD, Level::Info, text));
    }

    pub fn warn(&self, text: &str) {
        print(&self.row("oncue", BOLD, Level::Warn, text));
    }

    pub fn error(&self, text: &str) {
        print(&self.row("oncue", BOLD, Level::Error, text));
    }

    /// A line a part wrote. Servers talk a lot that is of use only when something is wrong.
    pub fn said(&self, name: &str, dialect: Dialect, line: &str) {
        let (level, text) = read(dialect, line);
        if dialect == Dialect::Json || self.verbose || level >= Level::Warn {
            print(&self.row(name, colour(name), level, &text));
        }
    }

    fn row(&self, name: &str, style: Style, level: Level, text: &str) -> String {
        let (word, colour) = match level {
            Level::Debug => ("DEBUG", DIM),
            Level::Info => (" INFO", PLAIN),
            Level::Warn => (" WARN", CHANGED),
            Level::Error => ("ERROR", BAD),
        };
        let space = " ".repeat(self.width.saturating_sub(name.len()));
        format!(
            "{}{space}{} {text}",
            paint(style, name),
            paint(colour, word)
        )
    }
}

/// A terminal that has gone must not keep the processes from being stopped.
pub fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// The same in every run, and neighbours in the alphabet differ as a rule.
fn colour(name: &str) -> Style {
    let base = name.split('.').next().unwrap_or(name);
    PALETTE[oncue_proto::event::partition(base) as usize % PALETTE.len()]
}

fn read(dialect: Dialect, line: &str) -> (Level, String) {
    let line = line.trim_end();
    let (level, text) = match dialect {
        Dialect::Json => return json(line).unwrap_or_else(|| (Level::Info, harmless(line))),
        Dialect::Nats => nats(line),
        Dialect::Redis => redis(line),
    };
    (level, harmless(text))
}

/// `None` for a line that is not ours, such as the report of a panic.
fn json(line: &str) -> Option<(Level, String)> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let level = match text("level")? {
        "ERROR" => Level::Error,
        "WARN" => Level::Warn,
        "DEBUG" | "TRACE" => Level::Debug,
        _ => Level::Info,
    };
    let mut out = harmless(text("message").unwrap_or_default());
    for (name, value) in &fields {
        if !USUAL.contains(&name.as_str()) {
            let _ = write!(
                out,
                " {}{}",
                paint(DIM, format_args!("{name}=")),
                word(value)
            );
        }
    }
    // Only where somebody will want to open the trace.
    if let (Some(trace), Level::Warn | Level::Error) = (text("trace_id"), level) {
        let _ = write!(out, " {}{trace}", paint(DIM, "trace="));
    }
    Some((level, out))
}

/// A word stays bare; anything else is JSON, which also keeps control characters from the terminal.
fn word(value: &Value) -> String {
    match value {
        Value::String(text)
            if !text.is_empty()
                && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') =>
        {
            text.clone()
        }
        other => other.to_string(),
    }
}

fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

fn nats(line: &str) -> (Level, &str) {
    let tags = [
        ("[INF]", Level::Info),
        ("[WRN]", Level::Warn),
        ("[ERR]", Level::Error),
        ("[FTL]", Level::Error),
        ("[DBG]", Level::Debug),
    ];
    let found = tags
        .into_iter()
        .find_map(|(tag, level)| Some((level, line.split_once(tag)?.1.trim_start())));
    // Without a tag it speaks before its log is up: a mistake in its configuration.
    found.unwrap_or((Level::Error, line))
}

fn redis(line: &str) -> (Level, &str) {
    let marks = [
        (" * ", Level::Info),
        (" # ", Level::Warn),
        (" - ", Level::Debug),
        (" . ", Level::Debug),
    ];
    let found = marks
        .into_iter()
        .filter_map(|(mark, level)| Some((line.find(mark)?, mark.len(), level)))
        .min_by_key(|(at, ..)| *at);
    let (level, text) = found.map_or((Level::Info, line), |(at, len, level)| {
        (level, &line[at + len..])
    });
    // Redis greets at the level of warnings, and warns of overcommitted memory on nearly every machine.
    let serious = [
        "WARN", "rror", "atal", "an't", "ould not", "ailed", "rash", "MISCONF",
    ]
    .iter()
    .any(|word| text.contains(word));
    if level == Level::Warn && (!serious || text.contains("overcommit")) {
        (Level::Info, text)
    } else {
        (level, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(dialect: Dialect, line: &str) -> (Level, String) {
        let (level, text) = read(dialect, line);
        (level, anstream::adapter::strip_str(&text).to_string())
    }

    #[test]
    fn a_json_line_becomes_message_and_fields() {
        let line = r#"{"time":"2026-01-01T00:00:00.000Z","level":"INFO","service":"count-views","trace_id":"ab","flow_id":"f1","target":"oncue","message":"ready","acts_on":"web.page.viewed x","n":3}"#;
        assert_eq!(
            plain(Dialect::Json, line),
            (
                Level::Info,
                r#"ready acts_on="web.page.viewed x" flow_id=f1 n=3"#.into()
            )
        );
    }

    #[test]
    fn a_warning_names_its_trace() {
        let line = r#"{"level":"WARN","message":"retry","trace_id":"ab12"}"#;
        assert_eq!(
            plain(Dialect::Json, line),
            (Level::Warn, "retry trace=ab12".into())
        );
    }

    #[test]
    fn what_is_not_json_passes_without_control_characters() {
        assert_eq!(
            plain(Dialect::Json, "thread 'main' panicked"),
            (Level::Info, "thread 'main' panicked".into())
        );
        assert_eq!(read(Dialect::Json, "\u{1b}[2J").1, "\u{fffd}[2J");
        let line = "{\"level\":\"INFO\",\"message\":\"a\\u001b[2J\",\"k\":\"\\u001b\"}";
        assert!(!plain(Dialect::Json, line).1.contains('\u{1b}'));
    }

    #[test]
    fn servers_are_understood() {
        let nats = "[12805] 2026/11/23 07:00:58.251087 [WRN] Slow \n";
        assert_eq!(plain(Dialect::Nats, nats), (Level::Warn, "Slow".into()));
        assert_eq!(
            plain(Dialect::Nats, "nats-server: no such flag"),
            (Level::Error, "nats-server: no such flag".into())
        );
        let redis = "12:M 23 Nov 2026 07:00:58.251 * Ready to accept connections";
        assert_eq!(
            plain(Dialect::Redis, redis),
            (Level::Info, "Ready to accept connections".into())
        );
        assert_eq!(
            plain(
                Dialect::Redis,
                "1:C 23 Nov 2026 07:00:58.251 # WARNING: a * b"
            )
            .0,
            Level::Warn
        );
        assert_eq!(
            plain(
                Dialect::Redis,
                "1:C 23 Nov 2026 07:00:58.251 # Server initialized"
            )
            .0,
            Level::Info
        );
    }

    #[test]
    fn names_are_aligned() {
        let screen = Screen::new(["count-views", "nats"].into_iter(), false);
        let row = |name| {
            anstream::adapter::strip_str(&screen.row(name, PLAIN, Level::Info, "x")).to_string()
        };
        assert_eq!(row("nats"), "nats          INFO x");
        assert_eq!(row("count-views"), "count-views   INFO x");
    }
}
