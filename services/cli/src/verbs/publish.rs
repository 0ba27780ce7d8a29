//! `oncue pub TYPE JSON`: publishes events made by hand or read from lines, each checked against the contract before
//! anything is sent.

use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use oncue_admin::flows::{HandMadeEvent, Hold, Sender};
use oncue_core::agreement;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::{Bus, PubAck, PublishError};
use oncue_core::config::Bounds;
use oncue_core::store::{Mark, MarkState, Store};
use oncue_proto::oncue::v1::Envelope;
use oncue_proto::{Entry, Format, event};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::flow::tree;
use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, CHANGED, DIM, NAME, number, paint, remark, say};

/// Source of events made here, as CloudEvents have it.
pub const SOURCE: &str = "/oncue/cli";
/// Publishes under way at a time: enough to hide the round trip, few enough to stop soon.
const MAX_UNACKED: usize = 256;
/// Events up to which each has a line; more of them would hide what matters.
const MAX_EVENT_LINES: u64 = 20;
/// Time after which an event is given up that no stream has acked.
const GIVE_UP: Duration = Duration::from_mins(1);
/// Pause before an event is published again.
const PUBLISH_AGAIN: Duration = Duration::from_millis(500);
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at the consumers under `--wait`.
/// A question for each look and consumer, so not shorter than a person notices.
const CONSUMER_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Looks at marks that are not there yet, and the pause between two.
const LOOKS: usize = 25;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Fewest events a second: a longer pause between two is a schedule's business.
const MIN_RATE: f64 = 0.001;
/// Longest wait for functions, in seconds.
const MAX_WAIT: u64 = 24 * 60 * 60;

#[derive(clap::Args)]
pub struct Args {
    /// Event type, such as web.page.viewed.
    #[arg(value_name = "TYPE")]
    ty: String,
    /// The payload as JSON. `-`, or nothing on a pipe: one JSON object per line from stdin.
    #[arg(value_name = "JSON")]
    payload: Option<String>,
    /// Publish it this many times, as so many events.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Publish at most this many a second.
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Event id. Default: a new one. An id that was published before is the same event and counts once.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Ids of lines from stdin, or of copies: PREFIX and the number of the line, `PREFIX-1`. Then the same lines can be published
    /// once more, and count once.
    #[arg(long, value_name = "PREFIX", conflicts_with = "id")]
    id_prefix: Option<String>,
    /// Wait until every function that acts on the event has finished it, for at most this many seconds; where its flow has a
    /// ledger (`[flows] track`), until the whole flow is over.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", value_parser = seconds)]
    wait: Option<u64>,
    /// Keep the payload as JSON. Default: protobuf.
    #[arg(long)]
    json_payload: bool,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

/// Number of things a second, for a clap argument. A lower one makes a pause that no clock can count.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| rate.is_finite() && *rate >= MIN_RATE)
        .ok_or_else(|| format!("write a number a second, {MIN_RATE} at least"))
}

fn seconds(text: &str) -> Result<u64, String> {
    let seconds: Option<u64> = text.parse().ok();
    seconds
        .filter(|seconds| *seconds <= MAX_WAIT)
        .ok_or_else(|| format!("write whole seconds, {MAX_WAIT} (a day) at most"))
}

/// Event the stream has taken.
struct PublishedEvent {
    /// As in [`Draft`].
    number: usize,
    id: String,
    trace: String,
    ack: PubAck,
}

/// Line of stdin with its number, from 1.
struct InputLine {
    number: usize,
    text: std::io::Result<String>,
}

/// Payload, and its place.
struct Draft {
    /// Number of its line, or of the copy; from 1.
    number: usize,
    payload: Value,
}

/// Event that was not acked.
struct Unpublished {
    /// As in [`Draft`].
    number: usize,
    /// Whether a stream may have it all the same.
    is_unknown: bool,
    failure: Failure,
}

impl Draft {
    /// The event, which no stream has.
    fn refused(&self, failure: Failure) -> Unpublished {
        Unpublished {
            number: self.number,
            is_unknown: false,
            failure,
        }
    }
}

/// Outcome of publishing: how many events, and the ack with the highest sequence.
#[derive(Default)]
struct PublishTotal {
    events: u64,
    /// Ids of the events, where their outcome is waited for.
    ids: Vec<String>,
    last: Option<PubAck>,
    /// Highest number of one that was acked.
    furthest: usize,
}

/// Mistakes in the arguments are found before a server is asked; from the first ack on there is no way back.
pub async fn run(args: Args, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let entry = catalog.get(&args.ty).map_err(Failure::usage)?.clone();
    let from_stdin = match args.payload.as_deref() {
        Some("-") => true,
        None if !std::io::stdin().is_terminal() => true,
        None => return Err(Failure::usage("no payload").advise(example(&entry))),
        Some(_) => false,
    };
    // Many lines under one id would be one event.
    if from_stdin && (args.id.is_some() || args.count != 1) {
        return Err(Failure::usage(
            "--id and --count go with one payload, not with lines from stdin (--id-prefix gives each an id)",
        ));
    }
    // The one payload is checked before NATS is even looked for.
    let payload = if from_stdin {
        None
    } else {
        let text = args.payload.as_deref().unwrap_or_default();
        Some(checked(&entry, text, None)?)
    };
    let bus = settings.bus().await?;
    let publisher = Publisher {
        args: &args,
        entry: &entry,
        bounds: &settings.config.bounds,
        bus: &bus,
        is_over: Cell::new(false),
        begun: Cell::new(0),
        has_acks: Cell::new(false),
    };
    let total = publisher.all(payload).await?;
    if let (Some(seconds), Some(last)) = (args.wait, &total.last) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let functions = wait(&bus, &args.ty, last, seconds, deadline).await?;
        let store = settings.store().await?;
        let code = outcome(&args.ty, &functions, &total.ids, &store).await?;
        let flows = Flows {
            bus: &bus,
            store: &store,
        };
        return Ok(code.max(flows.over(&total.ids, seconds, deadline).await?));
    }
    if total.events == 0 {
        remark("nothing to publish: stdin was empty");
    }
    Ok(exit::OK)
}

/// Publishing of the events of one command.
struct Publisher<'p> {
    args: &'p Args,
    entry: &'p Entry,
    bounds: &'p Bounds,
    bus: &'p Bus,
    /// Whether no further event is begun, since one was refused or given up.
    is_over: Cell<bool>,
    /// Events that were begun.
    begun: Cell<usize>,
    /// Whether a stream has taken one.
    has_acks: Cell<bool>,
}

impl Publisher<'_> {
    /// Publishes with many under way, prints as acks come, and begins no further event after the first that is refused or given up.
    async fn all(&self, payload: Option<Value>) -> Result<PublishTotal, Failure> {
        let args = self.args;
        let started = Instant::now();
        let is_from_stdin = payload.is_none();
        let one_line = args.json || is_from_stdin || args.count <= MAX_EVENT_LINES;
        let events = match payload {
            Some(payload) => stream::iter(1..=args.count as usize)
                .map(move |number| {
                    let payload = payload.clone();
                    Ok(Draft { number, payload })
                })
                .boxed_local(),
            None => payloads_of_stdin(self.entry).boxed_local(),
        };
        let mut acks = events
            .take_while(|_| std::future::ready(!self.is_over.get()))
            .enumerate()
            .map(async |(nth, draft)| {
                self.begun.set(self.begun.get() + 1);
                if let Some(rate) = args.rate {
                    // By its number and not by the last one: a slow ack does not lower the rate of those behind it.
                    let due = started + Duration::from_secs_f64(nth as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                if self.is_over.get() {
                    return None;
                }
                let published = match draft {
                    Ok(draft) => self.one(&draft).await,
                    Err(unpublished) => Err(unpublished),
                };
                if published.is_err() {
                    self.is_over.set(true);
                }
                Some(published)
            })
            .buffered(MAX_UNACKED);
        let mut total = PublishTotal::default();
        let mut unpublished = Vec::new();
        let mut progress_shown = Instant::now();
        let mut ended = 0;
        while let Some(published) = acks.next().await {
            ended += 1;
            let published = match published {
                Some(Ok(published)) => published,
                // What is under way behind it comes to its own end.
                not => {
                    unpublished.extend(not.and_then(Result::err));
                    if self.has_ended(ended) {
                        break;
                    }
                    continue;
                }
            };
            total.events += 1;
            total.furthest = total.furthest.max(published.number);
            if args.wait.is_some() {
                total.ids.push(published.id.clone());
            }
            if one_line {
                say(line(args, &published));
            } else if progress_shown.elapsed() > PROGRESS_INTERVAL {
                progress_shown = Instant::now();
                remark(progress(total.events, started.elapsed()));
            }
            // Duplicates have the place of their first copy, so the last ack is not always the furthest.
            total.last = total
                .last
                .filter(|last| last.sequence > published.ack.sequence)
                .or(Some(published.ack));
            if self.has_ended(ended) {
                break;
            }
        }
        if !one_line {
            say(progress(total.events, started.elapsed()));
        }
        if unpublished.is_empty() {
            return Ok(total);
        }
        Err(self.stopped(&total, unpublished, is_from_stdin))
    }

    /// Whether all that was begun has ended, and nothing more is begun: then no further line of stdin is waited for.
    fn has_ended(&self, ended: usize) -> bool {
        self.is_over.get() && ended == self.begun.get()
    }

    /// Failure of the first event that was not acked, with what became of all others: what is acked is acked, whatever came before.
    fn stopped(
        &self,
        total: &PublishTotal,
        unpublished: Vec<Unpublished>,
        is_from_stdin: bool,
    ) -> Failure {
        let unknown = numbers(&unpublished, true);
        let refused = numbers(&unpublished, false);
        let furthest = unpublished.iter().map(|event| event.number).max();
        let furthest = furthest.unwrap_or(0).max(total.furthest);
        let mut failures = unpublished.into_iter().map(|event| event.failure);
        let Some(failure) = failures.next() else {
            return Failure::failed("nothing was published");
        };
        if total.events == 0 && unknown.is_empty() {
            return failure;
        }
        if !is_from_stdin && self.args.count == 1 {
            return failure.advise("it may have been stored all the same");
        }
        let word = if is_from_stdin { "lines" } else { "copies" };
        let mut told = vec![format!("acked: {} {word}", number(total.events))];
        if !unknown.is_empty() {
            let unknown = ranges(&unknown);
            told.push(format!("not acked, and maybe stored: {word} {unknown}"));
        }
        if !refused.is_empty() {
            told.push(format!("not stored: {word} {}", ranges(&refused)));
        }
        told.push(format!("nothing behind number {furthest} was sent"));
        let again = match self.args.id_prefix {
            Some(_) => "publish all of it again with the same --id-prefix: each counts once",
            None => {
                "with --id-prefix all of it could be published again, and each would count once"
            }
        };
        failure.advise(format!("{}\n  {again}", told.join("; ")))
    }

    /// Publishes one event and waits for its ack, which says that the stream has it.
    async fn one(&self, draft: &Draft) -> Result<PublishedEvent, Unpublished> {
        let Self {
            args, entry, bus, ..
        } = self;
        let numbered = args.id_prefix.as_ref();
        let numbered = numbered.map(|prefix| format!("{prefix}-{}", draft.number));
        let traceparent = given_trace();
        let sender = Sender {
            source: SOURCE,
            id: args.id.as_deref().or(numbered.as_deref()),
            traceparent: traceparent.as_deref(),
            format: if args.json_payload {
                Format::Json
            } else {
                Format::Protobuf
            },
        };
        let made = sender.event(entry, &draft.payload, self.bounds);
        let HandMadeEvent {
            id,
            trace,
            envelope,
        } = made.map_err(|why| draft.refused(Failure::usage(why)))?;
        let ack = self.acked(&envelope).await.map_err(|e| Unpublished {
            number: draft.number,
            is_unknown: matches!(e, PublishError::Unknown(_)),
            failure: Failure::failed(format_args!("event {id}: {e}")),
        })?;
        if ack.duplicate {
            // As far as the stream still holds it.
            let earlier = bus.message_at(&ack.stream, ack.sequence).await;
            let earlier = earlier.map_err(|e| draft.refused(Failure::silent(e)))?;
            if earlier.is_some_and(|earlier| earlier.payload != envelope.payload) {
                return Err(draft.refused(
                    Failure::failed(format_args!(
                        "id {id:?} belongs to an event with another content; nothing was taken"
                    ))
                    .advise("an id names one event for ever; leave --id out for a new one"),
                ));
            }
        }
        self.has_acks.set(true);
        Ok(PublishedEvent {
            number: draft.number,
            id,
            trace,
            ack,
        })
    }

    /// Publishes until a stream has acked it. What is under way while NATS is away is stored or not, and goes out again under its id,
    /// of which a second copy counts nothing; it is given up after [`GIVE_UP`], or once another event was.
    async fn acked(&self, envelope: &Envelope) -> Result<PubAck, PublishError> {
        let end = Instant::now() + GIVE_UP;
        let mut unknown = None;
        loop {
            let why = match self.bus.publish(envelope).await {
                Err(why @ (PublishError::Unknown(_) | PublishError::Unable(_))) => why,
                // A server that is just starting has its streams a moment later.
                Err(why @ PublishError::NoStream(_))
                    if self.has_acks.get() || unknown.is_some() =>
                {
                    why
                }
                Err(why) => return Err(unknown.unwrap_or(why)),
                Ok(ack) => return Ok(ack),
            };
            // Once it may have been stored, no later refusal says that it was not.
            if matches!(why, PublishError::Unknown(_)) {
                unknown = Some(why.clone());
            }
            if Instant::now() > end || self.is_over.get() {
                return Err(unknown.unwrap_or(why));
            }
            tokio::time::sleep(PUBLISH_AGAIN).await;
        }
    }
}

/// Numbers of those whose outcome is unknown, or of the others.
fn numbers(events: &[Unpublished], is_unknown: bool) -> Vec<usize> {
    let these = events.iter().filter(|event| event.is_unknown == is_unknown);
    these.map(|event| event.number).collect()
}

/// Numbers in rising order as text, `3, 7 to 9`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let runs = runs.filter_map(|run| match run {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first} to {last}")),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Line of progress: the mean rate from the start, not that of the last second.
fn progress(total: u64, elapsed: Duration) -> String {
    let rate = total as f64 / elapsed.as_secs_f64().max(0.001);
    format!("{} published, {}/s", number(total), number(rate as u64))
}

/// Event as a line. A hand-made event begins its own flow, so its id is the flow's id too.
fn line(args: &Args, published: &PublishedEvent) -> String {
    let PublishedEvent { id, trace, ack, .. } = published;
    if args.json {
        return json!({
            "id": id,
            "flow": id,
            "trace": trace,
            "stream": ack.stream,
            "seq": ack.sequence,
            "duplicate": ack.duplicate,
        })
        .to_string();
    }
    let known = if ack.duplicate {
        " (this id was published before; it counts once)"
    } else {
        ""
    };
    let [id_word, flow, trace_word] = ["id", "flow", "trace"].map(|word| paint(DIM, word));
    format!(
        "{id_word} {} {flow} {id} {trace_word} {trace} {}/{}{known}",
        paint(NAME, id),
        ack.stream,
        ack.sequence
    )
}

/// Checked payloads of the lines that are not empty.
fn payloads_of_stdin(entry: &Entry) -> impl Stream<Item = Result<Draft, Unpublished>> {
    lines_of_stdin()
        .filter(|line| {
            let empty = line.text.as_ref().is_ok_and(|text| text.trim().is_empty());
            std::future::ready(!empty)
        })
        .map(move |InputLine { number, text }| {
            let payload = match text {
                Ok(text) => checked(entry, &text, Some(number)),
                Err(e) => Err(Failure::failed(format_args!("stdin: {e}"))),
            };
            match payload {
                Ok(payload) => Ok(Draft { number, payload }),
                Err(failure) => Err(Unpublished {
                    number,
                    is_unknown: false,
                    failure,
                }),
            }
        })
}

/// Lines as they come: a pipe that trickles is published as it trickles, so reading, which blocks, has a thread of
/// its own.
fn lines_of_stdin() -> impl Stream<Item = InputLine> {
    let (sender, receiver) = mpsc::channel(MAX_UNACKED);
    std::thread::spawn(move || {
        for (number, text) in (1..).zip(std::io::stdin().lines()) {
            // The other end is gone after a refusal.
            if sender.blocking_send(InputLine { number, text }).is_err() {
                return;
            }
        }
    });
    stream::unfold(receiver, async |mut receiver| {
        let line = receiver.recv().await?;
        Some((line, receiver))
    })
}

/// Payload as JSON, if the contract takes it.
fn checked(entry: &Entry, text: &str, line: Option<usize>) -> Result<Value, Failure> {
    entry.read_by_hand(text).map_err(|why| {
        let place = line.map_or_else(String::new, |n| format!("line {n}: "));
        Failure::usage(format_args!("{place}{why}")).advise(example(entry))
    })
}

/// Command line with the fields of the type, for a caller who does not know them.
fn example(entry: &Entry) -> String {
    let fields: Vec<String> = entry
        .field_names()
        .map(|name| format!("{name:?}: ..."))
        .collect();
    format!(
        "for example: oncue pub {} '{{{}}}'",
        entry.ty,
        fields.join(", ")
    )
}

/// Trace of the caller, which the event goes on with.
pub fn given_trace() -> Option<String> {
    std::env::var("TRACEPARENT").ok().filter(|t| !t.is_empty())
}

/// Says what the functions have made of the events, by their seen-marks: that all are past them is not yet success.
async fn outcome(
    ty: &str,
    functions: &[String],
    ids: &[String],
    store: &Store,
) -> Result<u8, Failure> {
    if functions.is_empty() {
        remark(paint(CHANGED, format_args!("no function acts on {ty}")));
        return Ok(exit::OK);
    }
    let mut failed = false;
    for function in functions {
        let name: Arc<str> = function.as_str().into();
        let marks: Vec<Mark> = ids.iter().map(|id| Mark::of_id(&name, id)).collect();
        let mut states = store.settled(&marks).await.map_err(Failure::silent)?;
        // A consumer that seems to be past an event may not have heard of it yet, where its server follows another.
        for _ in 0..LOOKS {
            if states.iter().all(Option::is_some) {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            states = store.settled(&marks).await.map_err(Failure::silent)?;
        }
        let unmarked = states.iter().filter(|state| state.is_none()).count();
        if unmarked > 0 {
            failed = true;
            remark(format_args!(
                "{function}: {} of {} left no mark, and may not have been handled; see `oncue audit`",
                number(unmarked as u64),
                number(ids.len() as u64)
            ));
        }
        let dead = states
            .iter()
            .filter(|state| **state == Some(MarkState::Dead))
            .count();
        if dead > 0 {
            failed = true;
            remark(format_args!(
                "{function}: {} of {} {}; see `oncue dlq ls`",
                number(dead as u64),
                number(ids.len() as u64),
                paint(BAD, "dead-lettered")
            ));
        }
    }
    if failed {
        return Ok(exit::FAILED);
    }
    let names = functions.join(", ");
    remark(paint(DIM, format_args!("handled by {names}")));
    Ok(exit::OK)
}

/// Waits until no consumer that filters the type has anything at or before `ack` left to do. Returns the names of the
/// functions that act on it.
async fn wait(
    bus: &Bus,
    ty: &str,
    ack: &PubAck,
    seconds: u64,
    deadline: Instant,
) -> Result<Vec<String>, Failure> {
    loop {
        let consumers = bus.function_consumers(&ack.stream).await;
        let consumers = consumers.map_err(Failure::silent)?;
        let acting = consumers.iter().filter(|consumer| acts_on(consumer, ty));
        let behind: Vec<String> = acting
            .clone()
            .filter(|consumer| !consumer.is_past(ack.sequence))
            .map(|consumer| {
                let paused = if consumer.paused {
                    " (it is paused)"
                } else {
                    ""
                };
                format!("{}{paused}", consumer.name)
            })
            .collect();
        if behind.is_empty() {
            return Ok(acting.map(|consumer| consumer.name.clone()).collect());
        }
        if Instant::now() > deadline {
            let what = format!(
                "published, but not handled within {seconds}s by {}",
                behind.join(", ")
            );
            return Err(
                Failure::new(exit::SILENT, what).advise("see `oncue ps` and `oncue dlq ls`")
            );
        }
        tokio::time::sleep(CONSUMER_POLL_INTERVAL).await;
    }
}

/// Ledgers of the flows that events have begun.
struct Flows<'f> {
    bus: &'f Bus,
    store: &'f Store,
}

impl Flows<'_> {
    /// Waits until every flow that has a ledger is over, and says how those ended that have failed.
    async fn over(&self, ids: &[String], seconds: u64, deadline: Instant) -> Result<u8, Failure> {
        let mut open = ids.to_vec();
        let mut code = exit::OK;
        loop {
            let flows = self.store.flows(&open).await.map_err(Failure::silent)?;
            let mut waiting = Vec::new();
            for flow in flows.into_iter().flatten() {
                let settled = agreement::with_lost_steps(self.bus, self.store, flow).await;
                let flow = settled.map_err(Failure::silent)?;
                if flow.open > 0 {
                    waiting.push(flow);
                } else if flow.status() != "complete" {
                    code = exit::FAILED;
                    let ended = paint(BAD, flow.status());
                    remark(format_args!(
                        "flow {0}: {ended}; see `oncue flow {0}`",
                        flow.id
                    ));
                }
            }
            let Some(first) = waiting.first() else {
                return Ok(code);
            };
            if Instant::now() > deadline {
                let hold = Hold::of(first, self.bus).await;
                let hold = hold.map_err(Failure::silent)?;
                let waits = tree::waits(first, hold.as_ref(), event::now_ms());
                let what = format!(
                    "published, but {} flows are not over within {seconds}s; {} {}",
                    waiting.len(),
                    first.id,
                    waits.unwrap_or_default()
                );
                let advice = format!("see `oncue flow {}`", first.id);
                return Err(Failure::new(exit::SILENT, what).advise(advice));
            }
            open = waiting.into_iter().map(|flow| flow.id).collect();
            tokio::time::sleep(CONSUMER_POLL_INTERVAL).await;
        }
    }
}

/// Whether the consumer takes events of the type.
fn acts_on(consumer: &ConsumerInfo, ty: &str) -> bool {
    consumer.config.filters().any(|filter| filter == ty)
}

#[cfg(test)]
mod tests {
    use oncue_proto::Catalog;

    use super::*;

    fn catalog() -> Catalog {
        Catalog::builtin()
            .with(oncue_app_events::DESCRIPTORS)
            .unwrap()
    }

    fn viewed() -> Entry {
        catalog().get("web.page.viewed").unwrap().clone()
    }

    #[test]
    fn a_mistyped_field_is_refused_with_the_ones_there_are() {
        let refused = checked(&viewed(), r#"{"page":"/","vistor":"v1"}"#, Some(3)).unwrap_err();
        assert_eq!(refused.code, exit::USAGE);
        assert_eq!(
            refused.what,
            r#"line 3: web.PageViewed has no field "vistor"; it has page, visitor, referrer, at"#
        );
        assert!(checked(&viewed(), r#"{"page":"/","visitor":"v1"}"#, None).is_ok());
        assert!(
            checked(&viewed(), r#"{"visitor":"v1"}"#, None)
                .unwrap_err()
                .what
                .contains("key")
        );
        assert!(
            checked(&viewed(), "[1]", None)
                .unwrap_err()
                .what
                .contains("object")
        );
    }

    #[test]
    fn numbers_that_no_clock_can_count_are_refused() {
        assert_eq!((rate("0.001"), rate("1000")), (Ok(0.001), Ok(1000.0)));
        for refused in ["0", "-1", "1e-20", "nan", "inf", "fast"] {
            assert!(rate(refused).is_err(), "{refused}");
        }
        assert_eq!((seconds("0"), seconds("86400")), (Ok(0), Ok(86_400)));
        for refused in ["86401", "18446744073709551615", "1.5", "-1"] {
            assert!(seconds(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn lines_are_named_by_their_ranges() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1 to 3, 7, 9 to 10");
    }

    #[test]
    fn both_spellings_of_a_field_are_known() {
        let made = catalog().get("files.thumbnail.made").unwrap().clone();
        assert!(checked(&made, r#"{"file":"f","media_type":"image/png"}"#, None).is_ok());
        assert!(checked(&made, r#"{"file":"f","mediaType":"image/png"}"#, None).is_ok());
    }

    #[test]
    fn a_consumer_is_past_an_event_when_acked_or_idle() {
        let consumer = |info| serde_json::from_value::<ConsumerInfo>(info).unwrap();
        let info = |floor: u64, pending: u64| {
            consumer(
                json!({ "ack_floor": { "stream_seq": floor }, "num_pending": pending, "num_ack_pending": 0 }),
            )
        };
        assert!(info(5, 3).is_past(5) && info(2, 0).is_past(5) && !info(2, 1).is_past(5));
        let one = |config| acts_on(&consumer(json!({ "config": config })), "a.b.c");
        assert!(one(json!({ "filter_subjects": ["a.b.c", "a.b.c.*"] })));
        assert!(!one(json!({ "filter_subject": "a.b.d" })));
    }
}
