//! A flow without a ledger, put together from the streams: every event carries its flow and its cause, and seen-marks say
//! which function is done with it. Reading is bounded in time; what was read is said.

use std::time::Duration;

use oncue_admin::dead_letters;
use oncue_admin::trail::{self, Cue, Hit, Patience};
use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState, tree};
use oncue_core::store::{Mark, MarkState};
use oncue_proto::event::Meta;

use crate::App;
use crate::flow::listeners;
use crate::letters::WINDOW;
use crate::problem::Problem;
use crate::search;

/// To find the event, and again to read what followed, all streams at once.
const PATIENCE: Duration = Duration::from_millis(400);
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
}

/// Of the flow that has this id, or that an event of this id belongs to.
pub async fn flow(app: &App, id: &str) -> Result<Built, Problem> {
    let cards = app.board.cards();
    let functions: Vec<Cue<'_>> = cards
        .iter()
        .map(|card| (&*card.triggers, &*card.emits))
        .collect();
    let patience = Patience {
        find: Some(PATIENCE),
        read: Some(PATIENCE),
        since: 0,
    };
    let (hits, searched) = trail::follow(search::sources(app), id, &functions, patience).await?;
    let searched = searched.to_string();
    let Some(first) = hits.first() else {
        return Ok(Built {
            searched,
            ..Built::default()
        });
    };
    let id = first.incoming.meta.flow.clone();
    let mut members: Vec<Member> = hits
        .into_iter()
        .take(MOST)
        .map(|hit| member(app, hit))
        .collect();
    let trace = members
        .iter()
        .find_map(|member| member.meta.traceparent.as_deref()?.split('-').nth(1));
    let trace = trace.map(str::to_owned);
    take_steps(app, &mut members).await?;
    let open = members
        .iter()
        .flat_map(|m| &m.event.steps)
        .filter(|step| step.state.is_open())
        .count() as u64;
    let started = members
        .iter()
        .map(|member| member.event.time)
        .min()
        .unwrap_or(0);
    let events = tree(members.into_iter().map(|member| member.event).collect());
    Ok(Built {
        flow: Some(Flow {
            id,
            open,
            started,
            ended: None,
            events,
        }),
        trace,
        searched,
    })
}

fn member(app: &App, hit: Hit) -> Member {
    let event = hit.event(&app.catalog);
    Member {
        event,
        meta: hit.incoming.meta,
        stream: hit.stream,
        sequence: hit.found.sequence,
    }
}

/// What each function that acts on these events has made of them, from its seen-marks. A function that is keyed by
/// something else than the event's own key leaves its mark elsewhere; of that, the dead letters and how far its consumer
/// has acked say as much.
async fn take_steps(app: &App, members: &mut [Member]) -> Result<(), Problem> {
    let (letters, _) = dead_letters::latest(&app.bus, WINDOW).await?;
    let is_dead = |function: &str, event: &str| {
        letters
            .iter()
            .any(|letter| letter.content.function == function && letter.content.event_id == event)
    };
    let listeners = listeners(app);
    let (mut marks, mut places) = (Vec::new(), Vec::new());
    for (at, member) in members.iter().enumerate() {
        for (function, stream) in listeners.get(&member.meta.ty).into_iter().flatten() {
            let horizon = app.config.stream(stream).horizon.0.as_millis() as u64;
            marks.push(Mark::new(
                function.as_str(),
                &member.event.key,
                &member.meta,
                horizon,
            ));
            places.push((at, function.clone()));
        }
    }
    for ((at, function), settled) in places.into_iter().zip(app.store.settled(&marks).await?) {
        let Member {
            event,
            stream,
            sequence,
            ..
        } = &mut members[at];
        let state = match settled {
            Some(MarkState::Applied) => StepState::Done,
            Some(MarkState::Dead) => StepState::Dead,
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
