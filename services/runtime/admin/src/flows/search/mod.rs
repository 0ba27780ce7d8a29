//! Search for an event by its id, and for everything of its flow. Nothing keeps an index of ids, so an id is looked
//! for where it can be: most of ours tell their time or their place, and of an event that a function is done with the
//! seen-mark says where it stands. Only what is left is looked for message by message, from the newest back.
//!
//! | id | place |
//! |---|---|
//! | `web:1767225600000:42`, of a message that brought none | sequence 42 of the stream `web` made then |
//! | a UUID of version 7 | around the time it tells, in every stream; windows of half a second, ten seconds, two minutes |
//! | 22 characters of base64, as outputs have | seen-marks of functions, and at the same time every type that functions emit |
//! | anything a client made up | seen-marks of functions, and at the same time every message |
//!
//! Events that followed from one are found in two ways at once: by reading forwards from the root, only the types
//! that can have followed; and by seen-marks, since ids of outputs are known from their cause. The first finds what
//! nobody has acted on yet, the second what lies far behind in a busy stream.

mod marks;
mod searched;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use futures_util::future::{try_join, try_join_all};
use futures_util::stream::{FuturesUnordered, TryStreamExt as _};
use oncue_proto::Catalog;
use parking_lot::Mutex;

pub use self::searched::Searched;
use crate::{AdminError, consumers, topology};
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, BusError, Slice, StoredMessage};
use oncue_core::config::Config;
use oncue_core::model::flow::FlowEvent;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::event::{self, Incoming, stream_of_type};

/// Messages and bytes of one question.
/// Large enough that a round trip is small beside the reading, small enough that the end of the time is seen soon.
const BATCH_MESSAGES: usize = 1000;
const BATCH_BYTES: usize = 4 << 20;
/// Milliseconds before and after the time an id tells: where the event almost always lies, and where clocks that
/// differ or a client that waited may have put it. A busy stream takes tens of thousands of events in a second.
const WINDOWS: [Window; 3] = [
    Window {
        before: 20,
        after: 500,
    },
    Window {
        before: 1000,
        after: 10_000,
    },
    Window {
        before: WIDEST_WINDOW_MS,
        after: WIDEST_WINDOW_MS,
    },
];
const WIDEST_WINDOW_MS: u64 = 60_000;
/// Difference there may be between the clocks of the servers of a cluster.
const SKEW_MS: u64 = 1000;
/// Earliest time an id is believed to tell: 2020-01-01. Before it a number is a number like any other.
const EARLIEST_ID_MS: u64 = 1_577_836_800_000;
const DAY_MS: u64 = 86_400_000;

/// Milliseconds around a time.
struct Window {
    before: u64,
    after: u64,
}

/// A stream as it stood when the search began.
#[derive(Debug, Clone)]
struct StreamRange {
    name: String,
    /// Part of the identity of messages that brought no id.
    created: u64,
    first: u64,
    last: u64,
}

/// A message that was found, and the event it is.
#[derive(Debug, Clone)]
pub struct FoundEvent {
    /// Name of the stream, which is the domain of the type.
    pub stream: String,
    /// As the stream holds it, with its sequence and the time it was stored.
    pub message: StoredMessage,
    /// The event that is in it.
    pub incoming: Incoming,
}

/// Servers to look in, and knowledge of the app.
#[derive(Clone, Copy)]
pub struct Sources<'s> {
    /// Streams and consumers.
    pub bus: &'s Bus,
    /// Without it, ids that tell nothing take longer to find.
    pub store: Option<&'s Store>,
    /// Horizons of the streams, by which seen-marks are found.
    pub config: &'s Config,
    /// Reads keys out of payloads.
    pub catalog: &'s Catalog,
    /// Functions known to be there. More are known from Redis; these act on events even if they have no consumer yet.
    pub functions: &'s [Manifest],
}

/// Limits of a search; by default there are none.
#[derive(Debug, Clone, Copy)]
pub struct SearchLimits {
    /// Time to look for the event.
    /// Looked at between two requests, so a slow answer may exceed it. `None` for as long as it takes.
    pub find: Option<Duration>,
    /// Time to read what followed from it.
    /// Begins once the root is known.
    pub read: Option<Duration>,
    /// Nothing older than this is looked at, Unix milliseconds.
    pub since: u64,
    /// Events of a rebuilt flow; a larger one is cut.
    /// The first that the streams took are kept.
    pub events: usize,
    /// Newest messages of the dead letter stream that are looked at.
    pub letters: u64,
}

impl Default for SearchLimits {
    fn default() -> Self {
        Self {
            find: None,
            read: None,
            since: 0,
            events: usize::MAX,
            letters: u64::MAX,
        }
    }
}

/// Everything found of one flow.
#[derive(Debug, Default)]
pub struct Followed {
    /// In the order in which the streams took them; none where no event was found.
    pub events: Vec<FoundEvent>,
    /// Functions the search knew of.
    pub functions: Vec<Manifest>,
    /// How far the search went.
    pub searched: Searched,
}

/// Everything of the flow that an event of this id belongs to, or that has this id.
///
/// # Errors
/// NATS does not answer. Time running out is none: [`Followed::searched`] says so.
pub async fn follow(
    sources: &Sources<'_>,
    id: &str,
    limits: SearchLimits,
) -> Result<Followed, AdminError> {
    let mut search = FlowSearch::open(sources, limits).await?;
    let events = search.flow_of(id, limits).await?;
    Ok(Followed {
        events,
        searched: search.searched(),
        functions: search.functions,
    })
}

/// One search: the streams as they stood when it began, and how far it has come.
pub struct FlowSearch<'s> {
    bus: &'s Bus,
    store: Option<&'s Store>,
    streams: Vec<StreamRange>,
    /// Functions that are there or ever started here.
    functions: Vec<Manifest>,
    /// Whether there is no function besides those.
    knows_all: bool,
    /// Reading costs everybody, so the search ends then.
    deadline: Option<Instant>,
    since: u64,
    searched: Mutex<Searched>,
}

impl<'s> FlowSearch<'s> {
    /// Reads where the streams begin and end, and which functions there are. The time to find begins to count.
    ///
    /// One `STREAM.LIST` and one `HGETALL` of `oncue:functions`; without Redis one question on `$SRV.INFO` and the
    /// consumers instead.
    pub async fn open(sources: &Sources<'s>, limits: SearchLimits) -> Result<Self, AdminError> {
        let deadline = limits.find.map(|find| Instant::now() + find);
        let streams = consumers::event_streams(sources.bus);
        let (streams, functions) = try_join(streams, KnownFunctions::read(sources)).await?;
        let streams: Vec<StreamRange> = streams
            .iter()
            .filter(|info| ![DLQ, TIMER].contains(&info.config.name.as_str()))
            .map(StreamRange::of)
            .collect();
        let searched = Mutex::new(Searched {
            streams: streams.iter().map(|stream| stream.name.clone()).collect(),
            ..Searched::default()
        });
        Ok(Self {
            bus: sources.bus,
            store: sources.store,
            streams,
            functions: functions.manifests,
            knows_all: functions.is_all,
            deadline,
            since: limits.since,
            searched,
        })
    }

    /// How far it has gone.
    pub fn searched(&self) -> Searched {
        self.searched.lock().clone()
    }

    /// The event of an id, or one of a flow of that id. In this order: an id that tells a position is read there; one
    /// that a function is done with is found by its seen-mark; one that tells its time is looked for around it, in all
    /// streams at once; any other message by message from the newest back. What functions make has the time of its
    /// cause, so it may stand later: of what they emit the messages are read as well.
    ///
    /// `None` where it is not found before the time is over; [`searched`](Self::searched) tells.
    ///
    /// Cost: one direct get for a position; a look-up in Redis for each function and one direct get for a mark; for a
    /// time, in each stream the messages of up to two minutes; for anything else every message, until it is found. A
    /// message that has left its stream is not found, whatever its mark says.
    pub async fn find(&self, id: &str) -> Result<Option<FoundEvent>, AdminError> {
        if let Some(found) = self.by_position(id).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.by_mark(id).await? {
            return Ok(Some(found));
        }
        let subjects = match time_of(id) {
            None => self.everything(),
            Some(time) => match self.around(id, time).await? {
                None => self.subjects(&self.emitted()),
                found => return Ok(found),
            },
        };
        let back = subjects
            .into_iter()
            .map(|(stream, subject)| self.backwards(stream, subject, id));
        Ok(first(back.collect()).await?)
    }

    /// The event of an id, in whichever stream took it about `time` (Unix ms). Three windows, each wider than the one
    /// before: most are found in the first, and a busy stream is costly to read.
    pub async fn around(&self, id: &str, time: u64) -> Result<Option<FoundEvent>, AdminError> {
        for window in WINDOWS {
            let from = time.saturating_sub(window.before);
            let near = self
                .streams
                .iter()
                .map(|stream| self.near(stream, id, from, time + window.after));
            if let Some(found) = first(near.collect()).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Everything of the flow that an event of this id belongs to, in the order in which the streams took it.
    async fn flow_of(
        &mut self,
        id: &str,
        limits: SearchLimits,
    ) -> Result<Vec<FoundEvent>, AdminError> {
        let found = self.find(id).await?;
        let flow = match &found {
            Some(found) => found.incoming.meta.flow.clone(),
            None => id.to_owned(),
        };
        let root = self.root(&flow, found.as_ref()).await?;
        let since = match (&root, time_of(&flow), &found) {
            (Some(root), ..) => root.message.time.saturating_sub(SKEW_MS),
            (None, Some(time), _) => time.saturating_sub(WIDEST_WINDOW_MS),
            (None, None, Some(found)) => found.message.time.saturating_sub(WIDEST_WINDOW_MS),
            (None, None, None) => return Ok(Vec::new()),
        };
        let types = root.as_ref().and_then(|root| self.types_after(root));
        self.deadline = limits.read.map(|read| Instant::now() + read);
        let members = self.members(&flow, since.max(limits.since), types.as_ref());
        let (mut events, followed) = try_join(members, self.descendants(root.as_ref())).await?;
        events.extend(root.into_iter().chain(found).chain(followed));
        events.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut known = BTreeSet::new();
        events.retain(|event| known.insert(event.incoming.meta.id.clone()));
        Ok(events)
    }

    /// Root event of a flow, which has the flow's id.
    async fn root(
        &self,
        flow: &str,
        found: Option<&FoundEvent>,
    ) -> Result<Option<FoundEvent>, AdminError> {
        match found {
            Some(found) if !found.is_root_of(flow) => {
                let root = self.find(flow).await?;
                Ok(root.filter(|root| root.is_root_of(flow)))
            }
            found => Ok(found.cloned()),
        }
    }

    /// Types the events of a flow can be of; `None` where that cannot be told. Where nobody known acts on the root,
    /// whoever did is gone, and what it emitted is anybody's guess.
    fn types_after(&self, root: &FoundEvent) -> Option<BTreeSet<String>> {
        let ty = &root.incoming.meta.ty;
        let is_known = self
            .functions
            .iter()
            .any(|function| function.triggers.contains(ty));
        (self.knows_all && is_known).then(|| reachable(&self.functions, ty))
    }

    /// Outputs of the root and of its outputs, as seen-marks tell of them.
    async fn descendants(&self, root: Option<&FoundEvent>) -> Result<Vec<FoundEvent>, BusError> {
        match root {
            Some(root) => self.offspring(root).await,
            None => Ok(Vec::new()),
        }
    }

    /// Types that functions may emit.
    fn emitted(&self) -> BTreeSet<String> {
        let emitted = self.functions.iter().flat_map(|function| &function.emits);
        emitted.cloned().collect()
    }

    /// Enters a batch in what was searched.
    fn count(&self, batch: &[StoredMessage]) {
        let mut searched = self.searched.lock();
        searched.events += batch.len() as u64;
        for message in batch.first().into_iter().chain(batch.last()) {
            searched.widen(message.time);
        }
    }

    /// Whether to give up; that it was given up is remembered.
    fn is_late(&self) -> bool {
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline);
        if late {
            self.searched.lock().cut = true;
        }
        late
    }

    /// The message `<stream>:<creation time>:<sequence>`, the identity of messages that brought none.
    async fn by_position(&self, id: &str) -> Result<Option<FoundEvent>, BusError> {
        let mut parts = id.rsplitn(3, ':');
        let sequence = parts.next().and_then(|part| part.parse::<u64>().ok());
        let created = parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(sequence), Some(created), Some(name)) = (sequence, created, parts.next()) else {
            return Ok(None);
        };
        let Some(stream) = self
            .streams
            .iter()
            .find(|s| s.name == name && s.created == created)
        else {
            return Ok(None);
        };
        let message = self.bus.read_message(name, sequence).await?;
        Ok(message.and_then(|message| stream.event(message)))
    }

    /// Forwards through the messages a stream took between two times.
    async fn near(
        &self,
        stream: &StreamRange,
        id: &str,
        from: u64,
        to: u64,
    ) -> Result<Option<FoundEvent>, BusError> {
        let mut slice = slice(">");
        slice.since = Some(from);
        loop {
            let batch = self.bus.read_slice(&stream.name, &slice).await?;
            self.count(&batch);
            let Some(last) = batch.last() else {
                return Ok(None);
            };
            let next = last.sequence + 1;
            let is_end = last.sequence >= stream.last || last.time > to;
            let mut events = batch
                .into_iter()
                .filter_map(|message| stream.event_if(message, |m| m.id == id, id, ""));
            if let Some(found) = events.next() {
                return Ok(Some(found));
            }
            if is_end || self.is_late() {
                return Ok(None);
            }
            slice.from = next;
            slice.since = None;
        }
    }

    /// Backwards from the end of a stream, a width at a time.
    async fn backwards(
        &self,
        stream: &StreamRange,
        subject: String,
        id: &str,
    ) -> Result<Option<FoundEvent>, BusError> {
        let mut end = stream.last + 1;
        let mut width = BATCH_MESSAGES as u64;
        while end > stream.first && !self.is_late() {
            let begin = end.saturating_sub(width).max(stream.first);
            let piece = self.piece(stream, &subject, begin..=end - 1, id).await?;
            if piece.found.is_some() || piece.is_past {
                return Ok(piece.found);
            }
            // Where few messages are of these types, further at a time.
            width = if piece.read < BATCH_MESSAGES / 2 {
                width * 4
            } else {
                BATCH_MESSAGES as u64
            };
            end = begin;
        }
        Ok(None)
    }

    /// One piece of a stream, forwards.
    async fn piece(
        &self,
        stream: &StreamRange,
        subject: &str,
        sequences: RangeInclusive<u64>,
        id: &str,
    ) -> Result<Piece, BusError> {
        let mut piece = Piece::default();
        let mut slice = slice(subject);
        slice.from = *sequences.start();
        while slice.from <= *sequences.end() {
            let mut batch = self.bus.read_slice(&stream.name, &slice).await?;
            batch.retain(|message| message.sequence <= *sequences.end());
            self.count(&batch);
            let Some(last) = batch.last() else { break };
            piece.is_past |= last.time < self.since;
            piece.read += batch.len();
            slice.from = last.sequence + 1;
            let events = batch.into_iter().filter_map(|message| {
                stream.event_if(message, |m| m.id == id || m.flow == id, id, id)
            });
            for event in events {
                // The event itself, rather than one that only tells that there is such a flow.
                if piece.found.is_none() || event.incoming.meta.id == id {
                    piece.found = Some(event);
                }
            }
        }
        Ok(piece)
    }

    /// Events of a flow that came at `since` (Unix ms) or later, of these types; of all where they are not known.
    async fn members(
        &self,
        flow: &str,
        since: u64,
        types: Option<&BTreeSet<String>>,
    ) -> Result<Vec<FoundEvent>, BusError> {
        let subjects = types.map_or_else(|| self.everything(), |types| self.subjects(types));
        let read = subjects
            .into_iter()
            .map(|(stream, subject)| self.forwards(stream, subject, flow, since));
        Ok(try_join_all(read).await?.into_iter().flatten().collect())
    }

    /// Events of a flow in one stream, from a time on to where it ended when the search began.
    async fn forwards(
        &self,
        stream: &StreamRange,
        subject: String,
        flow: &str,
        since: u64,
    ) -> Result<Vec<FoundEvent>, BusError> {
        let mut slice = slice(&subject);
        slice.since = Some(since);
        let mut events = Vec::new();
        loop {
            let batch = self.bus.read_slice(&stream.name, &slice).await?;
            self.count(&batch);
            let Some(end) = batch.last().map(|last| last.sequence) else {
                return Ok(events);
            };
            let of_flow = batch
                .into_iter()
                .filter_map(|message| stream.event_if(message, |m| m.flow == flow, "", flow));
            events.extend(of_flow);
            if end >= stream.last || self.is_late() {
                return Ok(events);
            }
            slice.from = end + 1;
            slice.since = None;
        }
    }

    /// Every subject of every stream.
    fn everything(&self) -> Vec<(&StreamRange, String)> {
        self.streams
            .iter()
            .map(|stream| (stream, ">".to_owned()))
            .collect()
    }

    /// Each type's bare subject, and those with a key.
    fn subjects(&self, types: &BTreeSet<String>) -> Vec<(&StreamRange, String)> {
        let mut subjects = Vec::new();
        for ty in types {
            let name = stream_of_type(ty);
            for stream in self.streams.iter().filter(|stream| stream.name == name) {
                subjects.push((stream, ty.clone()));
                subjects.push((stream, format!("{ty}.*")));
            }
        }
        subjects
    }
}

/// One piece of a stream that was read.
#[derive(Default)]
struct Piece {
    found: Option<FoundEvent>,
    read: usize,
    /// Whether it lies before the time that was asked for.
    is_past: bool,
}

/// Functions a search knows of.
struct KnownFunctions {
    manifests: Vec<Manifest>,
    /// Whether there is no function besides those.
    is_all: bool,
}

impl KnownFunctions {
    /// Every function that ever started wrote its manifest into Redis. Without Redis those that run are asked, which
    /// are all if no consumer belongs to another.
    async fn read(sources: &Sources<'_>) -> Result<Self, AdminError> {
        let mut manifests = sources.functions.to_vec();
        let registered = match sources.store {
            Some(store) => store.functions().await.ok(),
            None => None,
        };
        let is_registered = registered.is_some();
        let more: Vec<Manifest> = match registered {
            Some(registered) => registered.into_iter().map(|one| one.manifest).collect(),
            None => topology::answering(sources.bus).await?,
        };
        for manifest in more {
            if manifests.iter().all(|known| known.name != manifest.name) {
                manifests.push(manifest);
            }
        }
        let is_all = is_registered
            || consumers::all(sources.bus)
                .await?
                .keys()
                .all(|function| manifests.iter().any(|known| known.name == *function));
        Ok(Self { manifests, is_all })
    }
}

impl FoundEvent {
    /// Key of the event; empty where it cannot be told.
    pub fn key(&self, catalog: &Catalog) -> String {
        key_of(&self.incoming, catalog)
    }

    /// Trace id, where it belongs to a trace.
    pub fn trace_id(&self) -> Option<&str> {
        self.incoming.meta.traceparent.as_deref()?.split('-').nth(1)
    }

    /// The event as a flow has it, without steps. Its time is when it was stored: an output's own is that of its
    /// cause.
    pub fn flow_event(&self, catalog: &Catalog) -> FlowEvent {
        let meta = &self.incoming.meta;
        FlowEvent {
            id: meta.id.clone(),
            ty: meta.ty.clone(),
            key: self.key(catalog),
            source: meta.source.clone(),
            cause: meta.cause.clone(),
            time: self.message.time,
            ..FlowEvent::default()
        }
    }

    fn is_root_of(&self, flow: &str) -> bool {
        self.incoming.meta.id == flow
    }

    /// Order in which the streams took events; of one moment by stream.
    fn order(&self) -> (u64, &str, u64) {
        (self.message.time, &self.stream, self.message.sequence)
    }
}

/// Key of an event by its payload; empty where it cannot be told.
/// Found by the catalog's own rule for the type, so an unknown type has no key here.
pub fn key_of(incoming: &Incoming, catalog: &Catalog) -> String {
    let entry = catalog.get(&incoming.meta.ty);
    entry
        .and_then(|entry| entry.check(incoming.format, &incoming.payload))
        .unwrap_or_default()
}

impl StreamRange {
    fn of(info: &StreamInfo) -> Self {
        Self {
            name: info.config.name.clone(),
            created: info.created_ms().unwrap_or(0),
            first: info.state.first_seq.max(1),
            last: info.state.last_seq,
        }
    }

    /// The event in a message; `None` of a message that is none.
    fn event(&self, message: StoredMessage) -> Option<FoundEvent> {
        let incoming = message.read(&self.name, self.created).ok()?;
        Some(FoundEvent {
            stream: self.name.clone(),
            message,
            incoming,
        })
    }

    /// The event, if it is one that is looked for. Most messages say in their headers that they are not: those are
    /// not read any further.
    fn event_if(
        &self,
        message: StoredMessage,
        is: impl Fn(&event::Meta) -> bool,
        id: &str,
        flow: &str,
    ) -> Option<FoundEvent> {
        if says_other(&message, "ce-id", id) && says_other(&message, "ce-flowid", flow) {
            return None;
        }
        // A redriven event has been there before, as it first came.
        self.event(message)
            .filter(|event| is(&event.incoming.meta) && !event.incoming.meta.is_again())
    }
}

/// Whether a message has such a header with another value.
fn says_other(message: &StoredMessage, header: &str, wanted: &str) -> bool {
    let said = message.header(header).map(event::percent_decode);
    said.is_some_and(|said| said.as_deref() != Some(wanted))
}

/// A slice from the beginning, as large as one question may be.
fn slice(subject: &str) -> Slice<'_> {
    Slice {
        from: 0,
        since: None,
        subject,
        messages: BATCH_MESSAGES,
        bytes: BATCH_BYTES,
    }
}

/// The first that is found; the others are not waited for.
async fn first<F>(mut looking: FuturesUnordered<F>) -> Result<Option<FoundEvent>, BusError>
where
    F: Future<Output = Result<Option<FoundEvent>, BusError>>,
{
    while let Some(found) = looking.try_next().await? {
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Types an event can lead to, by what functions say they act on and emit.
fn reachable(functions: &[Manifest], root: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![root.to_owned()];
    while let Some(ty) = next.pop() {
        let listeners = functions
            .iter()
            .filter(|function| function.triggers.contains(&ty));
        for emitted in listeners.flat_map(|function| &function.emits) {
            if reached.insert(emitted.clone()) {
                next.push(emitted.clone());
            }
        }
    }
    reached
}

/// Unix milliseconds of a UUID of version 7, written with or without hyphens.
/// `None` where the time lies before 2020 or more than a day ahead: then it is an id that only looks like one.
pub fn time_of(id: &str) -> Option<u64> {
    let hex: String = id.chars().filter(|c| *c != '-').collect();
    let is_uuid =
        hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && hex.as_bytes()[12] == b'7';
    let time = u64::from_str_radix(hex.get(..12).filter(|_| is_uuid)?, 16).ok()?;
    (EARLIEST_ID_MS..event::now_ms() + DAY_MS)
        .contains(&time)
        .then_some(time)
}

#[cfg(test)]
mod tests;
