//! Parser of log lines: level and text out of what our programs, NATS and Redis write.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::terminal::paint::{DIM, paint};

/// Importance of a line, as its writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// Word of five characters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => " INFO",
            Self::Warn => " WARN",
            Self::Error => "ERROR",
        }
    }
}

/// Form of a program's log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Our own programs: a JSON object a line.
    Json,
    /// `[pid] date time [INF] message`
    Nats,
    /// `pid:role date * message`
    Redis,
}

/// Fields left out of the text: those that every line has or that the name in front says already.
const HIDDEN_FIELDS: [&str; 8] = [
    "time", "level", "service", "function", "target", "message", "span_id", "trace_id",
];
/// Parts of words by which a warning of Redis is told from a greeting at the level of warnings.
const REDIS_TROUBLE: [&str; 8] = [
    "WARN", "rror", "atal", "an't", "ould not", "ailed", "rash", "MISCONF",
];

/// Level and text of a line, without control characters.
pub fn parse(format: LogFormat, line: &str) -> (LogLevel, String) {
    let line = line.trim_end();
    let (level, text) = match format {
        LogFormat::Json => {
            return json(line).unwrap_or_else(|| (LogLevel::Info, without_controls(line)));
        }
        LogFormat::Nats => nats(line),
        LogFormat::Redis => redis(line),
    };
    (level, without_controls(text))
}

/// Line of our own; `None` for any other, such as the report of a panic.
fn json(line: &str) -> Option<(LogLevel, String)> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let level = match text_field(&fields, "level")? {
        "ERROR" => LogLevel::Error,
        "WARN" => LogLevel::Warn,
        "DEBUG" | "TRACE" => LogLevel::Debug,
        _ => LogLevel::Info,
    };
    let mut out = without_controls(text_field(&fields, "message").unwrap_or_default());
    for (name, value) in &fields {
        if !HIDDEN_FIELDS.contains(&name.as_str()) {
            let name = paint(DIM, format_args!("{name}="));
            let _ = write!(out, " {name}{}", word(value));
        }
    }
    // Only where somebody will want to open the trace.
    if level >= LogLevel::Warn
        && let Some(trace) = text_field(&fields, "trace_id")
    {
        let _ = write!(out, " {}{trace}", paint(DIM, "trace="));
    }
    Some((level, out))
}

fn text_field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

/// Value of a field. A word stays bare; anything else is JSON, which also keeps control characters from the terminal.
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

/// Lines may quote events, and an escape sequence of a stranger must not steer the terminal. A message of several lines is one.
fn without_controls(text: &str) -> String {
    let text = text.trim_end().replace('\n', " | ");
    text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
}

/// Level and text of a line of nats-server, whose own time and process id are left out.
fn nats(line: &str) -> (LogLevel, &str) {
    let tags = [
        ("[INF]", LogLevel::Info),
        ("[WRN]", LogLevel::Warn),
        ("[ERR]", LogLevel::Error),
        ("[FTL]", LogLevel::Error),
        ("[DBG]", LogLevel::Debug),
    ];
    let found = tags
        .into_iter()
        .find_map(|(tag, level)| Some((level, line.split_once(tag)?.1.trim_start())));
    // Asked as nobody, and refused as it should be.
    if line.contains(":oncue-doctor\"") && line.contains("Violation") {
        return (LogLevel::Debug, found.map_or(line, |(_, text)| text));
    }
    // Without a tag it speaks before its log is up: a mistake in its configuration.
    found.unwrap_or((LogLevel::Error, line))
}

/// Level and text of a line of Redis, told by its one-character mark.
fn redis(line: &str) -> (LogLevel, &str) {
    let marks = [
        (" * ", LogLevel::Info),
        (" # ", LogLevel::Warn),
        (" - ", LogLevel::Debug),
        (" . ", LogLevel::Debug),
    ];
    // The first mark counts: a message may hold others.
    let found = marks
        .into_iter()
        .filter_map(|(mark, level)| {
            let (before, text) = line.split_once(mark)?;
            Some((before.len(), level, text))
        })
        .min_by_key(|(at, ..)| *at);
    let Some((_, level, text)) = found else {
        return (LogLevel::Info, line);
    };
    // Redis greets at the level of warnings, and warns of overcommitted memory on nearly every machine.
    let trouble = REDIS_TROUBLE.iter().any(|word| text.contains(word));
    if level == LogLevel::Warn && (!trouble || text.contains("overcommit")) {
        (LogLevel::Info, text)
    } else {
        (level, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(format: LogFormat, line: &str) -> (LogLevel, String) {
        let (level, text) = parse(format, line);
        (level, anstream::adapter::strip_str(&text).to_string())
    }

    #[test]
    fn a_json_line_becomes_message_and_fields() {
        let line = r#"{"time":"2026-01-01T00:00:00.000Z","level":"INFO","service":"count-views","trace_id":"ab","flow_id":"f1","target":"oncue","message":"ready","acts_on":"web.page.viewed x","n":3}"#;
        assert_eq!(
            plain(LogFormat::Json, line),
            (
                LogLevel::Info,
                r#"ready acts_on="web.page.viewed x" flow_id=f1 n=3"#.into()
            )
        );
    }

    #[test]
    fn a_warning_names_its_trace() {
        let line = r#"{"level":"WARN","message":"retry","trace_id":"ab12"}"#;
        assert_eq!(
            plain(LogFormat::Json, line),
            (LogLevel::Warn, "retry trace=ab12".into())
        );
    }

    #[test]
    fn what_is_not_json_passes_without_control_characters() {
        assert_eq!(
            plain(LogFormat::Json, "thread 'main' panicked"),
            (LogLevel::Info, "thread 'main' panicked".into())
        );
        assert_eq!(parse(LogFormat::Json, "\u{1b}[2J").1, "\u{fffd}[2J");
        let line = "{\"level\":\"INFO\",\"message\":\"a\\u001b[2J\",\"k\":\"\\u001b\"}";
        assert!(!plain(LogFormat::Json, line).1.contains('\u{1b}'));
    }

    #[test]
    fn servers_are_understood() {
        let nats = "[12805] 2026/11/23 07:00:58.251087 [WRN] Slow \n";
        assert_eq!(
            plain(LogFormat::Nats, nats),
            (LogLevel::Warn, "Slow".into())
        );
        assert_eq!(
            plain(LogFormat::Nats, "nats-server: no such flag"),
            (LogLevel::Error, "nats-server: no such flag".into())
        );
        let redis = "12:M 23 Nov 2026 07:00:58.251 * Ready to accept connections";
        assert_eq!(
            plain(LogFormat::Redis, redis),
            (LogLevel::Info, "Ready to accept connections".into())
        );
        assert_eq!(
            plain(
                LogFormat::Redis,
                "1:C 23 Nov 2026 07:00:58.251 # WARNING: a * b"
            )
            .0,
            LogLevel::Warn
        );
        assert_eq!(
            plain(
                LogFormat::Redis,
                "1:C 23 Nov 2026 07:00:58.251 # Server initialized"
            )
            .0,
            LogLevel::Info
        );
    }
}
