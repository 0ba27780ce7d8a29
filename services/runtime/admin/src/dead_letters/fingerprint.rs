//! Fingerprint of a dead letter's cause, by which letters are grouped: a thousand failures of one line of code are
//! one thing to decide on.

use oncue_proto::event;
use oncue_proto::oncue::v1::DeadLetter;

/// Eight hexadecimal digits that name a cause: the function, the class of the reason, and the line that failed; where
/// no line is known, the message without what differs from event to event.
///
/// Lines move when code is changed, so letters of one cause may be of two groups before and after a build. Two
/// causes share a fingerprint by chance once in four thousand million pairs.
pub fn fingerprint(letter: &DeadLetter) -> String {
    let place = if letter.site.is_empty() {
        blotted(&letter.message)
    } else {
        letter.site.clone()
    };
    let hash = event::hash(&[
        letter.function.as_bytes(),
        letter.reason.as_bytes(),
        place.as_bytes(),
    ]);
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A message with its numbers and ids blotted out.
fn blotted(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = rest
            .find(|c: char| is_word(c) != is_word(first))
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        match is_word(first) {
            true if is_id(run) => out.push('#'),
            true => push_without_digits(&mut out, run),
            false => out.push_str(run),
        }
        rest = after;
    }
    out
}

/// Whether a character is part of a word.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '-' || c == '_'
}

/// Hexadecimal of some length, a UUID, or a long mixture of letters and digits.
/// Short words of hexadecimal letters alone, such as `facade`, are words.
fn is_id(word: &str) -> bool {
    let digits = word.bytes().any(|b| b.is_ascii_digit());
    let hex = word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits && (word.len() >= 16 || hex && word.len() >= 6) || hex && word.len() >= 16
}

fn push_without_digits(out: &mut String, word: &str) {
    let mut in_number = false;
    for c in word.chars() {
        match c.is_ascii_digit() {
            true if in_number => {}
            true => out.push('#'),
            false => out.push(c),
        }
        in_number = c.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(function: &str, reason: &str, site: &str, message: &str) -> DeadLetter {
        let [function, reason, site, message] =
            [function, reason, site, message].map(str::to_owned);
        DeadLetter {
            function,
            reason,
            site,
            message,
            ..DeadLetter::default()
        }
    }

    #[test]
    fn the_line_names_the_cause_whatever_the_message() {
        let at = |site, message| fingerprint(&letter("f", "attempts", site, message));
        assert_eq!(at("a.rs:1", "one"), at("a.rs:1", "two"));
        assert_ne!(at("a.rs:1", "one"), at("a.rs:2", "one"));
        assert_eq!(at("a.rs:1", "one").len(), 8);
        let one = |function, reason| fingerprint(&letter(function, reason, "a.rs:1", ""));
        assert_ne!(one("f", "attempts"), one("g", "attempts"));
        assert_ne!(one("f", "attempts"), one("f", "rejected"));
    }

    #[test]
    fn without_a_line_numbers_and_ids_do_not_matter() {
        let of = |message| fingerprint(&letter("f", "decode", "", message));
        assert_eq!(of("order 17 of 3 is late"), of("order 4 of 250 is late"));
        assert_eq!(
            of("no file 0190b4ae-91f3-7cc1-8d4e-0d1f2a3b4c5d"),
            of("no file abcdefab-abcd-abcd-abcd-abcdefabcdef")
        );
        assert_eq!(of("hash deadbeef01"), of("hash 77ff00aa12"));
        assert_eq!(
            of("id kN3sTq0V_x9-Lm2PzR7w1A lost"),
            of("id 8aB2cD4eF6gH8iJ0kL2mN4 lost")
        );
        assert_ne!(of("line is late"), of("line was lost"));
        assert_eq!(blotted("took 12ms, facade é7"), "took #ms, facade é#");
    }
}
