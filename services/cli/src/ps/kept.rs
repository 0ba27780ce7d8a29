//! Which workers `oncue up` keeps, as it answers, and what that makes of a function.

use std::collections::BTreeMap;

use anstyle::Style;
use serde::{Deserialize, Serialize};

use crate::paint::{BAD, CHANGED, DIM, GOOD};
use crate::services::Instance;

/// Its name on the services API.
pub const UP: &str = "oncue-up";

/// What one `oncue up` keeps of a function, or several of them together.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Kept {
    pub min: u32,
    pub max: u32,
    pub workers: Vec<Worker>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Worker {
    pub pid: u32,
    pub phase: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No process, and `oncue up` starts one when an event comes.
    Asleep,
    Starting,
    Running,
    /// A process ended on its own and is started again after a pause.
    Failing,
    /// The last ones finish what they have in hand.
    Stopping,
    /// No process, and nobody who would start one.
    #[default]
    Stopped,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    pub fn style(self) -> Style {
        match self {
            Self::Running => GOOD,
            Self::Asleep => DIM,
            Self::Starting | Self::Stopping => CHANGED,
            Self::Failing | Self::Stopped => BAD,
        }
    }
}

/// By function, from the answers of every `oncue up`.
pub fn all(ups: &[Instance]) -> BTreeMap<String, Kept> {
    let mut all: BTreeMap<String, Kept> = BTreeMap::new();
    let answers = ups
        .iter()
        .flat_map(|up| &up.endpoints)
        .filter_map(|endpoint| endpoint.data.clone());
    let answers =
        answers.filter_map(|data| serde_json::from_value::<BTreeMap<String, Kept>>(data).ok());
    for (name, kept) in answers.flatten() {
        let together = all.entry(name).or_default();
        together.min += kept.min;
        together.max += kept.max;
        together.workers.extend(kept.workers);
    }
    all
}

/// Whoever answers runs; the rest is known to `oncue up` alone.
pub fn state(kept: Option<&Kept>, instances: &[Instance]) -> State {
    let Some(kept) = kept else {
        return if instances.is_empty() {
            State::Stopped
        } else {
            State::Running
        };
    };
    let any = |phase: &str| kept.workers.iter().any(|worker| worker.phase == phase);
    if any("failing") {
        State::Failing
    } else if !instances.is_empty() || any("up") {
        State::Running
    } else if any("starting") {
        State::Starting
    } else if any("stopping") {
        State::Stopping
    } else if kept.max > 0 {
        State::Asleep
    } else {
        State::Stopped
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn several_are_taken_together() {
        let up = |pid: u32| -> Instance {
            let data =
                json!({ "f": { "min": 0, "max": 2, "workers": [{ "pid": pid, "phase": "up" }] } });
            serde_json::from_value(
                json!({ "name": UP, "id": "u", "endpoints": [{ "data": data }] }),
            )
            .unwrap()
        };
        let all = all(&[up(1), up(2)]);
        assert_eq!((all["f"].max, all["f"].workers.len()), (4, 2));
    }

    #[test]
    fn states() {
        let kept = |phases: &[&str]| {
            let workers = phases
                .iter()
                .map(|phase| Worker {
                    pid: 1,
                    phase: (*phase).to_owned(),
                })
                .collect();
            Kept {
                min: 0,
                max: 2,
                workers,
            }
        };
        let one = [Instance::default()];
        for (phases, answering, expected) in [
            (&[][..], &[][..], State::Asleep),
            (&["starting"], &[], State::Starting),
            (&["starting"], &one, State::Running),
            (&["up", "stopping"], &[], State::Running), // too busy to answer
            (&["up", "failing"], &one, State::Failing),
            (&["stopping"], &[], State::Stopping),
        ] {
            assert_eq!(
                state(Some(&kept(phases)), answering),
                expected,
                "{phases:?}"
            );
        }
        assert_eq!(state(Some(&Kept::default()), &[]), State::Stopped);
        assert_eq!(
            (state(None, &[]), state(None, &one)),
            (State::Stopped, State::Running)
        );
    }
}
