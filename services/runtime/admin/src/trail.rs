//! Where an event lies and what it caused. Nothing keeps an index of ids, so an id is looked for where it can be: most of
//! ours tell their time or their place, and of what a function is done with its seen-mark says where it stands. What is
//! left is looked for message by message, from the newest back.

mod marks;
mod searched;

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{Either, select, try_join, try_join_all};
use futures::stream::{FuturesUnordered, TryStreamExt as _};
use oncue_proto::Catalog;
use serde_json::Value;

pub use self::searched::Searched;
use oncue_core::bus::{Bus, BusError, Slice, StoredMessage};
use oncue_core::config::Config;
use oncue_core::model::flow::FlowEvent;
use oncue_core::store::Store;
use oncue_proto::event::{self, Incoming, stream_of_type};

/// Messages of one question, and bytes.
const BATCH: usize = 1000;
const BYTES: usize = 4 << 20;
/// Around the time an id tells, milliseconds before and after: where it almost always lies, and where clocks that differ
/// or a client that waited may have put it. A busy stream takes tens of thousands of events in a second.
const WINDOWS: [(u64, u64); 3] = [(20, 500), (1000, 10_000), (LONGEST_MS, LONGEST_MS)];

/// The widest of them.
const LONGEST_MS: u64 = 60_000;
/// Clocks of the servers of a cluster may differ by this much.
const SKEW_MS: u64 = 1000;

/// A stream as it stood when the search began.
#[derive(Debug, Clone)]
struct Extent {
    name: String,
    /// Part of the identity of messages that brought no id.
    created: u64,
    first: u64,
    last: u64,
    /// When it took the first and the last, Unix milliseconds.
    times: RangeInclusive<u64>,
}

/// A message that was found, read.
#[derive(Debug, Clone)]
pub struct Hit {
    pub stream: String,
    pub found: StoredMessage,
    pub incoming: Incoming,
}

/// Where to look.
#[derive(Clone)]
pub struct Sources<'t> {
    pub bus: &'t Bus,
    pub streams: Vec<String>,
    /// Without it, ids that tell nothing take longer to find.
    pub store: Option<&'t Store>,
    pub config: &'t Config,
}

/// How long to look for an event, and how long to read what followed; no limit where none is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    pub find: Option<Duration>,
    pub read: Option<Duration>,
    /// Not further back than this, Unix milliseconds.
    pub since: u64,
}

/// What a function acts on and what it may emit.
pub type Cue<'c> = (&'c [String], &'c [String]);

/// Everything of the flow that an event of this id belongs to, or that has this id, in the order in which the streams took
/// it; nothing where no event was found.
pub async fn follow(
    sources: Sources<'_>,
    id: &str,
    functions: &[Cue<'_>],
    patience: Patience,
) -> Result<(Vec<Hit>, Searched), BusError> {
    let mut trail = Trail::open(sources, patience).await?;
    let emitted = functions
        .iter()
        .flat_map(|(_, emits)| emits.iter().cloned())
        .collect();
    let hit = trail.find(id, &emitted).await?;
    let flow = hit
        .as_ref()
        .map_or(id, |hit| &hit.incoming.meta.flow)
        .to_owned();
    let is_root = |hit: &Hit| hit.incoming.meta.id == flow;
    let root = match &hit {
        Some(hit) if !is_root(hit) => trail.find(&flow, &emitted).await?.filter(is_root),
        other => other.clone(),
    };
    // Where nobody known acts on the root, whoever did is gone, and what it emitted is anybody's guess.
    let is_known = |ty: &String| functions.iter().any(|(triggers, _)| triggers.contains(ty));
    let root_type = root.as_ref().map(|root| &root.incoming.meta.ty);
    let types = root_type
        .filter(|ty| is_known(ty))
        .map(|ty| reachable(functions, ty));
    let since = match (&root, time_of(&flow), &hit) {
        (Some(root), ..) => root.found.time.saturating_sub(SKEW_MS),
        (None, Some(time), _) => time.saturating_sub(LONGEST_MS),
        (None, None, Some(hit)) => hit.found.time.saturating_sub(LONGEST_MS),
        (None, None, None) => return Ok((Vec::new(), trail.searched())),
    };
    trail.deadline = patience.read.map(|read| Instant::now() + read);
    let followed = async {
        Ok(match &root {
            Some(root) => trail.offspring(root).await?,
            None => Vec::new(),
        })
    };
    let members = trail.members(&flow, since.max(patience.since), types.as_ref());
    let (mut hits, followed) = try_join(members, followed).await?;
    hits.extend(root.into_iter().chain(hit).chain(followed));
    hits.sort_by(|a, b| {
        (a.found.time, &a.stream, a.found.sequence).cmp(&(
            b.found.time,
            &b.stream,
            b.found.sequence,
        ))
    });
    let mut known = BTreeSet::new();
    hits.retain(|hit| known.insert(hit.incoming.meta.id.clone()));
    Ok((hits, trail.searched()))
}

pub struct Trail<'t> {
    bus: &'t Bus,
    store: Option<&'t Store>,
    config: &'t Config,
    streams: Vec<Extent>,
    /// What reading costs is everybody's: the search ends then.
    deadline: Option<Instant>,
    since: u64,
    searched: Mutex<Searched>,
}

impl<'t> Trail<'t> {
    pub async fn open(sources: Sources<'t>, patience: Patience) -> Result<Self, BusError> {
        let Sources {
            bus,
            streams: names,
            store,
            config,
        } = sources;
        let deadline = patience.find.map(|find| Instant::now() + find);
        let streams = try_join_all(names.iter().map(|name| async move {
            let info = bus.api(&format!("STREAM.INFO.{name}"), &Value::Null).await;
            let info = info.map_err(|e| BusError(format!("stream {name}: {e}")))?;
            let state = |field: &str| info["state"][field].as_u64().unwrap_or(0);
            let time = |of: &Value| of.as_str().and_then(event::parse_time).unwrap_or(0);
            let times = time(&info["state"]["first_ts"])..=time(&info["state"]["last_ts"]);
            let (first, last) = (state("first_seq").max(1), state("last_seq"));
            Ok(Extent {
                name: name.clone(),
                created: time(&info["created"]),
                first,
                last,
                times,
            })
        }));
        let searched = Mutex::new(Searched {
            streams: names.clone(),
            ..Searched::default()
        });
        Ok(Self {
            bus,
            store,
            config,
            streams: streams.await?,
            deadline,
            since: patience.since,
            searched,
        })
    }

    pub fn searched(&self) -> Searched {
        self.searched.lock().clone()
    }

    fn note(&self, batch: &[StoredMessage]) {
        let mut searched = self.searched.lock();
        searched.events += batch.len() as u64;
        for found in batch.first().into_iter().chain(batch.last()) {
            searched.back_to = Some(
                searched
                    .back_to
                    .map_or(found.time, |known| known.min(found.time)),
            );
            searched.up_to = Some(
                searched
                    .up_to
                    .map_or(found.time, |known| known.max(found.time)),
            );
        }
    }

    /// Whether to give up; that it was given up is noted.
    fn is_late(&self) -> bool {
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline);
        if late {
            self.searched.lock().cut = true;
        }
        late
    }

    /// The event of an id, or one of a flow of that id. `emitted` are the types that functions emit.
    pub async fn find(
        &self,
        id: &str,
        emitted: &BTreeSet<String>,
    ) -> Result<Option<Hit>, BusError> {
        if let Some(hit) = self.by_place(id).await? {
            return Ok(Some(hit));
        }
        if let Some(time) = time_of(id) {
            return self.around(id, time).await;
        }
        let subjects = if is_output_id(id) && !emitted.is_empty() {
            self.subjects(emitted)
        } else {
            self.everything()
        };
        let back = subjects
            .into_iter()
            .map(|(stream, subject)| self.backwards(stream, subject, id));
        let (by_mark, message_by_message) =
            (pin!(self.by_mark(id, emitted)), first(back.collect()));
        match select(by_mark, pin!(message_by_message)).await {
            Either::Left((Ok(None), message_by_message)) => message_by_message.await,
            Either::Left((found, _)) | Either::Right((found, _)) => found,
        }
    }

    /// `<stream>:<creation time>:<sequence>`, the identity of messages that brought none.
    async fn by_place(&self, id: &str) -> Result<Option<Hit>, BusError> {
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
        let found = self.bus.read_message(name, sequence).await?;
        Ok(found.and_then(|found| stream.hit(found)))
    }

    /// In whichever stream took it about `time`.
    pub async fn around(&self, id: &str, time: u64) -> Result<Option<Hit>, BusError> {
        for (before, after) in WINDOWS {
            let near = self
                .streams
                .iter()
                .map(|stream| self.near(stream, id, time.saturating_sub(before), time + after));
            if let Some(hit) = first(near.collect()).await? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    async fn near(
        &self,
        stream: &Extent,
        id: &str,
        from: u64,
        to: u64,
    ) -> Result<Option<Hit>, BusError> {
        let mut slice = Slice {
            from: 0,
            since: Some(from),
            subject: ">",
            messages: BATCH,
            bytes: BYTES,
        };
        loop {
            let batch = self.bus.read_slice(&stream.name, &slice).await?;
            self.note(&batch);
            let Some(end) = batch.last().map(|last| (last.sequence, last.time)) else {
                return Ok(None);
            };
            if let Some(hit) = batch
                .into_iter()
                .find_map(|found| stream.hit_if(found, |m| m.id == id, id, ""))
            {
                return Ok(Some(hit));
            }
            if end.0 >= stream.last || end.1 > to || self.is_late() {
                return Ok(None);
            }
            (slice.from, slice.since) = (end.0 + 1, None);
        }
    }

    async fn backwards(
        &self,
        stream: &Extent,
        subject: String,
        id: &str,
    ) -> Result<Option<Hit>, BusError> {
        let (mut end, mut width, mut past) = (stream.last + 1, BATCH as u64, false);
        while end > stream.first && !past && !self.is_late() {
            let begin = end.saturating_sub(width).max(stream.first);
            let (mut next, mut read, mut hit) = (begin, 0, None);
            while next < end {
                let slice = Slice {
                    from: next,
                    since: None,
                    subject: &subject,
                    messages: BATCH,
                    bytes: BYTES,
                };
                let mut batch = self.bus.read_slice(&stream.name, &slice).await?;
                batch.retain(|found| found.sequence < end);
                self.note(&batch);
                let Some(last) = batch.last() else { break };
                past |= last.time < self.since;
                (next, read) = (last.sequence + 1, read + batch.len());
                // The event itself, rather than one that only tells that there is such a flow.
                for found in batch
                    .into_iter()
                    .filter_map(|f| stream.hit_if(f, |m| m.id == id || m.flow == id, id, id))
                {
                    if hit.is_none() || found.incoming.meta.id == id {
                        hit = Some(found);
                    }
                }
            }
            if hit.is_some() {
                return Ok(hit);
            }
            // Where few messages are of these types, further at a time.
            width = if read < BATCH / 2 {
                width * 4
            } else {
                BATCH as u64
            };
            end = begin;
        }
        Ok(None)
    }

    /// Events of a flow that came at `since` (Unix ms) or later, of these types; of all where they are not known.
    async fn members(
        &self,
        flow: &str,
        since: u64,
        types: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Hit>, BusError> {
        let subjects = types.map_or_else(|| self.everything(), |types| self.subjects(types));
        let read = subjects
            .into_iter()
            .map(|(stream, subject)| self.forwards(stream, subject, flow, since));
        Ok(try_join_all(read).await?.into_iter().flatten().collect())
    }

    async fn forwards(
        &self,
        stream: &Extent,
        subject: String,
        flow: &str,
        since: u64,
    ) -> Result<Vec<Hit>, BusError> {
        let mut slice = Slice {
            from: 0,
            since: Some(since),
            subject: &subject,
            messages: BATCH,
            bytes: BYTES,
        };
        let mut hits = Vec::new();
        loop {
            let batch = self.bus.read_slice(&stream.name, &slice).await?;
            self.note(&batch);
            let Some(end) = batch.last().map(|last| last.sequence) else {
                return Ok(hits);
            };
            hits.extend(
                batch
                    .into_iter()
                    .filter_map(|found| stream.hit_if(found, |m| m.flow == flow, "", flow)),
            );
            if end >= stream.last || self.is_late() {
                return Ok(hits);
            }
            (slice.from, slice.since) = (end + 1, None);
        }
    }

    fn everything(&self) -> Vec<(&Extent, String)> {
        self.streams
            .iter()
            .map(|stream| (stream, ">".to_owned()))
            .collect()
    }

    /// Each type's bare subject, and those with a key.
    fn subjects(&self, types: &BTreeSet<String>) -> Vec<(&Extent, String)> {
        let both = types
            .iter()
            .flat_map(|ty| [(ty, ty.clone()), (ty, format!("{ty}.*"))]);
        let of = |ty: &str| {
            self.streams
                .iter()
                .find(|stream| stream.name == stream_of_type(ty))
        };
        both.filter_map(|(ty, subject)| Some((of(ty)?, subject)))
            .collect()
    }
}

impl Hit {
    /// What the event is about; empty where it cannot be told.
    pub fn key(&self, catalog: &Catalog) -> String {
        let entry = catalog.get(&self.incoming.meta.ty);
        entry
            .and_then(|entry| entry.check(self.incoming.format, &self.incoming.payload))
            .unwrap_or_default()
    }

    /// As a flow has it; who acts on it is not told. Its time is when it was stored: an output's own is that of its cause.
    pub fn event(&self, catalog: &Catalog) -> FlowEvent {
        let meta = &self.incoming.meta;
        FlowEvent {
            id: meta.id.clone(),
            ty: meta.ty.clone(),
            key: self.key(catalog),
            source: meta.source.clone(),
            cause: meta.cause.clone(),
            time: self.found.time,
            ..FlowEvent::default()
        }
    }
}

impl Extent {
    fn hit(&self, found: StoredMessage) -> Option<Hit> {
        let incoming = found.read(&self.name, self.created).ok()?;
        Some(Hit {
            stream: self.name.clone(),
            found,
            incoming,
        })
    }

    /// Most messages say in their headers that they are not the ones: those are not read.
    fn hit_if(
        &self,
        found: StoredMessage,
        is: impl Fn(&event::Meta) -> bool,
        id: &str,
        flow: &str,
    ) -> Option<Hit> {
        let says = |name: &str| found.header(name).map(event::percent_decode);
        let other = |name: &str, wanted: &str| {
            says(name).is_some_and(|said| said.as_deref() != Some(wanted))
        };
        if other("ce-id", id) && other("ce-flowid", flow) {
            return None;
        }
        // What was redriven has been there before, as it first came.
        self.hit(found)
            .filter(|hit| is(&hit.incoming.meta) && hit.incoming.meta.redrive.is_none())
    }
}

/// The first that is found; the others are not waited for.
async fn first<F>(mut looking: FuturesUnordered<F>) -> Result<Option<Hit>, BusError>
where
    F: Future<Output = Result<Option<Hit>, BusError>>,
{
    while let Some(found) = looking.try_next().await? {
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Types an event can lead to, by what functions say they act on and emit.
fn reachable<'c>(functions: &[Cue<'c>], root: &'c str) -> BTreeSet<String> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(ty) = next.pop() {
        for (_, emits) in functions
            .iter()
            .filter(|(triggers, _)| triggers.iter().any(|trigger| trigger == ty))
        {
            next.extend(
                emits
                    .iter()
                    .filter(|ty| reached.insert((*ty).clone()))
                    .map(String::as_str),
            );
        }
    }
    reached
}

/// Unix milliseconds of a UUID of version 7, written with or without hyphens.
pub fn time_of(id: &str) -> Option<u64> {
    let hex: String = id.chars().filter(|c| *c != '-').collect();
    let is =
        hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && hex.as_bytes()[12] == b'7';
    let time = u64::from_str_radix(hex.get(..12).filter(|_| is)?, 16).ok()?;
    // Before 2020 or far in the future it is a number like any other.
    (1_577_836_800_000..event::now_ms() + 86_400_000)
        .contains(&time)
        .then_some(time)
}

/// Whether an id has the form of what [`event::output_id`] makes.
fn is_output_id(id: &str) -> bool {
    id.len() == 22
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests;
