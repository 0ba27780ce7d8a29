//! A flow without a ledger, put together from the streams: every event carries its flow and its cause, and seen-marks say
//! which function is done with it. Reading is bounded in time; what was read is said.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use oncue::bus::{Found, Slice};
use oncue::dlq;
use oncue::event::{self, Meta};
use oncue::flow::{Flow, FlowEvent, Step, StepState, tree};
use oncue::store::{Mark, Settled};

use crate::App;
use crate::decode::{self, Place};
use crate::flow::listeners;
use crate::letters::WINDOW;
use crate::problem::Problem;
use crate::search;

/// For reading, all streams at once.
const PATIENCE: Duration = Duration::from_millis(450);
/// Messages of one question, and bytes.
const BATCH: usize = 1000;
const BYTES: usize = 4 << 20;
/// Larger flows are cut; the page says so.
const MOST: usize = 2000;

#[derive(Default)]
pub struct Built {
    pub flow: Option<Flow>,
    pub trace: Option<String>,
    /// In words: which streams, how far.
    pub searched: String,
}

/// An event of the flow, with what its mark needs.
struct Member {
    event: FlowEvent,
    meta: Meta,
    stream: String,
    sequence: u64,
    trace: Option<String>,
}

pub async fn flow(app: &App, id: &str) -> Result<Built, Problem> {
    // The root, if its id tells the time or the place; otherwise the youngest messages are all we can read.
    let time = search::time_of(id);
    let root = match time {
        Some(time) => search::around(app, id, time).await?,
        None => search::by_place(app, id).await?,
    };
    let since = root.as_ref().map(|(_, found)| found.time).or(time);
    let mut streams = search::streams(app);
    if let Some((stream, found)) = &root {
        let ty = found.header("ce-type").and_then(event::percent_decode);
        let ty = ty.unwrap_or_else(|| event::type_of_subject(&found.subject).to_owned());
        let reached = reachable(app, &ty);
        streams.retain(|known| known == stream || reached.iter().any(|ty| event::stream_of_type(ty) == known));
    }
    let read = join_all(streams.iter().map(|stream| members(app, stream, id, since))).await;
    let (mut members, mut searched) = (Vec::new(), Vec::new());
    for (stream, read) in streams.iter().zip(read) {
        let (found, how_far) = read?;
        members.extend(found);
        searched.push(format!("{stream} {how_far}"));
    }
    members.sort_by_key(|member: &Member| member.event.time);
    members.dedup_by(|a, b| a.event.id == b.event.id);
    members.truncate(MOST);
    let searched = searched.join("; ");
    if members.is_empty() {
        return Ok(Built { searched, ..Built::default() });
    }
    let trace = members.iter().find_map(|member| member.trace.clone());
    take_steps(app, &mut members).await?;
    let open = members.iter().flat_map(|m| &m.event.steps).filter(|step| step.state.is_open()).count() as u64;
    let started = members.iter().map(|member| member.event.time).min().unwrap_or(0);
    let events = tree(members.into_iter().map(|member| member.event).collect());
    Ok(Built { flow: Some(Flow { id: id.to_owned(), open, started, ended: None, events }), trace, searched })
}

/// Types an event can lead to, by what functions say they emit. Whatever was sent besides is of no function.
fn reachable(app: &App, root: &str) -> BTreeSet<String> {
    let cards = app.board.cards();
    let (mut reached, mut next) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(ty) = next.pop() {
        let listeners = cards.iter().filter(|card| card.triggers.contains(&ty));
        let emitted: Vec<String> = listeners.flat_map(|card| card.emits.clone()).collect();
        if reached.insert(ty) {
            next.extend(emitted);
        }
    }
    reached
}

/// Events of the flow in one stream, and how far it was read.
async fn members(app: &App, stream: &str, id: &str, since: Option<u64>) -> Result<(Vec<Member>, String), Problem> {
    let created = app.bus.stream_created(stream).await?;
    let place = Place { stream, created };
    let began = Instant::now();
    // Clocks of producers and of the server may differ by some.
    let (first, last) = search::span(app, stream, since.map(|time| time.saturating_sub(search::SKEW_MS))).await?;
    let (mut next, mut members) = (first, Vec::new());
    while next <= last && began.elapsed() < PATIENCE {
        let slice = Slice { from: next, since: None, subject: ">", messages: BATCH, bytes: BYTES };
        let batch = app.bus.read_slice(stream, &slice).await?;
        let Some(end) = batch.last() else { break };
        next = end.sequence + 1;
        members.extend(batch.iter().filter_map(|found| member(app, &place, found, id)));
    }
    let all = if next > last { "to its end" } else { "for want of time no further" };
    Ok((members, format!("{first} to {}, {all}", next.saturating_sub(1))))
}

fn member(app: &App, place: &Place<'_>, found: &Found, id: &str) -> Option<Member> {
    // Most messages are of other flows: that is seen without reading them whole.
    let says = found.header("ce-flowid").and_then(event::percent_decode);
    if says.as_ref().is_some_and(|flow| flow != id) {
        return None;
    }
    let incoming =
        place.read(found).ok().filter(|incoming| incoming.meta.flow == id && incoming.meta.redrive.is_none())?;
    let key = decode::key(&incoming, &app.catalog);
    let meta = incoming.meta;
    let event = FlowEvent {
        id: meta.id.clone(),
        ty: meta.ty.clone(),
        key,
        source: meta.source.clone(),
        cause: meta.cause.clone(),
        // When it was stored: an output's own time is that of what caused it.
        time: found.time,
        depth: 0,
        steps: Vec::new(),
    };
    let (stream, sequence) = (place.stream.to_owned(), found.sequence);
    let trace = meta.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1)).map(str::to_owned);
    Some(Member { event, meta, stream, sequence, trace })
}

/// What each function that acts on these events has made of them, from its seen-marks. A function that is keyed by
/// something else than the event's own key leaves its mark elsewhere; of that, the dead letters and how far its consumer
/// has acked say as much.
async fn take_steps(app: &App, members: &mut [Member]) -> Result<(), Problem> {
    let (letters, _) = dlq::latest(&app.bus, WINDOW).await?;
    let is_dead = |function: &str, event: &str| {
        letters.iter().any(|letter| letter.content.function == function && letter.content.event_id == event)
    };
    let listeners = listeners(app);
    let (mut marks, mut places) = (Vec::new(), Vec::new());
    for (at, member) in members.iter().enumerate() {
        for (function, stream) in listeners.get(&member.meta.ty).into_iter().flatten() {
            let horizon = app.config.stream(stream).horizon.0.as_millis() as u64;
            marks.push(Mark::new(app.board.name(function), &member.event.key, &member.meta, horizon));
            places.push((at, function.clone()));
        }
    }
    for ((at, function), settled) in places.into_iter().zip(app.store.settled(&marks).await?) {
        let Member { event, stream, sequence, .. } = &mut members[at];
        let state = match settled {
            Some(Settled::Applied) => StepState::Done,
            Some(Settled::Dead) => StepState::Dead,
            None if is_dead(&function, &event.id) => StepState::Dead,
            None if app.board.acked(&function, stream) >= *sequence => StepState::Done,
            None => StepState::Pending,
        };
        let since = event.time;
        event.steps.push(Step {
            function,
            state,
            since,
            started: None,
            ended: None,
            attempts: 0,
            failed: None,
            why: None,
        });
    }
    Ok(())
}
