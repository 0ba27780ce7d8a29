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
//! Rows that steps have changed stand beside it, see [`StepRow`].
//!
//! An event id may hold `:`, a function's name may not. Whatever else stands in the hash is passed over, and what is
//! half there is shown as far as it goes: a page about a flow must not fail because of one field.

mod observed;
mod step_row;

use std::collections::{BTreeMap, HashMap};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

pub use self::observed::{Edge, HashFields, Registered, edges, functions};
pub use self::step_row::{StepRow, hide_inside, hide_members};

/// Tracked flow, as far as its ledger tells. All times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Id of the root event.
    pub id: String,
    /// Steps that are still open; 0 means that the flow is complete.
    pub open: u64,
    /// First write to the ledger, or the time of the earliest event where that is lost.
    pub started: u64,
    /// When it became complete; `None` while it is not.
    pub ended: Option<u64>,
    /// Causes before their effects, each event followed by all that it caused.
    pub events: Vec<FlowEvent>,
}

/// Event of a flow and the functions that act on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FlowEvent {
    /// Id of the event.
    pub id: String,
    /// Empty, as are the next four, where the ledger knows only the steps.
    #[serde(rename = "type")]
    pub ty: String,
    /// Key of the event; empty for none.
    pub key: String,
    /// `/FUNCTION` that emitted it, or where it came from.
    pub source: String,
    /// Event that caused it; empty for the root.
    pub cause: String,
    /// Time of the event.
    pub time: u64,
    /// Events between the root and this one.
    pub depth: u32,
    /// By function name.
    pub steps: Vec<Step>,
}

/// Step: one function acts on one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Name of the function.
    pub function: String,
    /// State as it follows from the fields of the ledger.
    pub state: StepState,
    /// Time since which it is open; of a closed step, the event's time.
    pub since: u64,
    /// When a handler last began.
    pub started: Option<u64>,
    /// Time at which it was done or dead.
    pub ended: Option<u64>,
    /// Runs of the handler that began.
    pub attempts: u32,
    /// When it last failed, even if it went well since.
    pub failed: Option<u64>,
    /// Reason of that failure.
    pub why: Option<String>,
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// No worker has begun.
    Pending,
    /// A handler has begun.
    Running,
    /// Failed and will be tried again.
    Waiting,
    /// Committed.
    Done,
    /// Set aside as a dead letter.
    Dead,
    /// The function has no consumer any more, or left and came back for later events: nobody will act on it, and nobody
    /// waits for it.
    Removed,
    /// The event is gone from its stream, and the function has not acted on it: nobody ever will.
    Lost,
}

impl StepState {
    /// Whether the flow waits for it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Waiting)
    }
}

/// Milliseconds by which the clocks of a worker and of Redis may differ.
const SKEW_MS: u64 = 1000;

impl Flow {
    /// Reads the fields of the ledger of the flow `id`; `None` where it has but notes of runs and steps that are closed: a Redis has
    /// lost the ledger, and events of it came again.
    pub fn read(id: &str, fields: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Option<Self> {
        let mut ledger = Ledger::default();
        for (field, value) in fields {
            ledger.take(
                &String::from_utf8_lossy(&field),
                &String::from_utf8_lossy(&value),
            );
        }
        ledger.is_one().then(|| ledger.flow(id))
    }

    /// Whether every step was taken: none is open, and none is lost.
    pub fn is_complete(&self) -> bool {
        self.open == 0 && self.lost() == 0
    }

    /// `running`, `complete`; `failed`, which is over with dead letters; or `lost`, which is over since events are gone.
    pub fn status(&self) -> &'static str {
        if self.open > 0 {
            "running"
        } else if self.lost() > 0 {
            "lost"
        } else if self.dead() > 0 {
            "failed"
        } else {
            "complete"
        }
    }

    /// Steps that ended in a dead letter.
    pub fn dead(&self) -> usize {
        let dead = self.steps().filter(|step| step.state == StepState::Dead);
        dead.count()
    }

    /// Steps whose event is gone.
    pub fn lost(&self) -> usize {
        let lost = self.steps().filter(|step| step.state == StepState::Lost);
        lost.count()
    }

    /// Open steps, each with its event.
    pub fn open_steps(&self) -> impl Iterator<Item = (&FlowEvent, &Step)> {
        let steps = self
            .events
            .iter()
            .flat_map(|event| event.steps.iter().map(move |step| (event, step)));
        steps.filter(|(_, step)| step.state.is_open())
    }

    /// Gives open steps the state that `state` says, if any: [`StepState::Lost`] or [`StepState::Removed`]. They count as
    /// open no more; a flow with a lost one never counts as complete.
    pub fn close_steps(&mut self, state: impl Fn(&FlowEvent, &Step) -> Option<StepState>) {
        for event in &mut self.events {
            let mut steps = std::mem::take(&mut event.steps);
            for step in steps.iter_mut().filter(|step| step.state.is_open()) {
                if let Some(state) = state(event, step) {
                    step.state = state;
                    self.open = self.open.saturating_sub(1);
                }
            }
            event.steps = steps;
        }
    }

    /// Marks open steps of functions that `is_there` does not know as removed; they count as open no more.
    pub fn without_removed(&mut self, is_there: impl Fn(&str) -> bool) {
        self.close_steps(|_, step| (!is_there(&step.function)).then_some(StepState::Removed));
    }

    /// Step to look at when nothing goes on, with its event: one that fails, else one that is running, else one that
    /// nobody has begun, and of several the one that is open for longest. `None` for a complete flow.
    pub fn waits_for(&self) -> Option<(&FlowEvent, &Step)> {
        self.open_steps()
            .min_by_key(|(_, step)| (urgency(step.state), step.since))
    }

    /// All steps of all events.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.events.iter().flat_map(|event| &event.steps)
    }
}

/// Rank of an open step among those that a flow waits for, the most urgent first.
fn urgency(state: StepState) -> u8 {
    match state {
        StepState::Waiting => 0,
        StepState::Running => 1,
        _ => 2,
    }
}

/// Fields of a ledger, before they are put together.
#[derive(Default)]
struct Ledger {
    /// By id.
    events: HashMap<String, FlowEvent>,
    /// By event and function.
    steps: BTreeMap<(String, String), StepFields>,
    /// `n`; below 0 only where somebody else has written.
    open: Option<i64>,
    /// `at`
    started: Option<u64>,
    /// `end`
    ended: Option<u64>,
}

/// Fields of one step.
#[derive(Default)]
struct StepFields {
    /// `s:EVENT:FUNCTION`
    state: Option<StateField>,
    /// `r:EVENT:FUNCTION`
    run: Option<RunField>,
    /// `w:EVENT:FUNCTION`
    failure: Option<FailureField>,
}

/// `p MS`, `d MS` or `x MS`.
struct StateField {
    kind: char,
    at: u64,
}

/// `MS ATTEMPT`
struct RunField {
    at: u64,
    attempt: u32,
}

/// `MS WHY`
struct FailureField {
    at: u64,
    why: String,
}

impl Ledger {
    /// Whether it says of an event, of the flow as a whole, or of something open.
    fn is_one(&self) -> bool {
        let mut states = self.steps.values().filter_map(|step| step.state.as_ref());
        !self.events.is_empty()
            || self.open.is_some()
            || self.started.is_some()
            || self.ended.is_some()
            || states.any(|state| !matches!(state.kind, 'd' | 'x'))
    }

    /// Takes a field by its name; one that is not known is passed over.
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

    /// Takes a field of a step, `EVENT:FUNCTION`. An event id may hold `:`, so the last one counts.
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
                // What is not known to be closed is open.
                step.state = Some(StateField {
                    kind: first.chars().next().unwrap_or('p'),
                    at: rest.parse().unwrap_or(0),
                });
            }
            "r" => {
                step.run = first.parse().ok().map(|at| RunField {
                    at,
                    attempt: rest.parse().unwrap_or(1),
                });
            }
            _ => {
                step.failure = first.parse().ok().map(|at| FailureField {
                    at,
                    why: rest.to_owned(),
                });
            }
        }
    }

    /// Puts the fields together. A step of an event that is not described gets an event of which only the id is known.
    fn flow(mut self, id: &str) -> Flow {
        let mut open = 0;
        for ((event, function), fields) in std::mem::take(&mut self.steps) {
            // A note alone, of a run of an event that came again, makes no step.
            if fields.state.is_none() {
                continue;
            }
            let event = self
                .events
                .entry(event.clone())
                .or_insert_with(|| FlowEvent {
                    id: event,
                    ..<_>::default()
                });
            let step = fields.step(function, event.time);
            open += u64::from(step.state.is_open());
            event.steps.push(step);
        }
        // The two agree, unless somebody else has written here: then it is better late than early.
        let open = open.max(self.open.and_then(|n| n.try_into().ok()).unwrap_or(0));
        let times = self.events.values().map(|event| event.time);
        let earliest = times.filter(|time| *time > 0).min();
        Flow {
            id: id.to_owned(),
            open,
            started: self.started.or(earliest).unwrap_or(0),
            ended: self.ended.filter(|_| open == 0),
            events: tree(self.events.into_values().collect()),
        }
    }
}

impl StepFields {
    /// State of the step by its three fields; open since it was made known, or since the event where that is lost.
    fn step(self, function: String, event_time: u64) -> Step {
        let kind = self.state.as_ref().map_or('p', |state| state.kind);
        let at = self.state.as_ref().map_or(0, |state| state.at);
        let is_closed = matches!(kind, 'd' | 'x');
        // What began after the end, by clocks that differ somewhat, is a run of the same event that came again and changed nothing.
        let run = self.run.as_ref();
        let started = run.map(|run| run.at);
        let started = started.filter(|started| !is_closed || *started <= at + SKEW_MS);
        let failed = self.failure.as_ref().map(|failure| failure.at);
        let state = match kind {
            'd' => StepState::Done,
            'x' => StepState::Dead,
            // A run that began after the failure is another attempt.
            _ if failed.is_some() && failed >= started => StepState::Waiting,
            _ if started.is_some() => StepState::Running,
            _ => StepState::Pending,
        };
        let is_open = state.is_open();
        Step {
            function,
            state,
            since: if is_open && at > 0 { at } else { event_time },
            started,
            ended: (!is_open).then_some(at),
            attempts: run.map_or(0, |run| run.attempt),
            failed,
            why: self.failure.map(|failure| failure.why),
        }
    }
}

/// Part of the JSON that describes an event.
#[derive(Deserialize)]
#[serde(untagged)]
enum EventPart {
    Text(String),
    Number(u64),
    Other(IgnoredAny),
}

impl EventPart {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(_) | Self::Other(_) => String::new(),
        }
    }
}

/// Event from `["type","key","source","cause",time]`; parts that are missing or of another kind stay empty.
fn event(id: &str, json: &str) -> FlowEvent {
    let parts: Vec<EventPart> = serde_json::from_str(json).unwrap_or_default();
    let time = match parts.get(4) {
        Some(EventPart::Number(time)) => *time,
        _ => 0,
    };
    let mut texts = parts.into_iter().map(EventPart::into_text);
    FlowEvent {
        id: id.to_owned(),
        ty: texts.next().unwrap_or_default(),
        key: texts.next().unwrap_or_default(),
        source: texts.next().unwrap_or_default(),
        cause: texts.next().unwrap_or_default(),
        time,
        depth: 0,
        steps: Vec::new(),
    }
}

/// Orders events so that each stands behind its cause, and those of one cause by time, and sets their depths. An event
/// whose cause is not here is a root; of a circle, which no worker writes, the earliest is.
pub fn tree(mut events: Vec<FlowEvent>) -> Vec<FlowEvent> {
    events.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    let places: HashMap<&str, usize> = events
        .iter()
        .enumerate()
        .map(|(at, event)| (event.id.as_str(), at))
        .collect();
    let mut effects = vec![Vec::new(); events.len()];
    let mut roots = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match places.get(event.cause.as_str()) {
            Some(cause) if *cause != at => effects[*cause].push(at),
            _ => roots.push(at),
        }
    }
    let mut order: Vec<(usize, u32)> = Vec::with_capacity(events.len());
    // Depth first; what is placed already closes a circle.
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
