//! Events looked up in the seen-marks of functions, each of which says where in its stream the event stands.
//!
//! A mark lies in the partition of the key, which an id does not tell, so every partition is asked: 256 `HMGET`s
//! for each bucket of event time, the newest first, 16 buckets in one round trip. A busy stream costs more to read
//! and a quiet one less, which is why both ways are gone at once.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::slice;

use super::{FlowSearch, FoundEvent, StreamRange, WIDEST_WINDOW_MS, first, is_output_id};
use oncue_core::bus::BusError;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::StreamPosition;
use oncue_proto::event;

/// Outputs of one event that are asked for at a time.
/// A batch in which none is found ends the search: outputs are numbered from 0, and few events have more than
/// these.
const OUTPUTS_AT_ONCE: usize = 16;

impl FlowSearch<'_> {
    /// The event of an id that some function is done with. Functions that are likelier to have had it are asked
    /// first: for an id functions make, those that act on what functions emit; for any other, those that act on what
    /// comes from outside.
    pub(super) async fn by_mark(
        &self,
        id: &str,
        emitted: &BTreeSet<String>,
    ) -> Result<Option<FoundEvent>, BusError> {
        let (likely, others): (Vec<&Manifest>, Vec<&Manifest>) =
            self.functions.iter().partition(|function| {
                function.triggers.iter().any(|ty| emitted.contains(ty)) == is_output_id(id)
            });
        for some in [likely, others] {
            let asked = some.into_iter().filter_map(|function| {
                let stream = self.stream_of(function)?;
                Some(self.done_with(id, function, stream))
            });
            if let Some(found) = first(asked.collect()).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The event of an id, if this function is done with it.
    async fn done_with(
        &self,
        id: &str,
        function: &Manifest,
        stream: &StreamRange,
    ) -> Result<Option<FoundEvent>, BusError> {
        let from = *stream.times.start().max(&self.since);
        // An event may say its time as its client saw it, by a clock that differs.
        let times = from.saturating_sub(WIDEST_WINDOW_MS)..=*stream.times.end() + WIDEST_WINDOW_MS;
        let mut done = self.done(&[id.to_owned()], function, stream, times).await?;
        Ok(done.pop())
    }

    /// Everything that followed from an event, and from that in turn, as far as functions are done with it: ids of
    /// outputs are known from their cause, and so are their times, except of what was delayed.
    pub(super) async fn offspring(&self, root: &FoundEvent) -> Result<Vec<FoundEvent>, BusError> {
        let mut found = Vec::new();
        let mut known = BTreeSet::new();
        let mut next = VecDeque::from([root.clone()]);
        while let Some(cause) = next.pop_front() {
            let acting = self.functions.iter().filter(|function| {
                !function.emits.is_empty() && function.triggers.contains(&cause.incoming.meta.ty)
            });
            for function in acting {
                if self.is_late() {
                    return Ok(found);
                }
                for output in self.outputs(&cause, function).await? {
                    if known.insert(output.incoming.meta.id.clone()) {
                        next.push_back(output.clone());
                        found.push(output);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Outputs a function made of an event, as far as one that acts on them is done with them.
    async fn outputs(
        &self,
        cause: &FoundEvent,
        function: &Manifest,
    ) -> Result<Vec<FoundEvent>, BusError> {
        let meta = &cause.incoming.meta;
        let times = meta.time..=meta.time;
        let positions = self
            .positions(slice::from_ref(&meta.id), function, times.clone())
            .await;
        let mut outputs = Vec::new();
        if !positions
            .into_iter()
            .flatten()
            .any(|position| position.has_outputs)
        {
            return Ok(outputs);
        }
        let listeners: Vec<&Manifest> = self
            .functions
            .iter()
            .filter(|other| other.triggers.iter().any(|ty| function.emits.contains(ty)))
            .collect();
        for from in (0..).step_by(OUTPUTS_AT_ONCE) {
            let ids: Vec<String> = (from..from + OUTPUTS_AT_ONCE)
                .map(|index| event::output_id(&meta.id, &function.name, index))
                .collect();
            let before = outputs.len();
            for listener in &listeners {
                let Some(stream) = self.stream_of(listener) else {
                    continue;
                };
                outputs.extend(self.done(&ids, listener, stream, times.clone()).await?);
            }
            if outputs.len() == before {
                break;
            }
        }
        Ok(outputs)
    }

    fn stream_of(&self, function: &Manifest) -> Option<&StreamRange> {
        self.streams
            .iter()
            .find(|stream| stream.name == function.stream)
    }

    /// Events among these that a function is done with, read from its stream.
    async fn done(
        &self,
        ids: &[String],
        function: &Manifest,
        stream: &StreamRange,
        times: RangeInclusive<u64>,
    ) -> Result<Vec<FoundEvent>, BusError> {
        let mut events = Vec::new();
        let positions = self.positions(ids, function, times).await;
        for position in positions.into_iter().flatten() {
            let message = self
                .bus
                .read_message(&stream.name, position.sequence)
                .await?;
            let event = message.and_then(|message| stream.event(message));
            events.extend(event.filter(|event| ids.contains(&event.incoming.meta.id)));
        }
        self.searched.lock().by_mark += events.len() as u64;
        Ok(events)
    }

    /// Positions in its stream that a function's marks tell of these events. Without Redis nothing is known.
    async fn positions(
        &self,
        ids: &[String],
        function: &Manifest,
        times: RangeInclusive<u64>,
    ) -> Vec<Option<StreamPosition>> {
        let Some(store) = self.store else {
            return Vec::new();
        };
        let horizon = self.config.stream(&function.stream).horizon.0.as_millis() as u64;
        store
            .places(ids, &function.name, times, horizon)
            .await
            .unwrap_or_default()
    }
}
