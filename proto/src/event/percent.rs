//! Attributes of a CloudEvent as values of NATS headers: percent-encoded, read back with or without quotes.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Characters that are encoded, besides all that is not ASCII: space, quote, percent, and all that is not printable
/// [CloudEvents 1.0.3-wip NATS 3.1.3].
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Text as a header value. Borrows where nothing has to be encoded, which is the rule.
pub fn percent_encode(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ENCODED).into()
}

/// Text of a header value, decoded exactly once; `None` where that is not UTF-8. A quoted value is unquoted first.
pub fn percent_decode(text: &str) -> Option<String> {
    decoded(text).map(Cow::into_owned)
}

/// Text of a header value as [`percent_decode`] has it; borrows where nothing is encoded.
pub(super) fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let Some(inner) = quoted else {
        return decoded_unquoted(text);
    };
    let inner = inner.replace("\\\"", "\"").replace("\\\\", "\\");
    Some(Cow::Owned(decoded_unquoted(&inner)?.into_owned()))
}

/// Text decoded exactly once; borrows where nothing is encoded.
fn decoded_unquoted(text: &str) -> Option<Cow<'_, str>> {
    // The crate would go through all of it byte by byte, and then once more to see that it is UTF-8: 0.3 us for each
    // event.
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_printable_ascii_is_not_copied() {
        let plain = "/count-views!#$&'()*+,-./:;<=>?@[]^_`{|}~\\";
        assert!(matches!(percent_encode(plain), Cow::Borrowed(text) if text == plain));
        assert!(matches!(decoded(plain), Some(Cow::Borrowed(text)) if text == plain));
    }

    #[test]
    fn all_other_characters_are_encoded_and_come_back() {
        let text = "a b\"c%d\u{7f}\n\u{20ac}\u{1f600}";
        let encoded = "a%20b%22c%25d%7F%0A%E2%82%AC%F0%9F%98%80";
        assert_eq!(percent_encode(text), encoded);
        assert_eq!(percent_decode(encoded).as_deref(), Some(text));
    }

    #[test]
    fn decoding_takes_what_others_write() {
        let cases = [
            ("%e2%82%ac", Some("\u{20ac}")),
            ("100%", Some("100%")),
            ("%2", Some("%2")),
            ("%zz%41", Some("%zzA")),
            ("%2541", Some("%41")),
            ("%ff", None),
            (r#""a \"quoted\" %41""#, Some(r#"a "quoted" A"#)),
            (r#"""#, Some(r#"""#)),
        ];
        for (value, text) in cases {
            assert_eq!(percent_decode(value).as_deref(), text, "{value}");
        }
    }
}
