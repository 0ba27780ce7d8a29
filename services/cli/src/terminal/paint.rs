//! Printing: styles, results on stdout, remarks and progress on stderr.
//!
//! Colours go to terminals only; `NO_COLOR` and `CLICOLOR_FORCE` are honoured (by anstream). Text from events, logs
//! and servers may hold escape sequences, so it passes [`brief`] before it reaches a terminal. Whatever did not is spelled
//! out by [`harmless`], which every line passes.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use oncue_proto::text;
use tokio::sync::Notify;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::exit::Failure;

pub const PLAIN: Style = Style::new();
pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const CHANGED: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const NAME: Style = AnsiColor::Cyan.on_default();

/// Colours of names that should be told apart at a glance; red and yellow are left to errors and warnings.
pub const PALETTE: [Style; 6] = [
    AnsiColor::Cyan.on_default(),
    AnsiColor::Green.on_default(),
    AnsiColor::Magenta.on_default(),
    AnsiColor::Blue.on_default(),
    AnsiColor::BrightCyan.on_default(),
    AnsiColor::BrightGreen.on_default(),
];

/// Text in a style; without codes for the plain one, so that plain output is plain everywhere.
pub fn paint(style: Style, text: impl Display) -> String {
    if style.is_plain() {
        text.to_string()
    } else {
        format!("{style}{text}{style:#}")
    }
}

/// Error after which nothing is written to stdout any more.
static STDOUT_ERROR: OnceLock<ErrorKind> = OnceLock::new();
/// Wakes whoever waits for that.
static STDOUT_GONE: Notify = Notify::const_new();

/// Prints one line of result on stdout. Where nobody reads it any more (`oncue keys revoke A B | head -1`) the verb goes on
/// without a word: it may be half-way through a change, and has an exit code of its own.
pub fn say(line: impl Display) {
    if STDOUT_ERROR.get().is_some() {
        return;
    }
    let line = line.to_string();
    if let Err(e) = writeln!(anstream::stdout(), "{}", harmless(&line)) {
        if e.kind() != ErrorKind::BrokenPipe {
            remark(format_args!("the result cannot be written: {e}"));
        }
        let _ = STDOUT_ERROR.set(e.kind());
        STDOUT_GONE.notify_one();
    }
}

/// Waits until stdout takes no more lines: the end of a verb that only shows what comes (`oncue tail | head`). For one
/// caller in a process.
pub async fn stdout_gone() {
    while STDOUT_ERROR.get().is_none() {
        STDOUT_GONE.notified().await;
    }
}

/// Whether a part of the result was not written (a full disk). A reader that has gone misses nothing.
pub fn is_result_lost() -> bool {
    STDOUT_ERROR
        .get()
        .is_some_and(|kind| *kind != ErrorKind::BrokenPipe)
}

/// Prints a remark on stderr, where it is dispensable: stdout holds the whole result without it.
pub fn remark(line: impl Display) {
    let _ = writeln!(anstream::stderr(), "{}", harmless(&line.to_string()));
}

/// Prints why a verb failed, with the advice on a line of its own.
pub fn complain(failure: &Failure) {
    let _ = writeln!(
        anstream::stderr(),
        "{} {}",
        paint(BAD, "oncue:"),
        harmless(&failure.what)
    );
    if let Some(advice) = &failure.advice {
        let _ = writeln!(anstream::stderr(), "  {}", harmless(advice));
    }
    let _ = io::stderr().flush();
}

/// Columns of the terminal on stdout; `None` where it is none, and nothing needs to be cut.
pub fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Prints a line that replaces itself, on stderr, where that is a terminal; an empty one goes away.
/// Nothing is printed elsewhere: in a file every step would be a line.
pub fn progress(line: impl Display) {
    if io::stderr().is_terminal() {
        let _ = write!(
            anstream::stderr(),
            "\r\x1b[2K{}",
            harmless(&line.to_string())
        );
        let _ = io::stderr().flush();
    }
}

/// Lines as they may reach a terminal: what steers it is spelled out, but for line breaks, tabs and the styles of
/// [`paint`], which do no more than colour.
pub fn harmless(lines: &str) -> Cow<'_, str> {
    if !lines.contains(text::steers) {
        return lines.into();
    }
    let mut parts = lines.split('\x1b');
    let mut out = escaped(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        out.push_str(if is_style(part) { "\x1b" } else { "\\u001b" });
        out.push_str(&escaped(part));
    }
    out.into()
}

fn escaped(part: &str) -> Cow<'_, str> {
    text::escaped(part, |c| matches!(c, '\n' | '\t'))
}

/// Whether what stands behind an escape character is a style: `[`, numbers, `m`.
fn is_style(behind: &str) -> bool {
    let numbers = behind.strip_prefix('[').unwrap_or_default();
    numbers
        .trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
        .starts_with('m')
}

/// One line without control characters, at most `columns` wide on a terminal; what is cut ends with `…`.
pub fn brief(text: &str, columns: usize) -> String {
    let text: String = text
        .chars()
        .map(|c| if text::steers(c) { ' ' } else { c })
        .collect();
    if text.width() <= columns {
        return text;
    }
    let mut left = columns.saturating_sub(1);
    let mut out = String::new();
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        out.push(c);
    }
    out.push('…');
    out
}

/// Number with its thousands apart: `12,345`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 999, 1000, 1_234_567].map(number);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn long_and_dirty_text_is_cut_and_cleaned() {
        assert_eq!(brief("a\u{1b}[2J\nb", 80), "a [2J b");
        assert_eq!(brief("abcdef", 4), "abc…");
        assert_eq!(
            brief("日本語", 4),
            "日…",
            "a wide character is not cut in half"
        );
    }

    #[test]
    fn styles_pass_and_nothing_else_that_steers() {
        let ours = paint(BAD, "x");
        assert_eq!(harmless(&ours), ours);
        assert_eq!(harmless("a\tb\nc"), "a\tb\nc");
        assert_eq!(
            harmless("a\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}5A\u{202e}b\rc"),
            "a\\u001b[2J\\u001b]0;t\\u0007\\u009b5A\\u202eb\\u000dc"
        );
        assert_eq!(brief("a\u{202e}b", 80), "a b");
    }

    #[test]
    fn plain_text_has_no_codes() {
        assert_eq!(paint(PLAIN, "x"), "x");
        assert_eq!(paint(BOLD, "x"), "\u{1b}[1mx\u{1b}[0m");
    }
}
