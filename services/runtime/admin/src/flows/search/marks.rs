//! Events looked up in the seen-marks of functions, each of which says where in its stream the event stands.

use std::collections::{BTreeSet, VecDeque};
use std::slice;

use super::{FlowSearch, FoundEvent, StreamRange, first};
use oncue_core::bus::BusError;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::StreamPosition;
use oncue_proto::event::IdSecret;

/// Outputs of one event that are asked for at a time.
/// A batch in which none is found ends the search: outputs are numbered from 0, and few events have more than
/// these.
const OUTPUTS_AT_ONCE: usize = 16;

impl FlowSearch<'_> {
    /// The event of an id that some function is done with.
    pub(super) async fn by_mark(&self, id: &str) -> Result<Option<FoundEvent>, BusError> {
        let asked = self.functions.iter().filter_map(|function| {
            let stream = self.stream_of(function)?;
            Some(self.done_with(id, function, stream))
        });
        first(asked.collect()).await
    }

    /// The event of an id, if this function is done with it.
    async fn done_with(
        &self,
        id: &str,
        function: &Manifest,
        stream: &StreamRange,
    ) -> Result<Option<FoundEvent>, BusError> {
        let mut done = self.done(&[id.to_owned()], function, stream).await?;
        Ok(done.pop())
    }

    /// Everything that followed from an event, and from that in turn, as far as functions are done with it: ids of
    /// outputs are known from their cause. Without Redis, which has the secret of those ids, nothing is.
    pub(super) async fn offspring(&self, root: &FoundEvent) -> Result<Vec<FoundEvent>, BusError> {
        let mut found = Vec::new();
        let Some(secret) = self.id_secret().await else {
            return Ok(found);
        };
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
                for output in self.outputs(&cause, function, &secret).await? {
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
        secret: &IdSecret,
    ) -> Result<Vec<FoundEvent>, BusError> {
        let meta = &cause.incoming.meta;
        let positions = self.positions(slice::from_ref(&meta.id), function).await;
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
                .map(|index| secret.output_id(&meta.id, &function.name, index))
                .collect();
            let before = outputs.len();
            for listener in &listeners {
                let Some(stream) = self.stream_of(listener) else {
                    continue;
                };
                outputs.extend(self.done(&ids, listener, stream).await?);
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
    ) -> Result<Vec<FoundEvent>, BusError> {
        let mut events = Vec::new();
        let positions = self.positions(ids, function).await;
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
    async fn positions(&self, ids: &[String], function: &Manifest) -> Vec<Option<StreamPosition>> {
        let Some(store) = self.store else {
            return Vec::new();
        };
        store.places(ids, &function.name).await.unwrap_or_default()
    }

    /// Secret of the ids of outputs, as Redis has it.
    async fn id_secret(&self) -> Option<IdSecret> {
        self.store?.id_secret().await.ok()?
    }
}
