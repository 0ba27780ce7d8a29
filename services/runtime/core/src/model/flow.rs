//! The ledger of a tracked flow, as it is read: which function has still to act on which event, and what became of the
//! rest. Workers write it in the very step that commits, so it is never ahead of the rows; nobody orchestrates by it.
//!
//! One Redis hash for each flow, `{pN}:f:FLOW`:
//!
//! | field | holds |
//! |---|---|
//! | `e:EVENT` | `["type","key","source","cause",time ms]` |
//! | `s:EVENT:FUNCTION` | `p MS` open since, `d MS` done at, `x MS` dead at |
//! | `r:EVENT:FUNCTION` | `MS ATTEMPT` when a handler last began |
//! | `w:EVENT:FUNCTION` | `MS WHY` when it last failed |
//! | `n` | steps still open; 0 means that the flow is complete |
//! | `at`, `end` | first write, and when `n` last became 0 |
//!
//! An event id may hold `:`, a function's name may not. Whatever else stands in the hash is passed over, and what is
//! half there is shown as far as it goes: a page about a flow must not fail because of one field.

mod observed;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

pub use self::observed::{Edge, Registered};
pub use self::observed::{edges, functions};

/// What is known of a tracked flow. All times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Id of the root event.
    pub id: String,
    /// Steps that are still open; 0 means that the flow is complete.
    pub open: u64,
    pub started: u64,
    /// When it became complete.
    pub ended: Option<u64>,
    /// Causes before their effects, each event followed by all that it caused.
    pub events: Vec<FlowEvent>,
}

/// One event of a flow and the functions that act on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FlowEvent {
    pub id: String,
    /// Empty, as are the next four, where the ledger knows only the steps.
    #[serde(rename = "type")]
    pub ty: String,
    pub key: String,
    /// `/FUNCTION` that emitted it, or where it came from.
    pub source: String,
    /// Event that caused it; empty for the root.
    pub cause: String,
    pub time: u64,
    /// Events between the root and this one.
    pub depth: u32,
    /// By function name.
    pub steps: Vec<Step>,
}

/// One function's turn at one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub function: String,
    pub state: StepState,
    /// Open since then; of a closed step, the event's time.
    pub since: u64,
    /// When a handler last began.
    pub started: Option<u64>,
    /// Done or dead at.
    pub ended: Option<u64>,
    /// Runs of the handler that began.
    pub attempts: u32,
    /// When and why it last failed, even if it went well since.
    pub failed: Option<u64>,
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// No worker has begun.
    Pending,
    Running,
    /// Failed and will be tried again.
    Waiting,
    Done,
    /// Set aside as a dead letter.
    Dead,
    /// The function has no consumer any more: nobody will act on it, and nobody waits for it.
    Removed,
}

impl StepState {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Waiting)
    }
}

impl Flow {
    /// Reads the fields of a ledger; `None` where there are none.
    pub fn read(id: &str, fields: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Option<Self> {
        let mut raw = Raw::default();
        let mut any = false;
        for (field, value) in fields {
            any = true;
            raw.take(
                &String::from_utf8_lossy(&field),
                &String::from_utf8_lossy(&value),
            );
        }
        any.then(|| raw.flow(id))
    }

    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Open steps of functions that `is_there` does not know are shown as removed, and count as open no more.
    pub fn without_removed(&mut self, is_there: impl Fn(&str) -> bool) {
        for step in self.events.iter_mut().flat_map(|event| &mut event.steps) {
            if step.state.is_open() && !is_there(&step.function) {
                step.state = StepState::Removed;
                self.open = self.open.saturating_sub(1);
            }
        }
    }

    /// The one step to look at when nothing goes on: first what fails, then what is running, then what nobody has begun,
    /// and of several the one that is open for longest.
    pub fn waits_for(&self) -> Option<(&FlowEvent, &Step)> {
        let steps = self
            .events
            .iter()
            .flat_map(|event| event.steps.iter().map(move |step| (event, step)));
        let urgency = |state| match state {
            StepState::Waiting => 0,
            StepState::Running => 1,
            _ => 2,
        };
        steps
            .filter(|(_, step)| step.state.is_open())
            .min_by_key(|(_, step)| (urgency(step.state), step.since))
    }

    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.events.iter().flat_map(|event| &event.steps)
    }
}

/// Fields as found, before they are put together.
#[derive(Default)]
struct Raw {
    events: HashMap<String, FlowEvent>,
    steps: BTreeMap<(String, String), RawStep>,
    open: Option<i64>,
    started: Option<u64>,
    ended: Option<u64>,
}

#[derive(Default)]
struct RawStep {
    state: Option<(char, u64)>,
    run: Option<(u64, u32)>,
    failure: Option<(u64, String)>,
}

impl Raw {
    fn take(&mut self, field: &str, value: &str) {
        match field {
            "n" => self.open = value.parse().ok(),
            "at" => self.started = value.parse().ok(),
            "end" => self.ended = value.parse().ok(),
            _ => match field.split_once(':') {
                Some(("e", id)) => drop(self.events.insert(id.to_owned(), event(id, value))),
                Some((kind @ ("s" | "r" | "w"), step)) => self.take_step(kind, step, value),
                _ => {}
            },
        }
    }

    fn take_step(&mut self, kind: &str, step: &str, value: &str) {
        let Some((event, function)) = step.rsplit_once(':') else {
            return;
        };
        let step = self
            .steps
            .entry((event.to_owned(), function.to_owned()))
            .or_default();
        let (first, rest) = value.split_once(' ').unwrap_or((value, ""));
        match kind {
            "s" => {
                step.state = first
                    .chars()
                    .next()
                    .map(|kind| (kind, rest.parse().unwrap_or(0)))
            }
            "r" => step.run = first.parse().ok().map(|at| (at, rest.parse().unwrap_or(1))),
            _ => step.failure = first.parse().ok().map(|at| (at, rest.to_owned())),
        }
    }

    fn flow(mut self, id: &str) -> Flow {
        let mut open = 0;
        for ((event, function), raw) in std::mem::take(&mut self.steps) {
            let event = self
                .events
                .entry(event.clone())
                .or_insert_with(|| FlowEvent {
                    id: event,
                    ..<_>::default()
                });
            let step = raw.step(function, event.time);
            open += u64::from(step.state.is_open());
            event.steps.push(step);
        }
        // The two agree, unless somebody else has written here: then it is better late than early.
        let open = open.max(self.open.and_then(|n| n.try_into().ok()).unwrap_or(0));
        let earliest = self
            .events
            .values()
            .map(|event| event.time)
            .filter(|time| *time > 0)
            .min();
        Flow {
            id: id.to_owned(),
            open,
            started: self.started.or(earliest).unwrap_or(0),
            ended: self.ended.filter(|_| open == 0),
            events: tree(self.events.into_values().collect()),
        }
    }
}

impl RawStep {
    fn step(self, function: String, event_time: u64) -> Step {
        let (kind, at) = self.state.unwrap_or(('p', 0));
        let started = self.run.map(|(at, _)| at);
        let failed = self.failure.as_ref().map(|(at, _)| *at);
        let state = match (kind, started, failed) {
            ('d', ..) => StepState::Done,
            ('x', ..) => StepState::Dead,
            (_, started, Some(failed)) if started.is_none_or(|started| failed >= started) => {
                StepState::Waiting
            }
            (_, Some(_), _) => StepState::Running,
            _ => StepState::Pending,
        };
        Step {
            function,
            state,
            since: if state.is_open() && at > 0 {
                at
            } else {
                event_time
            },
            started,
            ended: Some(at).filter(|_| !state.is_open()),
            attempts: self.run.map_or(0, |(_, attempt)| attempt),
            failed,
            why: self.failure.map(|(_, why)| why),
        }
    }
}

/// `["type","key","source","cause",time]`; parts that are missing or of another kind stay empty.
fn event(id: &str, json: &str) -> FlowEvent {
    let parts: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let text = |at: usize| {
        parts
            .get(at)
            .and_then(|part| part.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let time = parts
        .get(4)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    let (ty, key, source, cause) = (text(0), text(1), text(2), text(3));
    FlowEvent {
        id: id.to_owned(),
        ty,
        key,
        source,
        cause,
        time,
        depth: 0,
        steps: Vec::new(),
    }
}

/// Puts every event behind its cause, and those of one cause in order of time. What has no cause here is a root; of a
/// circle, which no worker writes, the earliest is.
pub fn tree(mut events: Vec<FlowEvent>) -> Vec<FlowEvent> {
    events.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    let places: HashMap<&str, usize> = events
        .iter()
        .enumerate()
        .map(|(at, event)| (event.id.as_str(), at))
        .collect();
    let cause = |at: usize| {
        places
            .get(events[at].cause.as_str())
            .copied()
            .filter(|cause| *cause != at)
    };
    let (mut effects, mut roots) = (vec![Vec::new(); events.len()], Vec::new());
    for at in 0..events.len() {
        match cause(at) {
            Some(cause) => effects[cause].push(at),
            None => roots.push(at),
        }
    }
    let mut order: Vec<(usize, u32)> = Vec::with_capacity(events.len());
    let mut placed = vec![false; events.len()];
    for root in roots.into_iter().chain(0..events.len()) {
        let mut next = vec![(root, 0)];
        while let Some((at, depth)) = next.pop() {
            if !std::mem::replace(&mut placed[at], true) {
                order.push((at, depth));
                next.extend(effects[at].iter().rev().map(|effect| (*effect, depth + 1)));
            }
        }
    }
    let mut events: Vec<Option<FlowEvent>> = events.into_iter().map(Some).collect();
    let ordered = order.into_iter().filter_map(|(at, depth)| {
        Some(FlowEvent {
            depth,
            ..events[at].take()?
        })
    });
    ordered.collect()
}
