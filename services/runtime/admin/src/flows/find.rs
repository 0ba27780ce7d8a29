//! Events that have something in common: a type, a sender, a key, a text, what became of their flow. Read backwards from a
//! time, so that the newest come first, all streams at once, and a page at a time: a page says how far it has come, and
//! the next goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, Slice};
use oncue_core::model::flow::{Flow, StepState};
use oncue_proto::Catalog;
use oncue_proto::event::{Incoming, stream_of_type};

use super::search::{FoundEvent, Sources, key_of};
use crate::{AdminError, consumers};

/// Milliseconds that are read first; fewer where many events come, more where few do.
const FIRST_SPAN: u64 = 10_000;
const LEAST_SPAN: u64 = 20;
/// Messages of a span from which on the next one is smaller, and up to which it is larger.
const MANY: u64 = 4000;
const FEW: u64 = 500;
/// Messages of one stream in a span from which on it is read in smaller ones.
const MOST: u64 = 20_000;
/// Flows of one pipeline.
const FLOWS_AT_A_TIME: usize = 500;
/// Messages and bytes of one question.
const BATCH_MESSAGES: usize = 1000;
const BATCH_BYTES: usize = 4 << 20;

/// Filters of a search: all that are set must hold; by default everything is found.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Event type.
    pub ty: Option<String>,
    /// Function that has sent it.
    pub function: Option<String>,
    /// Key, whole.
    pub key: Option<String>,
    /// Part of the payload as it is [viewed](oncue_proto::Entry::to_view), in any case of letters; what is sensitive
    /// is not found.
    pub text: Option<String>,
    /// State of its flow, which must have a ledger.
    pub state: Option<FlowState>,
    /// Least time its flow has taken, in milliseconds; it must have a ledger.
    pub longer: Option<u64>,
    /// Nothing that was stored before, Unix milliseconds.
    pub from: u64,
    /// Nothing that was stored then or later; 0 for no bound.
    pub until: u64,
}

/// State of a flow as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// Some step is not done.
    Open,
    /// All steps are done, and well.
    Complete,
    /// Some step has ended in a dead letter, or was lost.
    Failed,
}

impl FlowState {
    /// By the word people write: `open`, `complete`, `failed`.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "open" => Some(Self::Open),
            "complete" => Some(Self::Complete),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }

    /// Inverse of [`named`](Self::named).
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }

    /// State of a flow with a ledger.
    pub fn of(flow: &Flow) -> Self {
        let mut steps = flow.events.iter().flat_map(|event| &event.steps);
        if steps.any(|step| [StepState::Dead, StepState::Lost].contains(&step.state)) {
            Self::Failed
        } else if flow.open > 0 {
            Self::Open
        } else {
            Self::Complete
        }
    }
}

/// Bounds of a page; it ends with the first that is reached.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Events; somewhat more where many were stored in one moment.
    pub events: usize,
    /// Messages that are read.
    pub read: u64,
    pub time: Duration,
}

/// Page of what was found.
#[derive(Debug, Default)]
pub struct FoundPage {
    /// Newest first.
    pub events: Vec<FoundEvent>,
    /// Flows of these that have a ledger, by id.
    pub flows: BTreeMap<String, Flow>,
    /// Everything stored from then on was looked at, Unix milliseconds: the `until` of the next page.
    pub searched: u64,
    /// Whether nothing older is left.
    pub is_end: bool,
    /// Messages that were read.
    pub read: u64,
    /// Events that were passed over since their flow has no ledger, where state or duration is asked for.
    pub untracked: u64,
}

/// One page of events, the newest before `query.until` first.
///
/// Cost: for each span of time a question to each stream, or to one where a type is named, which finds its messages by
/// the server's index; without a type every message of the span is read. Flows are read at the end, those of the page; where they are asked
/// for, those of every event in a span.
///
/// # Errors
/// NATS does not answer; Redis, where state or duration is asked for. That a bound is reached is none.
pub async fn find(
    sources: &Sources<'_>,
    query: &EventQuery,
    limits: PageLimits,
    now: u64,
) -> Result<FoundPage, AdminError> {
    let mut page = scan(sources, query, limits, now).await?;
    if !query.is_by_flow() {
        // The events are there, whatever became of them.
        let flows = flows(sources, &page.events).await.unwrap_or_default();
        page.flows = flows;
    }
    Ok(page)
}

async fn scan(
    sources: &Sources<'_>,
    query: &EventQuery,
    limits: PageLimits,
    now: u64,
) -> Result<FoundPage, AdminError> {
    let began = Instant::now();
    let streams = consumers::event_streams(sources.bus).await?;
    let streams: Vec<&StreamInfo> = streams
        .iter()
        .filter(|info| ![DLQ, TIMER].contains(&info.config.name.as_str()))
        .filter(|info| info.state.messages > 0)
        .filter(|info| {
            let ty = query.ty.as_deref();
            ty.is_none_or(|ty| stream_of_type(ty) == info.config.name)
        })
        .collect();
    let lasts = streams.iter().map(|info| info.state.last_ms() + 1);
    let end = lasts.max().unwrap_or(now);
    let end = if query.until > 0 {
        end.min(query.until)
    } else {
        end
    };
    let firsts = streams.iter().map(|info| info.state.first_ms());
    let first = firsts.min().unwrap_or(end).max(query.from);
    let mut page = FoundPage {
        searched: end,
        ..FoundPage::default()
    };
    let mut span = FIRST_SPAN;
    while page.searched > first && page.events.len() < limits.events {
        // At least one span, however long it took to get here.
        if page.searched < end && (began.elapsed() > limits.time || page.read >= limits.read) {
            return Ok(page);
        }
        let from = page.searched.saturating_sub(span).max(first);
        let time_span = TimeSpan {
            from,
            to: page.searched,
        };
        let Some(found) = time_span.read(sources, query, &streams).await? else {
            // Too many for one span; a single moment is read whole.
            span = (span / 8).max(LEAST_SPAN);
            continue;
        };
        page.read += found.read;
        page.take(sources, query, found.events, now).await?;
        page.searched = from;
        if page.cut(limits.events) {
            return Ok(page);
        }
        if found.read > MANY {
            span = (span / 2).max(LEAST_SPAN);
        } else if found.read < FEW {
            span = span.saturating_mul(4);
        }
    }
    page.is_end = page.searched <= first;
    Ok(page)
}

/// Flows of events that have a ledger, by id.
async fn flows(
    sources: &Sources<'_>,
    events: &[FoundEvent],
) -> Result<BTreeMap<String, Flow>, AdminError> {
    let Some(store) = sources.store else {
        return Ok(BTreeMap::new());
    };
    let ids = events.iter().map(|event| event.incoming.meta.flow.clone());
    let ids: BTreeSet<String> = ids.collect();
    let ids: Vec<String> = ids.into_iter().collect();
    let mut found = BTreeMap::new();
    for ids in ids.chunks(FLOWS_AT_A_TIME) {
        let flows = store.flows(ids).await?.into_iter().flatten();
        found.extend(flows.map(|flow| (flow.id.clone(), flow)));
    }
    Ok(found)
}

impl FoundPage {
    /// Leaves the newest; what was stored in the moment of the last one stays with it, since the next page goes on before
    /// that. Whether any had to go.
    fn cut(&mut self, most: usize) -> bool {
        let Some(last) = self.events.get(most.saturating_sub(1)) else {
            return false;
        };
        let moment = last.message.time;
        let kept = self
            .events
            .partition_point(|event| event.message.time >= moment);
        let is_cut = kept < self.events.len();
        if is_cut {
            self.events.truncate(kept);
            self.searched = moment;
        }
        is_cut
    }

    /// Takes the events of a span, by their flows.
    async fn take(
        &mut self,
        sources: &Sources<'_>,
        query: &EventQuery,
        mut events: Vec<FoundEvent>,
        now: u64,
    ) -> Result<(), AdminError> {
        events.sort_by_key(|event| std::cmp::Reverse((event.message.time, event.message.sequence)));
        if query.is_by_flow() {
            let flows = flows(sources, &events).await?;
            let all = events.len();
            events.retain(|event| flows.contains_key(&event.incoming.meta.flow));
            self.untracked += (all - events.len()) as u64;
            events.retain(|event| query.takes(&flows[&event.incoming.meta.flow], now));
            self.flows.extend(flows);
        }
        self.events.extend(events);
        Ok(())
    }
}

impl EventQuery {
    /// Whether it asks for what became of flows.
    fn is_by_flow(&self) -> bool {
        self.state.is_some() || self.longer.is_some()
    }

    /// Whether a flow is one that is asked for. One that is open has taken until now.
    fn takes(&self, flow: &Flow, now: u64) -> bool {
        let took = flow.ended.unwrap_or(now).saturating_sub(flow.started);
        self.state.is_none_or(|state| state == FlowState::of(flow))
            && self.longer.is_none_or(|longer| took >= longer)
    }

    /// Whether an event is one that is asked for, whatever became of it.
    fn wants(&self, incoming: &Incoming, catalog: &Catalog) -> bool {
        let meta = &incoming.meta;
        let source = meta.source.strip_prefix('/').unwrap_or(&meta.source);
        // A redriven event has been there before, as it first came.
        !meta.is_again()
            && is_of(self.ty.as_deref(), &meta.ty)
            && is_of(self.function.as_deref(), source)
            && (self.key.is_none() || is_of(self.key.as_deref(), &key_of(incoming, catalog)))
            && self
                .text
                .as_deref()
                .is_none_or(|text| says(incoming, text, catalog))
    }

    /// Subjects of a stream that may hold such events.
    fn subjects(&self) -> Vec<String> {
        match &self.ty {
            Some(ty) => vec![ty.clone(), format!("{ty}.*")],
            None => vec![">".to_owned()],
        }
    }
}

/// Whether a filter lets a value pass.
fn is_of(wanted: Option<&str>, value: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

/// Whether a text stands in the payload as people see it.
fn says(incoming: &Incoming, text: &str, catalog: &Catalog) -> bool {
    let shown = match catalog.get(&incoming.meta.ty) {
        Ok(entry) => entry.to_view(incoming.format, &incoming.payload).ok(),
        Err(_) => serde_json::from_slice(&incoming.payload).ok(),
    };
    let wanted = text.to_lowercase();
    shown.is_some_and(|shown| shown.to_string().to_lowercase().contains(&wanted))
}

/// Span of time.
struct TimeSpan {
    /// Beginning, which is in it, Unix milliseconds.
    from: u64,
    /// End, which is not.
    to: u64,
}

/// Events of a span.
#[derive(Default)]
struct Found {
    events: Vec<FoundEvent>,
    read: u64,
}

impl TimeSpan {
    /// Events of all streams; `None` where there are too many messages, and the span can be smaller.
    async fn read(
        &self,
        sources: &Sources<'_>,
        query: &EventQuery,
        streams: &[&StreamInfo],
    ) -> Result<Option<Found>, AdminError> {
        let subjects = query.subjects();
        let mut asked = Vec::new();
        for stream in streams {
            for subject in &subjects {
                asked.push(self.read_one(sources.bus, sources.catalog, query, stream, subject));
            }
        }
        let mut all = Found::default();
        for found in try_join_all(asked).await? {
            let Some(found) = found else { return Ok(None) };
            all.read += found.read;
            all.events.extend(found.events);
        }
        Ok(Some(all))
    }

    async fn read_one(
        &self,
        bus: &Bus,
        catalog: &Catalog,
        query: &EventQuery,
        stream: &StreamInfo,
        subject: &str,
    ) -> Result<Option<Found>, AdminError> {
        let name = &stream.config.name;
        let created = stream.created_ms().unwrap_or(0);
        let mut slice = Slice {
            from: 0,
            since: Some(self.from),
            subject,
            messages: BATCH_MESSAGES,
            bytes: BATCH_BYTES,
        };
        let mut found = Found::default();
        loop {
            let batch = bus.read_slice(name, &slice).await?;
            let Some(last) = batch.last() else { break };
            let is_past = last.time >= self.to;
            slice.from = last.sequence + 1;
            slice.since = None;
            for message in batch {
                if message.time >= self.to {
                    break;
                }
                found.read += 1;
                let Ok(incoming) = message.read(name, created) else {
                    continue;
                };
                if query.wants(&incoming, catalog) {
                    found.events.push(FoundEvent {
                        stream: name.clone(),
                        message,
                        incoming,
                    });
                }
            }
            if is_past {
                break;
            }
            if found.read > MOST && self.to - self.from > LEAST_SPAN {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }
}
