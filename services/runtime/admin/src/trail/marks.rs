//! Events looked up in the seen-marks of functions.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::slice;

use super::{Extent, Hit, LONGEST_MS, Trail, first, is_output_id};
use oncue_core::bus::BusError;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::StreamPosition;
use oncue_proto::event;

/// Outputs of one event that are asked for at a time.
const OUTPUTS: usize = 16;

impl Trail<'_> {
    /// Functions that ever started here. Without Redis there are still the streams.
    async fn functions(&self) -> Vec<Manifest> {
        let Some(store) = self.store else {
            return Vec::new();
        };
        let registered = store.functions().await.unwrap_or_default();
        registered
            .into_iter()
            .map(|registered| registered.manifest)
            .collect()
    }

    /// The event of an id that some function is done with. First those are asked that are likelier to have had it: of what
    /// functions emit whoever acts on that, of anything else whoever acts on what comes from outside.
    pub(super) async fn by_mark(
        &self,
        id: &str,
        emitted: &BTreeSet<String>,
    ) -> Result<Option<Hit>, BusError> {
        let likely = |function: &Manifest| {
            function.triggers.iter().any(|ty| emitted.contains(ty)) == is_output_id(id)
        };
        let (likely, others): (Vec<_>, Vec<_>) =
            self.functions().await.into_iter().partition(likely);
        for some in [likely, others] {
            let asked = some.iter().filter_map(|function| {
                let stream = self.stream_of(function)?;
                // An event may say its time as its client saw it, by a clock that differs.
                let (from, to) = (*stream.times.start().max(&self.since), *stream.times.end());
                let times = from.saturating_sub(LONGEST_MS)..=to + LONGEST_MS;
                Some(async move {
                    Ok(self
                        .done(&[id.to_owned()], function, stream, times)
                        .await?
                        .pop())
                })
            });
            if let Some(hit) = first(asked.collect()).await? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// What followed from an event, and from that in turn, as far as functions are done with it: ids of outputs are known
    /// from their cause, and so are their times, except of what was delayed.
    pub(super) async fn offspring(&self, root: &Hit) -> Result<Vec<Hit>, BusError> {
        let functions = self.functions().await;
        let (mut found, mut known, mut next) =
            (Vec::new(), BTreeSet::new(), VecDeque::from([root.clone()]));
        while let Some(cause) = next.pop_front() {
            let acts = |function: &&Manifest| function.triggers.contains(&cause.incoming.meta.ty);
            for function in functions
                .iter()
                .filter(acts)
                .filter(|function| !function.emits.is_empty())
            {
                if self.is_late() {
                    return Ok(found);
                }
                let listens =
                    |other: &&Manifest| other.triggers.iter().any(|ty| function.emits.contains(ty));
                let listeners: Vec<&Manifest> = functions.iter().filter(listens).collect();
                for output in self.outputs(&cause, function, &listeners).await? {
                    if known.insert(output.incoming.meta.id.clone()) {
                        next.push_back(output.clone());
                        found.push(output);
                    }
                }
            }
        }
        Ok(found)
    }

    /// What a function made of an event and one of the listeners is done with.
    async fn outputs(
        &self,
        cause: &Hit,
        function: &Manifest,
        listeners: &[&Manifest],
    ) -> Result<Vec<Hit>, BusError> {
        let meta = &cause.incoming.meta;
        let times = meta.time..=meta.time;
        let places = self
            .places(slice::from_ref(&meta.id), function, times.clone())
            .await;
        let mut outputs = Vec::new();
        if !places.into_iter().flatten().any(|place| place.has_outputs) {
            return Ok(outputs);
        }
        for from in (0..).step_by(OUTPUTS) {
            let ids: Vec<String> = (from..from + OUTPUTS)
                .map(|index| event::output_id(&meta.id, &function.name, index))
                .collect();
            let before = outputs.len();
            for listener in listeners {
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

    fn stream_of(&self, function: &Manifest) -> Option<&Extent> {
        self.streams
            .iter()
            .find(|stream| stream.name == function.stream)
    }

    /// Those of these events that a function is done with, read from its stream.
    async fn done(
        &self,
        ids: &[String],
        function: &Manifest,
        stream: &Extent,
        times: RangeInclusive<u64>,
    ) -> Result<Vec<Hit>, BusError> {
        let mut hits = Vec::new();
        for place in self
            .places(ids, function, times)
            .await
            .into_iter()
            .flatten()
        {
            let found = self.bus.read_message(&stream.name, place.sequence).await?;
            let hit = found.and_then(|found| stream.hit(found));
            hits.extend(hit.filter(|hit| ids.contains(&hit.incoming.meta.id)));
        }
        self.searched.lock().by_mark += hits.len() as u64;
        Ok(hits)
    }

    /// Without Redis nothing is known.
    async fn places(
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
