//! `oncue pub TYPE JSON`: events made by hand or from lines, checked against the contract before anything is sent.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::{Bus, PubAck};
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_proto::{Entry, Format};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::exit::{self, Failure};
use crate::paint::{DIM, NAME, number, paint, remark, say};
use crate::settings::Settings;

/// Publishes under way at a time: enough to hide the round trip, few enough to stop soon.
const AT_ONCE: usize = 256;
/// Above this, a line for each event would hide what matters.
const MANY: u64 = 20;

#[derive(clap::Args)]
pub struct Args {
    /// Event type, such as web.page.viewed.
    #[arg(value_name = "TYPE")]
    ty: String,
    /// The payload as JSON. `-`, or nothing on a pipe: one JSON object per line from stdin.
    #[arg(value_name = "JSON")]
    payload: Option<String>,
    /// Publish it this many times, as so many events.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
    /// Publish at most this many a second.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Event id. Default: a new one. An id that was published before is the same event and counts once.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Wait until every function that acts on the event has finished it, for at most this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
    /// Keep the payload as JSON. Default: protobuf.
    #[arg(long)]
    json_payload: bool,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

/// An event ready to go.
struct Ready {
    id: String,
    envelope: Envelope,
    trace: String,
}

struct Sent {
    id: String,
    trace: String,
    ack: PubAck,
}

pub async fn run(args: Args, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let entry = catalog.get(&args.ty).map_err(Failure::usage)?.clone();
    if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        return Err(Failure::usage(
            "--rate is a number of events per second above zero",
        ));
    }
    let from_stdin = match args.payload.as_deref() {
        Some("-") => true,
        None if !std::io::stdin().is_terminal() => true,
        None => return Err(Failure::usage("no payload").advise(example(&entry))),
        Some(_) => false,
    };
    if from_stdin && (args.id.is_some() || args.count != 1) {
        return Err(Failure::usage(
            "--id and --count go with one payload, not with lines from stdin",
        ));
    }
    // The one payload is checked before NATS is even looked for.
    let payload = if from_stdin {
        None
    } else {
        Some(checked(
            &entry,
            args.payload.as_deref().unwrap_or_default(),
            None,
        )?)
    };
    let bus = settings.bus().await?;
    let (last, total) = send_all(&args, &entry, payload, &bus).await?;
    if let (Some(seconds), Some(last)) = (args.wait, last) {
        wait(&bus, &args.ty, &last, Duration::from_secs(seconds)).await?;
        remark(paint(
            DIM,
            format_args!("handled by every function that acts on {}", args.ty),
        ));
    }
    if total == 0 {
        remark("nothing to publish: stdin was empty");
    }
    Ok(exit::OK)
}

/// Publishes with many under way, prints as acks come, and stops at the first refusal. Returns the last place taken.
async fn send_all(
    args: &Args,
    entry: &Entry,
    payload: Option<Value>,
    bus: &Bus,
) -> Result<(Option<PubAck>, u64), Failure> {
    let started = Instant::now();
    let one_line = args.json || payload.is_none() || args.count <= MANY;
    let events = match payload {
        Some(payload) => stream::iter(0..args.count)
            .map(move |_| Ok(payload.clone()))
            .boxed_local(),
        None => lines(entry).boxed_local(),
    };
    let publish = async |(nth, payload): (usize, Result<Value, Failure>)| {
        if let Some(rate) = args.rate {
            tokio::time::sleep_until((started + Duration::from_secs_f64(nth as f64 / rate)).into())
                .await;
        }
        let Ready {
            id,
            envelope,
            trace,
        } = ready(args, entry, &payload?)?;
        let ack = bus
            .publish(&envelope)
            .await
            .map_err(|e| Failure::failed(format_args!("event {id}: {e}")))?;
        Ok::<_, Failure>(Sent { id, trace, ack })
    };
    let mut acks = events.enumerate().map(publish).buffered(AT_ONCE);
    let (mut last, mut total, mut shown) = (None::<PubAck>, 0, Instant::now());
    while let Some(sent) = acks.next().await {
        let sent = sent.map_err(|f| {
            if total > 0 {
                f.advise(format!("published before it: {}", number(total)))
            } else {
                f
            }
        })?;
        total += 1;
        if one_line {
            say(line(args, &sent));
        } else if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            remark(progress(total, started.elapsed()));
        }
        last = last
            .filter(|last| last.sequence > sent.ack.sequence)
            .or(Some(sent.ack));
    }
    if !one_line {
        say(progress(total, started.elapsed()));
    }
    Ok((last, total))
}

fn progress(total: u64, elapsed: Duration) -> String {
    let rate = total as f64 / elapsed.as_secs_f64().max(0.001);
    format!("{} published, {}/s", number(total), number(rate as u64))
}

fn line(args: &Args, Sent { id, trace, ack }: &Sent) -> String {
    if args.json {
        let (stream, seq, duplicate) = (&ack.stream, ack.sequence, ack.duplicate);
        return json!({ "id": id, "flow": id, "trace": trace, "stream": stream, "seq": seq, "duplicate": duplicate })
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

/// Lines as they come: a pipe that trickles is published as it trickles, so reading has a thread of its own.
fn lines(entry: &Entry) -> impl Stream<Item = Result<Value, Failure>> {
    let (read, lines) = mpsc::channel(AT_ONCE);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().zip(1..);
        lines
            .take_while(|line| {
                read.blocking_send((
                    line.1,
                    line.0
                        .as_ref()
                        .map(String::clone)
                        .map_err(ToString::to_string),
                ))
                .is_ok()
            })
            .count()
    });
    let lines = stream::unfold(lines, async |mut lines| {
        lines.recv().await.map(|line| (line, lines))
    });
    let full = lines
        .filter(|(_, line)| std::future::ready(!line.as_ref().is_ok_and(|l| l.trim().is_empty())));
    full.map(move |(at, line)| {
        checked(
            entry,
            &line.map_err(|e| Failure::failed(format_args!("stdin: {e}")))?,
            Some(at),
        )
    })
}

/// The payload as JSON, if the contract takes it. A field the contract does not know is most likely a slip of the
/// hand, and a decoder would drop it in silence.
fn checked(entry: &Entry, text: &str, line: Option<usize>) -> Result<Value, Failure> {
    let place = line.map_or_else(String::new, |n| format!("line {n}: "));
    let refuse = |why: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{place}{why}")).advise(example(entry))
    };
    let value: Value =
        serde_json::from_str(text).map_err(|e| refuse(&format_args!("not JSON: {e}")))?;
    let given = value
        .as_object()
        .ok_or_else(|| refuse(&"the payload is a JSON object"))?;
    entry
        .check(Format::Json, text.as_bytes())
        .map_err(|e| refuse(&e))?;
    let fields: Vec<String> = entry.field_names().collect();
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let unknown = given
        .keys()
        .find(|name| !fields.iter().any(|field| plain(field) == plain(name)));
    match unknown {
        None => Ok(value),
        Some(name) => Err(refuse(&format_args!(
            "{} has no field {name:?}; it has {}",
            entry.schema(),
            fields.join(", ")
        ))),
    }
}

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

fn ready(args: &Args, entry: &Entry, payload: &Value) -> Result<Ready, Failure> {
    let text = payload.to_string();
    let id = match &args.id {
        Some(id) => event::check_id(id.clone()).map_err(|e| Failure::usage(e.message))?,
        None => event::new_id(),
    };
    let (format, bytes) = if args.json_payload {
        (Format::Json, text.into_bytes())
    } else {
        (
            Format::Protobuf,
            entry
                .to_protobuf(Format::Json, text.as_bytes())
                .map_err(Failure::usage)?,
        )
    };
    let key = entry.check(format, &bytes).map_err(Failure::usage)?;
    // Continues the caller's trace, if there is one. Otherwise workers derive the trace from the flow, and so do we:
    // the id printed here is the one to look for.
    let given = std::env::var("TRACEPARENT").ok().filter(|t| !t.is_empty());
    let derived = Some(event::untraced(&id));
    let trace = given
        .clone()
        .or(derived)
        .and_then(|parent| parent.split('-').nth(1).map(str::to_owned))
        .unwrap_or_default();
    let meta = Meta {
        id: id.clone(),
        source: "/oncue/cli".into(),
        ty: args.ty.clone(),
        time: event::now_ms(),
        // A second run under the same id is the same event, so the stream's time has to do.
        timed: args.id.is_none(),
        flow: id.clone(),
        cause: String::new(),
        hops: 0,
        traceparent: given,
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    };
    let headers = event::headers(&meta, &key, format)
        .into_iter()
        .map(|(name, value)| Header {
            name: name.to_owned(),
            value,
        })
        .collect();
    let envelope = Envelope {
        subject: event::subject(&args.ty, &key),
        headers,
        payload: bytes.into(),
    };
    Ok(Ready {
        id,
        envelope,
        trace,
    })
}

/// Until no consumer that filters the type has anything at or before `ack` left to do.
async fn wait(bus: &Bus, ty: &str, ack: &PubAck, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let consumers = bus.consumers(&ack.stream).await.map_err(Failure::silent)?;
        let behind: Vec<&str> = consumers
            .iter()
            .filter(|consumer| acts_on(consumer, ty) && !consumer.is_past(ack.sequence))
            .map(|consumer| consumer.name.as_str())
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let what = format!(
                "published, but not handled within {patience:?} by {}",
                behind.join(", ")
            );
            return Err(
                Failure::new(exit::SILENT, what).advise("see `oncue ps` and `oncue dlq ls`")
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn acts_on(consumer: &ConsumerInfo, ty: &str) -> bool {
    let config = &consumer.config;
    config.durable_name.is_some() && config.filters().any(|filter| filter == ty)
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
        assert!(one(
            json!({ "durable_name": "f", "filter_subjects": ["a.b.c", "a.b.c.*"] })
        ));
        assert!(
            !one(json!({ "filter_subject": "a.b.c" })),
            "an ephemeral one is somebody watching"
        );
    }
}
