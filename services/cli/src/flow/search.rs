//! A flow without a ledger, put together again from what is left of it: events in the streams by their flow and cause,
//! what consumers have acknowledged, and dead letters.

use std::collections::BTreeMap;

use oncue::bus::layout::{DLQ, TIMER};
use oncue::bus::{Bus, Found};
use oncue::dlq::{self, Letter};
use oncue::event::{self, Meta, Origin};
use oncue::flow::{Flow, FlowEvent, Step, StepState, tree};
use oncue_proto::Catalog;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;
use crate::paint::{number, progress};
use crate::{ps, when};

/// Read backwards at a time.
const WINDOW: u64 = 8192;
/// Clocks of those who made an id and of the server may differ by this much.
const SLACK_MS: u64 = 60_000;

/// How far the search went.
#[derive(Debug, Default, Serialize)]
pub struct Searched {
    pub streams: Vec<String>,
    pub events: u64,
    /// Unix milliseconds of the oldest event looked at.
    pub back_to: Option<u64>,
    /// There was nothing older to look at.
    pub to_the_beginning: bool,
}

impl std::fmt::Display for Searched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} events of {} were searched", number(self.events), self.streams.join(", "))?;
        match self.back_to {
            Some(ms) => write!(f, ", back to {}", event::format_time(ms))?,
            None => write!(f, ", which hold none since then")?,
        }
        if self.to_the_beginning { f.write_str(" (all they hold)") } else { Ok(()) }
    }
}

/// A stream as it stood when the search began.
struct Extent {
    name: String,
    created: u64,
    first: u64,
    last: u64,
}

/// One event of the flow, and where it lies.
struct Member {
    stream: usize,
    found: Found,
    meta: Meta,
    key: String,
}

struct Search<'s> {
    bus: &'s Bus,
    catalog: &'s Catalog,
    streams: Vec<Extent>,
    searched: Searched,
}

/// The flow of an event, as far as the streams still hold it.
pub async fn rebuild(
    bus: &Bus,
    catalog: &Catalog,
    id: &str,
    since: Option<u64>,
) -> Result<(Option<Flow>, Searched), Failure> {
    let mut search = Search { bus, catalog, streams: Vec::new(), searched: Searched::default() };
    search.open().await?;
    // An id of ours says when its flow began; any other is searched from the newest event backwards.
    let started = time_of(id).map(|ms| ms.saturating_sub(SLACK_MS));
    let (flow, from) = match started {
        Some(from) => (id.to_owned(), from.max(since.unwrap_or(0))),
        None => match search.flow_of(id, since.unwrap_or(0)).await? {
            Some(flow) => {
                let from = time_of(&flow).map_or(0, |ms| ms.saturating_sub(SLACK_MS));
                (flow, from.max(since.unwrap_or(0)))
            }
            None => return Ok((None, search.done())),
        },
    };
    let members = search.members(&flow, from).await?;
    let built = if members.is_empty() { None } else { Some(build(bus, &search.streams, &flow, members).await?) };
    Ok((built, search.done()))
}

/// When an id was made, if it is one of ours: UUID version 7 without hyphens.
fn time_of(id: &str) -> Option<u64> {
    let ours = id.len() == 32 && id.as_bytes()[12] == b'7' && id.bytes().all(|b| b.is_ascii_hexdigit());
    if ours { u64::from_str_radix(&id[..12], 16).ok() } else { None }
}

impl Search<'_> {
    async fn open(&mut self) -> Result<(), Failure> {
        for name in ps::streams(self.bus).await?.into_iter().filter(|name| name != DLQ && name != TIMER) {
            let info = self.bus.api(&format!("STREAM.INFO.{name}"), &Value::Null).await.map_err(Failure::silent)?;
            let state = |field: &str| info["state"][field].as_u64().unwrap_or(0);
            let created = info["created"].as_str().and_then(event::parse_time).unwrap_or(0);
            self.streams.push(Extent { created, first: state("first_seq").max(1), last: state("last_seq"), name });
        }
        self.searched.streams = self.streams.iter().map(|stream| stream.name.clone()).collect();
        Ok(())
    }

    fn done(self) -> Searched {
        progress("");
        self.searched
    }

    /// Goes back from the newest events of all streams until one has this id or belongs to this flow.
    async fn flow_of(&mut self, id: &str, since: u64) -> Result<Option<String>, Failure> {
        let mut ends: Vec<u64> = self.streams.iter().map(|stream| stream.last + 1).collect();
        loop {
            let mut any = false;
            for at in 0..ends.len() {
                let first = self.streams[at].first;
                if ends[at] <= first {
                    continue;
                }
                any = true;
                let start = ends[at].saturating_sub(WINDOW).max(first);
                let (mut flow, mut oldest) = (None, u64::MAX);
                self.scan(at, start, ends[at], |found, meta| {
                    oldest = oldest.min(found.time);
                    if meta.id == id || meta.flow == id {
                        flow = Some(meta.flow.clone());
                    }
                })
                .await?;
                if flow.is_some() {
                    return Ok(flow);
                }
                ends[at] = if oldest < since { first } else { start };
            }
            if !any {
                self.searched.to_the_beginning = since == 0;
                return Ok(None);
            }
        }
    }

    /// All events of a flow that came at `from` (Unix ms) or later.
    async fn members(&mut self, flow: &str, from: u64) -> Result<Vec<Member>, Failure> {
        let mut members = Vec::new();
        for at in 0..self.streams.len() {
            let (name, last) = (self.streams[at].name.clone(), self.streams[at].last);
            let first = self.bus.first_since(&name, from).await.map_err(Failure::silent)?;
            let Some(first) = first else { continue };
            let catalog = self.catalog;
            self.scan(at, first, last + 1, |found, meta| {
                if meta.flow == flow {
                    let key = key_of(catalog, found, meta);
                    members.push(Member { stream: at, found: found.clone(), meta: meta.clone(), key });
                }
            })
            .await?;
        }
        if from == 0 {
            self.searched.to_the_beginning = true;
        }
        Ok(members)
    }

    /// Reads `[from, to)` of one stream.
    async fn scan(
        &mut self,
        at: usize,
        from: u64,
        to: u64,
        mut visit: impl FnMut(&Found, &Meta),
    ) -> Result<(), Failure> {
        let (name, created) = (self.streams[at].name.clone(), self.streams[at].created);
        let mut next = from;
        while next < to {
            let batch = self.bus.read_stream(&name, next).await.map_err(Failure::silent)?;
            let Some(last) = batch.last() else { break };
            next = last.sequence + 1;
            for found in batch.iter().filter(|found| found.sequence < to) {
                self.searched.events += 1;
                self.searched.back_to = Some(self.searched.back_to.map_or(found.time, |back| back.min(found.time)));
                visit(found, &read(&name, created, found));
            }
            let ago = when::ago(last.time, event::now_ms());
            progress(format_args!(
                "searching {name}: {} events so far, now at {ago} ago",
                number(self.searched.events)
            ));
        }
        Ok(())
    }
}

fn read(stream: &str, created: u64, found: &Found) -> Meta {
    let origin = Origin {
        stream,
        stream_created: created,
        sequence: found.sequence,
        published: found.time,
        subject: &found.subject,
    };
    let headers = found.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    event::read(headers, found.payload.clone(), &origin)
        .map_or_else(|_| Meta::of_origin(&origin), |incoming| incoming.meta)
}

fn key_of(catalog: &Catalog, found: &Found, meta: &Meta) -> String {
    if let Some(key) = found.header("ce-partitionkey").and_then(event::percent_decode) {
        return key;
    }
    let format = oncue_proto::Format::sniff(&found.payload);
    catalog.get(&meta.ty).ok().and_then(|entry| entry.check(format, &found.payload).ok()).unwrap_or_default()
}

async fn build(bus: &Bus, streams: &[Extent], flow: &str, members: Vec<Member>) -> Result<Flow, Failure> {
    let consumers = ps::consumers(bus).await?;
    let letters = dlq::all(bus).await.map_err(Failure::silent)?;
    let letters: BTreeMap<(&str, &str), &Letter> = letters
        .iter()
        .filter(|letter| letter.content.flow_id == flow)
        .map(|letter| ((letter.content.event_id.as_str(), letter.content.function.as_str()), letter))
        .collect();
    let mut events = Vec::with_capacity(members.len());
    for member in &members {
        let stream = &streams[member.stream].name;
        let mut steps: Vec<Step> = consumers
            .iter()
            .filter(|(_, (of, info))| of == stream && acts_on(info, &member.found))
            .map(|(function, (_, info))| {
                let emitted = emitted(&members, &member.meta.id, function);
                step(function, info, member, emitted, letters.get(&(&*member.meta.id, function)).copied())
            })
            .collect();
        steps.sort_by(|a, b| a.function.cmp(&b.function));
        let Meta { id, ty, source, cause, time, .. } = member.meta.clone();
        events.push(FlowEvent { id, ty, key: member.key.clone(), source, cause, time, depth: 0, steps });
    }
    let started = events.iter().map(|event| event.time).min().unwrap_or(0);
    let open = events.iter().flat_map(|event| &event.steps).filter(|step| step.state.is_open()).count() as u64;
    Ok(Flow { id: flow.to_owned(), open, started, ended: None, events: tree(events) })
}

/// When the first event that a function has made of this one came.
fn emitted(members: &[Member], cause: &str, function: &str) -> Option<u64> {
    let own = members.iter().filter(|m| m.meta.cause == cause && m.meta.source.strip_prefix('/') == Some(function));
    own.map(|member| member.found.time).min()
}

/// Whether a consumer ever got, or will get, a message.
fn acts_on(info: &Value, found: &Found) -> bool {
    let config = &info["config"];
    let filters = config["filter_subjects"].as_array().into_iter().flatten().chain([&config["filter_subject"]]);
    let mut filters = filters.filter_map(Value::as_str).filter(|filter| !filter.is_empty());
    let created = info["created"].as_str().and_then(event::parse_time).unwrap_or(0);
    filters.any(|filter| matches(filter, &found.subject))
        && (config["deliver_policy"] != "new" || found.time >= created)
}

fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(found)) if token == "*" || token == found => {}
            _ => return false,
        }
    }
}

fn step(function: &str, info: &Value, member: &Member, emitted: Option<u64>, letter: Option<&Letter>) -> Step {
    let place = |field: &str| info[field]["stream_seq"].as_u64().unwrap_or(0);
    let sequence = member.found.sequence;
    let state = match letter {
        Some(_) => StepState::Dead,
        None if emitted.is_some() || sequence <= place("ack_floor") => StepState::Done,
        None if sequence <= place("delivered") => StepState::Running,
        None => StepState::Pending,
    };
    let died = letter.map(|letter| when::ms(letter.content.at.as_ref()));
    Step {
        function: function.to_owned(),
        state,
        since: member.meta.time,
        started: None,
        ended: died.or(emitted).filter(|_| !state.is_open()),
        attempts: letter.map_or(0, |letter| letter.content.attempts),
        failed: died,
        why: letter.map(|letter| letter.content.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_ids_say_when_they_were_made() {
        let made = time_of(&event::new_id()).unwrap();
        assert!(event::now_ms() - made < 1000);
        for other in ["", "order-17", &"z".repeat(32), "0190b4ae-91f3-7cc1-8d4e-0d1f2a3b4c5d", &"a".repeat(32)] {
            assert_eq!(time_of(other), None, "{other}");
        }
    }

    #[test]
    fn filters_are_matched_as_the_server_does() {
        assert!(matches("web.page.viewed", "web.page.viewed") && matches("web.page.viewed.*", "web.page.viewed.home"));
        assert!(matches("files.>", "files.file.removed.x") && !matches("files.>", "files"));
        assert!(
            !matches("web.page.viewed.*", "web.page.viewed") && !matches("web.page.viewed", "web.page.viewed.home")
        );
    }
}
