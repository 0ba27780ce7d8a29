//! Ending of a run: all that can be seen of it from outside, to be compared with that of another.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// Rows, events, dead letters, files and observations, each under a name of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ending {
    seen: BTreeMap<String, String>,
    /// How often something happened.
    counts: BTreeMap<String, usize>,
}

/// Name of what a scenario has failed by.
pub(super) const SCENARIO: &str = "the scenario";
/// Longest line of a report.
const WIDTH: usize = 160;

impl Ending {
    pub fn set(&mut self, name: String, value: impl Display) {
        self.seen.insert(name, value.to_string());
    }

    /// Counts what may happen more than once.
    pub fn count(&mut self, name: String) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// The differences between the plain run, which this is, and another, for people.
    pub fn differences(&self, other: &Self) -> String {
        // Where the scenario itself failed, its app is gone, and with it all else there was to see.
        let failed = other.seen.get(SCENARIO).or(self.seen.get(SCENARIO));
        if let Some(why) = failed {
            return format!("  the scenario fails: {why}\n");
        }
        let mut text = String::new();
        let mut names: Vec<&String> = self.seen.keys().chain(other.seen.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let plain = self.seen.get(name);
            let lucky = other.seen.get(name);
            if plain != lucky {
                let _ = writeln!(text, "  {}", shortened(name));
                for (run, value) in [("in order", plain), ("this run", lucky)] {
                    let value = value.map_or("nothing", String::as_str);
                    let _ = writeln!(text, "      {run}:  {}", shortened(value));
                }
            }
        }
        let mut names: Vec<&String> = self.counts.keys().chain(other.counts.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let plain = self.counts.get(name).copied().unwrap_or_default();
            let lucky = other.counts.get(name).copied().unwrap_or_default();
            if plain != lucky {
                let _ = writeln!(text, "  {}", shortened(name));
                let _ = writeln!(text, "      in order:  {plain} of it");
                let _ = writeln!(text, "      this run:  {lucky} of it");
            }
        }
        text
    }
}

/// Beginning of a long line.
fn shortened(line: &str) -> String {
    if line.len() <= WIDTH {
        return line.to_owned();
    }
    format!("{} ...", &line[..line.floor_char_boundary(WIDTH)])
}
