//! Storms of one line: five thousand poison events write one complaint five thousand times. The first few are shown, the
//! rest is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines of one kind that are shown within a window.
const SHOWN: u32 = 5;
/// Time over which lines of one kind are counted.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Kinds that are told apart; a further one is always shown.
const MAX_KINDS: usize = 1000;

/// Counter of the lines of each kind: a name, and a text without its numbers.
#[derive(Default)]
pub struct Storms(HashMap<(String, String), Storm>);

struct Storm {
    since: Instant,
    seen: u32,
}

/// Lines of one kind that were not shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Hidden {
    pub name: String,
    /// Text without its numbers.
    pub text: String,
    pub count: u32,
}

impl Storms {
    /// Counts a line; whether it is to be shown.
    pub fn shows(&mut self, now: Instant, name: &str, text: &str) -> bool {
        let kind = (name.to_owned(), without_numbers(text));
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&kind) {
            return true;
        }
        let storm = self.0.entry(kind).or_insert(Storm {
            since: now,
            seen: 0,
        });
        storm.seen += 1;
        storm.seen <= SHOWN
    }

    /// Storms whose window is over, with what was not shown; lines of their kinds are shown again.
    pub fn over(&mut self, now: Instant) -> Vec<Hidden> {
        let mut hidden = Vec::new();
        self.0.retain(|(name, text), storm| {
            let goes_on = now.duration_since(storm.since) < WINDOW;
            if !goes_on && storm.seen > SHOWN {
                hidden.push(Hidden {
                    name: name.clone(),
                    text: text.clone(),
                    count: storm.seen - SHOWN,
                });
            }
            goes_on
        });
        hidden
    }
}

/// Text with `#` for each word that holds a digit: ids and numbers differ from line to line.
fn without_numbers(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        if word.bytes().any(|byte| byte.is_ascii_digit()) {
            "#"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_storm_are_shown_and_the_rest_is_counted() {
        let mut storms = Storms::default();
        let start = Instant::now();
        let shown = (0..5000)
            .filter(|number| storms.shows(start, "f", &format!("cannot take event e-{number}")));
        assert_eq!(shown.count(), 5);
        assert!(storms.shows(start, "f", "another line"));
        assert!(
            storms.shows(start, "g", "cannot take event e-1"),
            "of another"
        );
        assert_eq!(storms.over(start), [], "it goes on");
        let later = start + WINDOW;
        let over = storms.over(later);
        assert_eq!(over.len(), 1);
        assert_eq!(
            (over[0].count, over[0].text.as_str()),
            (4995, "cannot take event #")
        );
        assert!(
            storms.shows(later, "f", "cannot take event e-9"),
            "a new window"
        );
    }
}
