//! `Range` of a request [RFC 9110 section 14.2].

use std::ops::Range;

/// Part of a file a client asks for.
#[derive(Debug, PartialEq)]
pub enum AskedRange {
    /// No part, or none that can be read: then the whole file is the answer.
    Whole,
    /// Offsets of the first byte and of the one behind the last.
    Part(Range<u64>),
    /// Not one byte of it is in the file.
    Beyond,
}

impl AskedRange {
    /// One range of bytes. Several at once, another unit, or what cannot be read is no range.
    pub fn read(text: &str, size: u64) -> Self {
        match bounds(text, size) {
            None => Self::Whole,
            Some(range) if range.is_empty() => Self::Beyond,
            Some(range) => Self::Part(range),
        }
    }
}

/// `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`, cut to the size of the file.
fn bounds(text: &str, size: u64) -> Option<Range<u64>> {
    let set = text.strip_prefix("bytes=")?.trim();
    let (first, last) = set.split_once('-')?;
    if first.is_empty() {
        let length = number(last)?;
        return Some(size.saturating_sub(length)..size);
    }
    let first = number(first)?;
    if last.is_empty() {
        return Some(first..size);
    }
    let last = number(last)?;
    (first <= last).then(|| first..last.saturating_add(1).min(size))
}

/// Digits only: `+1` would be a number for Rust, and is none here.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(AskedRange::read("bytes=0-0", 10), AskedRange::Part(0..1));
        assert_eq!(AskedRange::read("bytes=2-", 10), AskedRange::Part(2..10));
        assert_eq!(AskedRange::read("bytes=-3", 10), AskedRange::Part(7..10));
        assert_eq!(AskedRange::read("bytes=-30", 10), AskedRange::Part(0..10));
        assert_eq!(
            AskedRange::read("bytes=5-18446744073709551615", 10),
            AskedRange::Part(5..10)
        );
        for beyond in ["bytes=10-", "bytes=-0", "bytes=10-20"] {
            assert_eq!(AskedRange::read(beyond, 10), AskedRange::Beyond, "{beyond}");
        }
        assert_eq!(AskedRange::read("bytes=-5", 0), AskedRange::Beyond);
        for whole in [
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=3-1",
            "bytes=x-",
            "bytes=-",
            "bytes=+1-2",
            "bytes=",
        ] {
            assert_eq!(AskedRange::read(whole, 10), AskedRange::Whole, "{whole}");
        }
    }
}
