//! First event of a flow that is of one of some types: the response of a route, where functions answer each other.
//!
//! Usually it is heard ([`replies`](super::replies)). What is not heard, because it was there before or the line broke, is in the ledger
//! of the flow, and is read from its stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::bus::{PlainMessage, Slice};
use oncue_core::model::flow::{Flow, FlowEvent};
use oncue_proto::event::{self, Incoming, Origin, stream_of_type};
use tokio::time::{Instant, sleep_until, timeout};

use super::replies::Listener;
use super::wait::read;
use super::watcher::Observed;
use crate::App;

/// Pause before a stream is asked again for an event that is committed and not there yet.
const AGAIN: Duration = Duration::from_millis(25);
/// NATS answers in a millisecond or is away.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages that are read from a stream at a time to find one event, and how often.
const MESSAGES: usize = 256;
const READS: usize = 40;
/// Milliseconds by which clocks of machines may differ.
const CLOCKS_MS: u64 = 1000;

/// Event that answers a request.
pub struct Reply {
    pub event: Incoming,
}

/// End of a wait for a reply.
pub enum Waited {
    Reply(Box<Reply>),
    /// There is none, or none yet; the flow as it was last seen.
    Nothing(Option<Arc<Flow>>),
}

/// Waits for the reply, at most for so long. A flow that is complete without one is not waited for.
pub async fn wait(
    app: &App,
    mut listener: Listener,
    statuses: &BTreeMap<String, u16>,
    longest: Duration,
) -> Waited {
    let mut observed = app.watcher.watch(listener.flow());
    let end = Instant::now() + longest;
    let mut last = None;
    let mut again = None;
    loop {
        tokio::select! {
            Some(message) = listener.heard() => {
                if let Some(reply) = heard(&message, listener.flow()) {
                    return Waited::Reply(Box::new(reply));
                }
            }
            // It may be heard sooner than it is looked for again.
            () = sleep_until(again.unwrap_or(end)), if again.is_some() => {
                again = None;
                observed.mark_changed();
            }
            Ok(()) = observed.changed(), if again.is_none() => {
                let Observed::Flow(flow) = observed.borrow_and_update().clone() else {
                    continue;
                };
                if let Some(event) = first_of(&flow, statuses) {
                    let stored = timeout(READ_TIMEOUT, stored(app, event)).await;
                    if let Ok(Some(reply)) = stored {
                        return Waited::Reply(Box::new(reply));
                    }
                    // Committed, and on its way into its stream.
                    again = Some(Instant::now() + AGAIN);
                } else if flow.is_complete() {
                    return Waited::Nothing(Some(flow));
                }
                last = Some(flow);
            }
            () = sleep_until(end) => break,
            () = app.handle.stopping.cancelled() => break,
        }
    }
    // Nobody has looked in so short a time.
    let last = match last {
        Some(flow) => Some(flow),
        None => read(app, listener.flow()).await.ok().map(Arc::new),
    };
    Waited::Nothing(last)
}

/// First event of a flow that is of one of the types.
fn first_of<'f>(flow: &'f Flow, statuses: &BTreeMap<String, u16>) -> Option<&'f FlowEvent> {
    let of_types = flow
        .events
        .iter()
        .filter(|event| statuses.contains_key(&event.ty));
    of_types.min_by_key(|event| event.time)
}

/// Event of a message as it was published; nothing for what is no event of the flow.
fn heard(message: &PlainMessage, flow: &str) -> Option<Reply> {
    let origin = Origin {
        stream: "",
        stream_created: 0,
        sequence: 0,
        published: event::now_ms(),
        subject: &message.subject,
    };
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
    let event = event::read(headers, message.payload.clone(), &origin).ok()?;
    (event.meta.flow == flow).then_some(Reply { event })
}

/// Event that the ledger knows, from its stream.
async fn stored(app: &App, event: &FlowEvent) -> Option<Reply> {
    let stream = stream_of_type(&event.ty);
    let mut slice = Slice {
        from: 0,
        since: Some(event.time.saturating_sub(CLOCKS_MS)),
        subject: &event.ty,
        messages: MESSAGES,
        bytes: 0,
    };
    for _ in 0..READS {
        let batch = app.bus.read_slice(stream, &slice).await.ok()?;
        let last = batch.last()?.sequence;
        let id = event::percent_encode(&event.id);
        let found = batch
            .into_iter()
            .find(|message| message.header("ce-id") == Some(&*id));
        if let Some(message) = found {
            let event = message.read(stream, 0).ok()?;
            return Some(Reply { event });
        }
        slice.since = None;
        slice.from = last + 1;
    }
    None
}
