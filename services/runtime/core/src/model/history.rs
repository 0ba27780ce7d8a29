//! History of a function: which events it acted on, and under which key, from which place in its stream on. `oncue apply`
//! writes it with each change; audits and recoveries read it, since an event of a type that the function did not act on
//! then was not missed.

use oncue_proto::event;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::app::AppName;
use crate::bus::layout;

/// Function as it was from one place in its stream on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Creation time of the stream, Unix milliseconds: sequences of another one mean other events.
    pub created: u64,
    /// Sequence of the first event.
    pub from: u64,
    /// Version of the program.
    pub version: String,
    /// Subjects of the types it acts on.
    pub filters: Vec<String>,
    /// Name of the key that it gives its events; `None` for their own.
    pub key: Option<String>,
    /// Version of the rows it writes.
    pub row_version: u32,
}

impl Held {
    /// The function of this manifest from sequence `from` of its stream on.
    pub fn of(manifest: &Manifest, created: u64, from: u64) -> Self {
        Self {
            created,
            from,
            version: manifest.version.clone(),
            filters: manifest.filters.clone(),
            key: manifest.key.clone(),
            row_version: manifest.row_version,
        }
    }

    /// Whether two are of one program in all but the place.
    fn is_as(&self, other: &Self) -> bool {
        let here = Self {
            from: other.from,
            ..self.clone()
        };
        here == *other
    }
}

/// Changes of a function, the earliest first. Empty for one that was never applied: then what it is now always held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<Held>);

impl History {
    /// Adds what holds from now on; `false` if nothing has changed. What only held before `first`, the first event that
    /// the stream still has, is forgotten.
    pub fn begin(&mut self, held: Held, first: u64) -> bool {
        if self.0.last().is_some_and(|last| last.is_as(&held)) {
            return false;
        }
        self.0.retain(|before| before.created == held.created);
        self.0.push(held);
        let over = self.0.windows(2).take_while(|pair| pair[1].from <= first);
        let over = over.count();
        self.0.drain(..over);
        true
    }

    /// Newest version of rows that any program wrote.
    pub fn newest_rows(&self) -> u32 {
        let versions = self.0.iter().map(|held| held.row_version);
        versions.max().unwrap_or(1)
    }

    /// Program that held at a place of the stream; `None` where nothing is noted of it.
    pub fn at(&self, created: u64, sequence: u64) -> Option<&Held> {
        let mut held = self.0.iter().rev();
        held.find(|held| held.created == created && held.from <= sequence)
    }
}

/// Events of a stream that a function acts on, today and before.
#[derive(Debug, Clone)]
pub struct Cue {
    history: History,
    created: u64,
    /// Sequence of the first event that today's program holds from.
    since: u64,
    /// Subjects of the types it acts on today.
    filters: Vec<String>,
    /// Subject of what is redriven to it alone, whatever its type.
    redrive: String,
}

impl Cue {
    /// Cue of the function of `manifest` in its stream, which was made at `created` (Unix milliseconds).
    pub fn new(manifest: &Manifest, app: &AppName, created: u64, history: History) -> Self {
        let consumer = app.consumer(&manifest.name);
        let latest = history.at(created, u64::MAX);
        Self {
            since: latest.map_or(0, |held| held.from),
            history,
            created,
            filters: manifest.filters.clone(),
            redrive: event::redrive_subject(&manifest.stream, &consumer),
        }
    }

    /// Whether the function acted on events of this subject when the one at `sequence` came.
    pub fn covers(&self, sequence: u64, subject: &str) -> bool {
        let held = self.history.at(self.created, sequence);
        let filters = held.map_or(&self.filters, |held| &held.filters);
        subject == self.redrive || layout::matches(filters, subject)
    }

    /// Whether an event came before the function acted on its type: the server delivers what a consumer had not passed yet
    /// when its filters were changed, and a recovery brings all of it again.
    pub fn precedes(&self, sequence: u64, subject: &str) -> bool {
        sequence < self.since && !self.covers(sequence, subject)
    }

    /// Whether this program acts on events of this subject.
    pub fn covers_today(&self, subject: &str) -> bool {
        subject == self.redrive || layout::matches(&self.filters, subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(from: u64, ty: &str, version: &str) -> Held {
        Held {
            created: 7,
            from,
            version: version.to_owned(),
            filters: layout::filters(&[ty]),
            key: None,
            row_version: 1,
        }
    }

    #[test]
    fn what_held_is_found_by_the_place() {
        let mut history = History::default();
        assert!(history.begin(held(0, "a.b.c", "1"), 0));
        assert!(!history.begin(held(9, "a.b.c", "1"), 0), "nothing changed");
        assert!(history.begin(held(20, "a.b.d", "2"), 0));
        let version = |created, at| history.at(created, at).map(|held| held.version.as_str());
        assert_eq!(version(7, 19), Some("1"));
        assert_eq!(version(7, 20), Some("2"));
        assert_eq!(version(8, 20), None, "a stream that was made anew");
        let cue = Cue {
            history,
            created: 7,
            since: 20,
            filters: layout::filters(&["a.b.d"]),
            redrive: "a.redrive.app_f".to_owned(),
        };
        for (sequence, subject, expected) in [
            (19, "a.b.c", true),
            (19, "a.b.c.key", true),
            (19, "a.b.d", false),
            (20, "a.b.c", false),
            (20, "a.b.d", true),
            (19, "a.redrive.app_f", true),
            (19, "a.redrive.app_g", false),
        ] {
            assert_eq!(
                cue.covers(sequence, subject),
                expected,
                "{sequence} {subject}"
            );
            let precedes = sequence < 20 && !expected;
            assert_eq!(cue.precedes(sequence, subject), precedes);
        }
    }

    #[test]
    fn what_no_event_is_left_of_is_forgotten() {
        let mut history = History::default();
        for (from, version) in [(0, "1"), (20, "2"), (30, "3")] {
            history.begin(held(from, "a.b.c", version), 0);
        }
        history.begin(held(40, "a.b.c", "4"), 30);
        assert_eq!(history.0.len(), 2, "the stream begins at 30");
        history.begin(
            Held {
                created: 8,
                ..held(1, "a.b.c", "4")
            },
            0,
        );
        assert_eq!(history.0.len(), 1, "another stream");
    }
}
