//! A flow without a ledger, put together again: its events from the streams, by the flow and the cause each of them
//! carries, and for every function that acts on one of them the best evidence of what became of it.
//!
//! Evidence, best first: the function's seen-mark, which says applied or dead (a function keyed by something else
//! than the event's own key leaves its mark elsewhere); a dead letter; an event the function has emitted because of
//! this one; how far its consumer has delivered and acked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::AdminError;
use crate::consumers::{self, Consumer};
use crate::dead_letters::{self, Letter, ms};
use oncue_core::config::Config;
use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState, tree};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Mark, MarkState, Store};

use super::search::{self, FoundEvent, SearchLimits, Searched, Sources};

/// A flow as far as anything still tells of it.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// `None` where no event was found.
    pub flow: Option<Flow>,
    /// Trace id of the first event that has one.
    pub trace: Option<String>,
    /// How far the search went.
    pub searched: Searched,
}

/// Rebuilds the flow of this id, or the one that an event of this id belongs to. Works without Redis, from less
/// evidence: an event that was acked without a letter then counts as done.
///
/// Steps have no attempts and no beginning, which only a ledger tells; a flow never counts as ended, since something
/// that was delayed may still come.
///
/// # Errors
/// NATS does not answer. Redis may be away.
///
/// On top of the [search](search::follow): the consumers of all streams, the newest `limits.letters` dead letters,
/// and one pipeline to Redis for all marks.
pub async fn rebuild(
    sources: &Sources<'_>,
    id: &str,
    limits: SearchLimits,
) -> Result<Rebuilt, AdminError> {
    let followed = search::follow(sources, id, limits).await?;
    let mut found = followed.events;
    found.truncate(limits.events);
    let Some(first) = found.first() else {
        return Ok(Rebuilt {
            searched: followed.searched,
            ..Rebuilt::default()
        });
    };
    let flow = first.incoming.meta.flow.clone();
    let trace = found.iter().find_map(FoundEvent::trace_id);
    let known = Known {
        functions: &followed.functions,
        consumers: &consumers::all(sources.bus).await?,
    };
    let events = events_with_steps(sources, &known, &flow, &found, limits.letters).await?;
    let steps = events.iter().flat_map(|event| &event.steps);
    Ok(Rebuilt {
        flow: Some(Flow {
            id: flow,
            open: steps.filter(|step| step.state.is_open()).count() as u64,
            started: events.iter().map(|event| event.time).min().unwrap_or(0),
            ended: None,
            events: tree(events),
        }),
        trace: trace.map(str::to_owned),
        searched: followed.searched,
    })
}

/// Functions that may have acted on events of the flow.
struct Known<'k> {
    /// By their manifests, some of which may have left long ago.
    functions: &'k [Manifest],
    consumers: &'k BTreeMap<String, Consumer>,
}

/// A function's turn at an event, and all there is to tell how it went.
struct Turn<'t> {
    /// Place of the event among those found.
    at: usize,
    function: &'t str,
    consumer: Option<&'t Consumer>,
    mark: Option<MarkState>,
    letter: Option<&'t Letter>,
    /// When the first event it emitted because of this one came.
    emitted: Option<u64>,
    /// Whether it is taken to act on the event even if nothing is left of that.
    /// Of a consumer its filters say so; without one, that the function is among those known to be there.
    expected: bool,
}

/// Events of a flow, each with the turns of the functions that act on it.
async fn events_with_steps(
    sources: &Sources<'_>,
    known: &Known<'_>,
    flow: &str,
    found: &[FoundEvent],
    window: u64,
) -> Result<Vec<FlowEvent>, AdminError> {
    let letters = dead_letters::latest(sources.bus, window).await?.letters;
    let letters: HashMap<(&str, &str), &Letter> = letters
        .iter()
        .filter(|letter| letter.content.flow_id == flow)
        .map(|letter| {
            let content = &letter.content;
            let turn = (content.event_id.as_str(), content.function.as_str());
            (turn, letter)
        })
        .collect();
    let mut events: Vec<FlowEvent> = found
        .iter()
        .map(|found| found.flow_event(sources.catalog))
        .collect();
    let mut turns = Vec::new();
    for (at, found) in found.iter().enumerate() {
        turns.extend(turns_at(at, found, sources.functions, known));
    }
    for turn in &mut turns {
        let id = events[turn.at].id.as_str();
        turn.letter = letters.get(&(id, turn.function)).copied();
        turn.emitted = emitted(found, id, turn.function);
    }
    take_marks(sources, found, &events, &mut turns).await;
    for turn in turns.iter().filter(|turn| turn.is_known()) {
        let step = turn.step(&found[turn.at]);
        events[turn.at].steps.push(step);
    }
    Ok(events)
}

/// Turns of every function that may have acted on an event, by name: consumers whose filter it passes, and functions
/// that are declared to act on its type.
fn turns_at<'t>(
    at: usize,
    found: &FoundEvent,
    current: &[Manifest],
    known: &Known<'t>,
) -> Vec<Turn<'t>> {
    let declared = known.functions.iter().filter(|function| {
        function.stream == found.stream && function.triggers.contains(&found.incoming.meta.ty)
    });
    let declared = declared.map(|function| function.name.as_str());
    let consuming = known.consumers.values();
    let consuming = consuming
        .filter(|consumer| consumer.stream == found.stream && consumer.acts_on(&found.message))
        .map(|consumer| consumer.function.as_str());
    let functions: BTreeSet<&str> = declared.chain(consuming).collect();
    let turns = functions.into_iter().map(|function| {
        let consumer = known.consumers.get(function);
        let is_current = current.iter().any(|manifest| manifest.name == function);
        Turn {
            at,
            function,
            consumer,
            mark: None,
            letter: None,
            emitted: None,
            expected: consumer.map_or(is_current, |consumer| consumer.acts_on(&found.message)),
        }
    });
    turns.collect()
}

/// When the first event came that a function has emitted because of this one.
fn emitted(found: &[FoundEvent], cause: &str, function: &str) -> Option<u64> {
    let own = found.iter().filter(|found| {
        let meta = &found.incoming.meta;
        meta.cause == cause && meta.source.strip_prefix('/') == Some(function)
    });
    own.map(|found| found.message.time).min()
}

/// Looks up the seen-marks of all turns at once. Where Redis does not answer, none is known.
async fn take_marks(
    sources: &Sources<'_>,
    found: &[FoundEvent],
    events: &[FlowEvent],
    turns: &mut [Turn<'_>],
) {
    let Some(store) = sources.store else { return };
    let marks: Vec<Mark> = turns
        .iter()
        .map(|turn| mark(turn, &found[turn.at], &events[turn.at].key, sources.config))
        .collect();
    for (turn, state) in turns.iter_mut().zip(settled(store, &marks).await) {
        turn.mark = state;
    }
}

async fn settled(store: &Store, marks: &[Mark]) -> Vec<Option<MarkState>> {
    store.settled(marks).await.unwrap_or_default()
}

/// Mark a function leaves of an event, if it is keyed by the event's own key.
fn mark(turn: &Turn<'_>, found: &FoundEvent, key: &str, config: &Config) -> Mark {
    let horizon = config.stream(&found.stream).horizon.0.as_millis() as u64;
    dead_letters::mark(turn.function, key, &found.incoming.meta, horizon)
}

impl Turn<'_> {
    /// Whether there is such a turn at all: a function that came later, or has left, is shown only where something is
    /// left of what it did.
    fn is_known(&self) -> bool {
        self.expected || self.mark.is_some() || self.letter.is_some() || self.emitted.is_some()
    }

    /// State by the best evidence there is; the event stands at `sequence` of its stream.
    fn state(&self, sequence: u64) -> StepState {
        match (self.mark, self.letter, self.emitted) {
            (Some(MarkState::Applied), ..) | (None, None, Some(_)) => return StepState::Done,
            (Some(MarkState::Dead), ..) | (None, Some(_), _) => return StepState::Dead,
            (None, None, None) => {}
        }
        match self.consumer.map(|consumer| &consumer.info) {
            Some(info) if info.ack_floor.stream_seq >= sequence => StepState::Done,
            Some(info) if info.delivered.stream_seq >= sequence => StepState::Running,
            _ => StepState::Pending,
        }
    }

    /// The turn as a step of the flow.
    fn step(&self, found: &FoundEvent) -> Step {
        let state = self.state(found.message.sequence);
        // A worker that came late may have written a letter of an applied event; it says nothing.
        let letter = self.letter.filter(|_| state == StepState::Dead);
        let died = letter.map(|letter| ms(letter.content.at.as_ref()));
        Step {
            function: self.function.to_owned(),
            state,
            since: found.message.time,
            started: None,
            ended: died.or(self.emitted).filter(|_| !state.is_open()),
            attempts: letter.map_or(0, |letter| letter.content.attempts),
            failed: died,
            why: letter.map(|letter| letter.content.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use oncue_core::bus::info::ConsumerInfo;
    use oncue_proto::oncue::v1::DeadLetter;

    use super::*;

    fn letter() -> Letter {
        Letter::of(7, DeadLetter::default(), None)
    }

    fn turn() -> Turn<'static> {
        Turn {
            at: 0,
            function: "f",
            consumer: None,
            mark: None,
            letter: None,
            emitted: None,
            expected: true,
        }
    }

    #[test]
    fn the_best_evidence_counts() {
        let letter = letter();
        let consumer = |floor: u64, delivered: u64| {
            let mut info = ConsumerInfo::default();
            info.ack_floor.stream_seq = floor;
            info.delivered.stream_seq = delivered;
            Consumer {
                info,
                ..Consumer::default()
            }
        };
        let behind = consumer(3, 4);
        let running = consumer(3, 9);
        let acked = consumer(9, 9);
        let of = |turn: Turn<'_>| turn.state(5);
        assert_eq!(of(turn()), StepState::Pending);
        let with = |consumer| Turn {
            consumer: Some(consumer),
            ..turn()
        };
        assert_eq!(of(with(&behind)), StepState::Pending);
        assert_eq!(of(with(&running)), StepState::Running);
        assert_eq!(of(with(&acked)), StepState::Done);
        let emitted = Turn {
            emitted: Some(1),
            ..with(&behind)
        };
        assert_eq!(of(emitted), StepState::Done);
        let dead = || Turn {
            letter: Some(&letter),
            emitted: Some(1),
            ..with(&acked)
        };
        assert_eq!(of(dead()), StepState::Dead);
        let applied = Turn {
            mark: Some(MarkState::Applied),
            ..dead()
        };
        assert_eq!(of(applied), StepState::Done);
        let marked_dead = Turn {
            mark: Some(MarkState::Dead),
            ..with(&acked)
        };
        assert_eq!(of(marked_dead), StepState::Dead);
    }

    #[test]
    fn a_function_that_has_left_is_shown_only_with_what_it_did() {
        let gone = || Turn {
            expected: false,
            ..turn()
        };
        assert!(turn().is_known() && !gone().is_known());
        let marked = Turn {
            mark: Some(MarkState::Applied),
            ..gone()
        };
        assert!(marked.is_known());
    }
}
