//! How a CloudEvents attribute is written as a NATS header.

use std::borrow::Cow;
use std::fmt::Write as _;

/// CloudEvents header encoding: space, quote, percent and all outside printable ASCII [CloudEvents 1.0.3-wip NATS 3.1.3].
pub fn percent_encode(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'%';
    // Counted to the end, which the compiler does many bytes at a time.
    if text.bytes().filter(|b| !plain(*b)).count() == 0 {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Decodes exactly once; `None` where the result is not UTF-8. A quoted value is unquoted first.
pub fn percent_decode(text: &str) -> Option<String> {
    decoded(text).map(Cow::into_owned)
}

pub(super) fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let text = match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => Cow::Owned(inner.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => Cow::Borrowed(text),
    };
    if !text.contains('%') {
        return Some(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |at| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (bytes[at], digit(at + 1), digit(at + 2)) {
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
