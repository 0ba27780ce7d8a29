//! Text of others, as it may be shown.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character shows nothing and steers how others are shown: control characters, line separators of Unicode, and
/// those that set the direction of text [Unicode UAX 9 section 2], which make `gpj.exe` out of `exe.jpg`.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Text with every character that [`steers`] written as `\u202e`, but those that `keep` lets pass. Within a JSON string this
/// is the same text still.
pub fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| steers(c) && !keep(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) && !keep(c) {
            // Of all that steer, none is beyond four digits.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_spelled_out() {
        let text = "a\u{202e}b\u{2066}c\u{9b}d\u{1b}[2J\n";
        let shown = escaped(text, |c| c == '\n');
        assert_eq!(shown, "a\\u202eb\\u2066c\\u009bd\\u001b[2J\n");
        let json = serde_json::to_string("a\u{202e}b").unwrap();
        let again: String = serde_json::from_str(&escaped(&json, |_| false)).unwrap();
        assert_eq!(again, "a\u{202e}b");
        // Names in other scripts stay as they are, and so do joined emoji.
        for plain in ["שלום", "日本語", "\u{1F469}\u{200d}\u{1F52C}", "Grüße\tx"] {
            assert!(matches!(escaped(plain, |c| c == '\t'), Cow::Borrowed(_)));
        }
    }
}
