//! Account a search gives of itself: a person who is told that nothing was found wants to know where it was looked.

use std::fmt;

use serde::Serialize;

use oncue_proto::event;

/// How far the search went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Searched {
    /// Streams that were looked in, by name.
    pub streams: Vec<String>,
    /// Messages that were read.
    /// A message in the range of two windows counts twice.
    pub events: u64,
    /// Events found without a search, by what a function's seen-mark says.
    pub by_mark: u64,
    /// Unix milliseconds of the oldest and the newest event looked at.
    pub back_to: Option<u64>,
    pub up_to: Option<u64>,
    /// Time ran out before the end.
    /// Then "not found" means no more than that it was not among those.
    pub cut: bool,
}

impl Searched {
    /// Takes in the time of a message that was looked at.
    pub(super) fn widen(&mut self, time: u64) {
        let earliest = self.back_to.map_or(time, |known| known.min(time));
        let latest = self.up_to.map_or(time, |known| known.max(time));
        self.back_to = Some(earliest);
        self.up_to = Some(latest);
    }
}

/// As the second half of a sentence: "no event X, and ...".
impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = match self.streams.len() {
            0..=5 => self.streams.join(", "),
            many => format!("{many} streams"),
        };
        if self.by_mark > 0 {
            write!(f, "{} were found by their seen-marks, and ", self.by_mark)?;
        }
        write!(f, "{} events of {streams} were searched", self.events)?;
        if let (Some(from), Some(to)) = (self.back_to, self.up_to) {
            write!(
                f,
                ", from {} to {}",
                event::format_time(from),
                event::format_time(to)
            )?;
        }
        f.write_str(if self.cut {
            ", and for want of time no more"
        } else {
            ""
        })
    }
}
