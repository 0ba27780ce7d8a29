//! A flow as it goes on, in server-sent events [HTML section 9.2]: `flow` with all of it, `event` and `step` for each
//! change, `complete` with all of it once more. Of a flow that goes on for long the stream ends, and browsers come again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _};
use oncue_core::model::flow::{Flow, FlowEvent};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Interval, sleep};

use super::view::{COMPLETE, FlowView, StepView};
use super::wait::read;
use super::watcher::Observed;
use crate::App;
use crate::door::seats::{answer, heartbeat};
use crate::problem::Problem;

/// Whether the client accepts server-sent events.
pub fn is_stream_asked(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepts.flat_map(|line| line.split(',')).any(|one| {
        one.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case("text/event-stream")
    })
}

/// The flow as it is, then an event for every change, then the end.
pub async fn stream(app: &Arc<App>, id: &str, head: &Parts) -> Result<Response, Problem> {
    if head
        .headers
        .get("last-event-id")
        .is_some_and(|last| last.as_bytes() == COMPLETE.as_bytes())
    {
        // Browsers connect again when a stream ends, unless they are told so.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let seat = app.seat(head)?;
    read(app, id).await?;
    let progress = Progress {
        app: app.clone(),
        observed: app.watcher.watch(id),
        shown: None,
        ready: Vec::new(),
        heartbeat: heartbeat(),
    };
    let longest = sleep(app.guards.flow_stream);
    Ok(answer(progress.stream().take_until(longest), seat))
}

/// One client that watches a flow.
struct Progress {
    app: Arc<App>,
    /// The flow as the watcher sees it.
    observed: watch::Receiver<Observed>,
    /// The flow as the client knows it.
    shown: Option<Arc<Flow>>,
    /// To be sent, last first.
    ready: Vec<Event>,
    heartbeat: Interval,
}

impl Progress {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(Some(self), async |progress| {
            let mut progress = progress?;
            let event = progress.next().await?;
            Some((Ok(event), Some(progress)))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.shown.as_ref().is_some_and(|flow| flow.is_complete()) {
                return None;
            }
            let app = self.app.clone();
            let observed = tokio::select! {
                changed = self.observed.changed() => {
                    changed.ok()?;
                    self.observed.borrow_and_update().clone()
                }
                _ = self.heartbeat.tick() => return Some(Event::default().comment("")),
                () = app.handle.stopping.cancelled() => return None,
            };
            match observed {
                Observed::Flow(flow) => self.show(flow),
                // Its ledger has expired; before it was seen, somebody else's look may be older than ours.
                Observed::Untracked if self.shown.is_some() => return None,
                Observed::Unread | Observed::Untracked | Observed::Away => {}
            }
        }
    }

    fn show(&mut self, flow: Arc<Flow>) {
        match &self.shown {
            None => self.ready.push(named("flow", &FlowView::of(&flow))),
            Some(before) => self.ready.extend(changes(before, &flow)),
        }
        if flow.is_complete() {
            self.ready
                .push(named(COMPLETE, &FlowView::of(&flow)).id(COMPLETE));
        }
        self.ready.reverse();
        self.shown = Some(flow);
    }
}

fn named(name: &str, content: &impl Serialize) -> Event {
    Event::default()
        .event(name)
        .data(serde_json::to_string(content).unwrap_or_default())
}

/// Events that are new, and steps that are new or not what they were.
fn changes(before: &Flow, now: &Flow) -> Vec<Event> {
    let known: HashMap<&str, &FlowEvent> = before
        .events
        .iter()
        .map(|event| (event.id.as_str(), event))
        .collect();
    let mut changes = Vec::new();
    for event in &now.events {
        let Some(then) = known.get(event.id.as_str()) else {
            changes.push(named("event", event));
            continue;
        };
        let changed = event.steps.iter().filter(|step| !then.steps.contains(step));
        changes.extend(changed.map(|step| {
            named(
                "step",
                &json!(StepView {
                    event: &event.id,
                    ty: &event.ty,
                    step
                }),
            )
        }));
    }
    changes
}
