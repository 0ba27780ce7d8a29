//! Steps of a tracked flow that nobody will take: their event is gone from its stream, or their function left and came
//! back for later events.
//!
//! A function closes its step in the very commit that comes before the ack. So a step that is open while the consumer of
//! its function has nothing left to deliver waits for an event that is not there: somebody has removed it.

use std::collections::{BTreeMap, BTreeSet};

use crate::bus::layout::TIMER;
use crate::bus::{Bus, BusError};
use crate::model::audit::WAITING_MS;
use crate::model::flow::{Flow, FlowEvent, Step, StepState};
use crate::store::Store;
use oncue_proto::event::{self, stream_of_type};

/// Functions that are asked about for one flow, at most; steps of others stay open.
const MAX_FUNCTIONS: usize = 16;

/// The flow with the steps marked as [lost](StepState::Lost) whose event is gone, and those as
/// [removed](StepState::Removed) whose function began with new events (`start = "new"`) when the step was open already:
/// such a function left meanwhile, and came back for what is later. A step that is younger than [`WAITING_MS`] may still be
/// on its way, and so may one that was delayed or whose outputs wait for room.
///
/// Costs nothing where no open step is that old; else a question to NATS for each function that is open, and a second look
/// at the ledger.
///
/// # Errors
///
/// A server does not answer.
pub async fn with_lost_steps(bus: &Bus, store: &Store, flow: Flow) -> Result<Flow, BusError> {
    let old = event::now_ms().saturating_sub(WAITING_MS);
    let idle = idle_functions(bus, &flow, old).await?;
    if idle.is_empty() {
        return Ok(flow);
    }
    // Read again: what was closed between the first look at the ledger and the look at the consumer is not lost.
    let again = store.clone().flow(&flow.id).await;
    let Some(mut flow) = again.map_err(|e| BusError(e.message))? else {
        return Ok(flow);
    };
    let emitters = flow.events.iter().map(emitter);
    let emitters: BTreeSet<&str> = emitters.collect();
    let emitters: Vec<&str> = emitters.into_iter().collect();
    let waiting = store.waiting_outputs(&emitters, event::now_ms()).await;
    let waiting = waiting.map_err(|e| BusError(e.message))?;
    let mut closed = BTreeMap::new();
    for (event, step) in flow.open_steps() {
        let Some(began) = idle.get(&step.function).filter(|_| step.since < old) else {
            continue;
        };
        if !waiting.contains_key(emitter(event)) && !is_delayed(bus, event).await? {
            let state = if *began > step.since {
                StepState::Removed
            } else {
                StepState::Lost
            };
            closed.insert((event.id.clone(), step.function.clone()), state);
        }
    }
    flow.close_steps(|event: &FlowEvent, step: &Step| {
        let key = (event.id.clone(), step.function.clone());
        closed.get(&key).copied()
    });
    Ok(flow)
}

/// Functions with an old open step whose consumer has nothing left, each with the time since which it is given events, Unix
/// milliseconds; 0 for one that was given all that its stream held.
async fn idle_functions(
    bus: &Bus,
    flow: &Flow,
    old: u64,
) -> Result<BTreeMap<String, u64>, BusError> {
    let mut asked = BTreeMap::new();
    for (event, step) in flow.open_steps() {
        // An event without a type is known by its steps only; its stream is not known.
        if step.since < old && !event.ty.is_empty() && asked.len() < MAX_FUNCTIONS {
            asked.insert(step.function.clone(), stream_of_type(&event.ty).to_owned());
        }
    }
    let mut idle = BTreeMap::new();
    for (function, stream) in asked {
        match bus.consumer_info(&stream, &function).await {
            Ok(consumer) if consumer.is_idle() => drop(idle.insert(function, consumer.began_ms())),
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(BusError(e.to_string())),
        }
    }
    Ok(idle)
}

/// Function that has emitted an event; empty for one from outside.
fn emitter(event: &FlowEvent) -> &str {
    event.source.strip_prefix('/').unwrap_or_default()
}

/// Whether an event waits for its time.
async fn is_delayed(bus: &Bus, event: &FlowEvent) -> Result<bool, BusError> {
    let id = &event.id;
    // Of ids from outside, none of which can be delayed.
    if id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_') {
        return Ok(false);
    }
    let app = bus.app();
    let function = emitter(event);
    // The second is that of versions before, whose events may wait for long.
    for subject in [
        app.delayed(function, &event.ty, id),
        format!("timer.delayed.{app}.{function}.{id}"),
    ] {
        match bus.stream_subjects(TIMER, &subject).await {
            Ok(subjects) if !subjects.is_empty() => return Ok(true),
            Err(e) if !e.is_not_found() => return Err(BusError(e.to_string())),
            _ => {}
        }
    }
    Ok(false)
}
